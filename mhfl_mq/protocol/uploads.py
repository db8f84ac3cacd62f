"""How each device sends its updates, decided anew for every round, and which devices are due.

Nothing of it needs to be durable but what an update says of itself: a restarted aggregator decides again from the same
facts, and an update says in its own bytes what it is.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping

from mhfl_mq.protocol.members import Members
from mhfl_mq.protocol.records import UpdateCounted
from mhfl_mq.protocol.rules import Candidate, Decider, Upload

__all__ = ["Uploads"]

CHANGE = "change"
"""The metric in which a device says how large its update was, as a part of its model."""


class Uploads:
    """The uploads of a federation's devices; `latest` is each one's newest counted update."""

    def __init__(self, decider: Decider, members: Members, latest: Iterable[UpdateCounted]) -> None:
        self._decider = decider
        self._members = members
        self._changes: dict[str, float] = {}
        self.counted(latest)

    def under(self, decider: Decider) -> None:
        """Another policy decides from now on."""
        self._decider = decider

    def counted(self, updates: Iterable[UpdateCounted]) -> None:
        """These were counted: a device's next upload may follow from what its last one changed."""
        for one in updates:
            if CHANGE in one.metrics:
                self._changes[one.device] = one.metrics[CHANGE]

    def of(self, cohort: Iterable[tuple[str, int]]) -> Mapping[str, Upload]:
        """How each of these devices, with its tier, is to send."""
        return {device: self._of(device, tier) for device, tier in cohort}

    def most_bytes(self, device: str, tier: int) -> int:
        """Bytes that this device's next update has at most."""
        return self._of(device, tier).most_bytes

    def due(self, candidates: tuple[Candidate, ...], number: int) -> Iterator[tuple[Candidate, ...]]:
        """Those whose turn it is in this round, and then, where they are too few, those whose turn comes next as well.

        Devices that are asked equally rarely do not all come at once.
        """
        waits = [
            -(number + zlib.crc32(device.encode())) % self._of(device, tier).every for device, tier, _ in candidates
        ]
        for longest in sorted(set(waits)):
            yield tuple(one for one, wait in zip(candidates, waits, strict=True) if wait <= longest)

    def _of(self, device: str, tier: int) -> Upload:
        member = self._members.get(device)
        link_bytes_s = 0.0 if member is None else member.saved.link_bytes_s
        return self._decider.upload(tier, link_bytes_s, self._changes.get(device))
