"""What a test of the machines needs around them: rules, a decider, and a disk with the rules of the real store."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

from mhfl_mq.protocol.records import (
    Change,
    DeviceSaved,
    Entry,
    EpochStarted,
    OpenRound,
    PastSaved,
    RoundClosed,
    RoundOpened,
    SavedState,
    UpdateCounted,
    UploadSaved,
    VersionAdded,
)
from mhfl_mq.protocol.rules import Asked, Candidate, Decision, May, Opening, Rules, Upload
from mhfl_mq.wire.messages import Capability, Manifest, TierSpec

__all__ = ["LAYOUT", "Disk", "Everybody", "digest", "example_rules", "manifest_of"]


def digest(text: str) -> str:
    """A digest that stands for some content."""
    return sha256(text.encode()).hexdigest()


LAYOUT: Final = digest("layout")


def manifest_of(text: str, size: int) -> Manifest:
    """A manifest that stands for some blob of that size."""
    return Manifest(digest(text), size, 1024, b"\x00" * 16 * (-(-size // 1024)))


def example_rules(**changes: object) -> Rules:
    """Two tiers, two devices make a quorum, a minute for a round."""
    rules = Rules(
        task="wind",
        agent="mhfl-mq/test",
        layout=LAYOUT,
        tiers=(TierSpec("small", 0.5, 0, 10), TierSpec("large", 1.0, 0, 20)),
        algorithm="heterofl",
        policy=digest("policy"),
        quorum_min=2,
        deadline_s=60.0,
        max_devices=10,
        max_update_bytes=1000,
        max_weight=100.0,
        batch=8,
        options={"steps": 4.0},
        stages=("clip",),
    )
    return replace(rules, **changes)  # type: ignore[arg-type]  # a test names fields that exist


class Everybody:
    """A decider: whoever is there is invited, `needed` of them must be counted; tiers and the gate are settable."""

    def __init__(self, needed: int = 1) -> None:
        self.quorum = needed
        self.tier: int | None = 1
        self.open_gate = True
        self.alarms: tuple[str, ...] = ()
        self.use: tuple[int, ...] = ()
        self.pause = 10.0
        self.rule: Callable[[Asked, int, float], May] = lambda _asked, _rounds, _now: May()
        self.schedule: Callable[[float, float | None], Opening] = lambda _now, _committed_at: Opening(True)

    def assign(self, capability: Capability) -> Decision:
        """The same tier for everybody who can run it."""
        able = self.tier is not None and len(capability.probes) > self.tier
        return Decision(able, ("fits",) if able else ("no tier fits", "too slow"), self.tier if able else None)

    def opening(self, now: float, committed_at: float | None) -> Opening:
        """As it is set."""
        return self.schedule(now, committed_at)

    selective = True

    def pause_s(self, last_round: int) -> float:
        """As it is set."""
        return self.pause

    def may(self, asked: Asked, rounds: int, now: float) -> May:
        """As it is set."""
        return self.rule(asked, rounds, now)

    def invite(self, candidates: tuple[Candidate, ...], present: int) -> tuple[str, ...]:
        """Everybody."""
        return tuple(device for device, _, _ in candidates)

    def needed(self, invited: int) -> int:
        """A fixed number, at most all."""
        return min(self.quorum, invited)

    def upload(self, tier: int, link_bytes_s: float, change: float | None) -> Upload:
        """As it is, in every round."""
        return Upload()

    def weight(self, examples: float) -> float:
        """Its examples."""
        return examples

    def best(self, metrics: Mapping[str, float]) -> tuple[int, ...]:
        """As it is set."""
        return self.use

    def gate(self, new: Mapping[str, float], head: Mapping[str, float]) -> Decision:
        """As it is set."""
        return Decision(self.open_gate, ("good",) if self.open_gate else ("worse",), alarms=self.alarms)


class Disk:
    """The aggregator's durable state, with the rules that the real store keeps."""

    def __init__(self) -> None:
        first = VersionAdded(0, None, digest("model 0"), LAYOUT, "initial", None, {}, "")
        self.epoch = 0
        self.versions = [first]
        self.devices: dict[str, DeviceSaved] = {}
        self.rounds: dict[int, RoundOpened] = {}
        self.opened_at: dict[int, float] = {}
        self.counted: dict[tuple[int, str], UpdateCounted] = {}
        self.closed: dict[int, RoundClosed] = {}
        self.ledger: list[Entry] = []

    def apply(self, changes: Sequence[Change], entries: Sequence[Entry], now: float = 0.0) -> None:
        """Make changes durable at this time (seconds); asserts what the store would refuse."""
        for change in changes:
            match change:
                case EpochStarted(epoch):
                    assert epoch > self.epoch
                    self.epoch = epoch
                case DeviceSaved(device):
                    self.devices[device] = change
                case RoundOpened(number):
                    assert number > self.last_round, "a round number is used again"
                    assert self.rounds.keys() == self.closed.keys(), "two rounds are open"
                    self.rounds[number] = change
                    self.opened_at[number] = now
                case UpdateCounted(number, device):
                    assert number not in self.closed
                    assert (number, device) not in self.counted, "an update is counted twice"
                    assert device in dict(self.rounds[number].cohort)
                    self.counted[number, device] = change
                case RoundClosed(number):
                    assert number in self.rounds
                    assert number not in self.closed
                    self.closed[number] = change
                case VersionAdded(version, parent):
                    assert (version, parent) == (self.head.version + 1, self.head.version)
                    self.versions.append(change)
        self.ledger += entries

    @property
    def head(self) -> VersionAdded:
        """The newest version."""
        return self.versions[-1]

    @property
    def last_round(self) -> int:
        """The largest number that was used."""
        return max(self.rounds, default=0)

    def counted_in(self, number: int) -> dict[str, UpdateCounted]:
        """The updates of a round, by device."""
        return {device: one for (where, device), one in self.counted.items() if where == number}

    def restore(self) -> SavedState:
        """What a restarted aggregator is given."""
        still = [number for number in self.rounds if number not in self.closed]
        newest = {device: one for (_, device), one in sorted(self.counted.items())}
        return SavedState(
            epoch=self.epoch,
            last_round=self.last_round,
            rounds_opened=len(self.rounds),
            head=self.head,
            devices=tuple(self.devices.values()),
            open_round=None
            if not still
            else OpenRound(self.rounds[still[0]], tuple(self.counted_in(still[0]).values()), self.opened_at[still[0]]),
            last_closed=self.closed.get(self.last_round),
            rounds_counted=Counter(device for _, device in self.counted),
            latest=tuple(newest[device] for device in sorted(newest)),
            committed_at=max(
                (self.opened_at[number] for number, one in self.closed.items() if one.version is not None),
                default=None,
            ),
            pasts=self._pasts(),
            turns=Counter(device for closed in self.closed.values() for device in closed.turns),
        )

    def _pasts(self) -> dict[str, PastSaved]:
        pasts: dict[str, PastSaved] = {}
        for number, closed in sorted(self.closed.items()):
            for device in closed.turns:
                before, update = pasts.get(device, PastSaved()), self.counted.get((number, device))
                new = () if update is None else (UploadSaved(self.opened_at[number], update.size, 0.0),)
                missed = before.missed + 1 if update is None else 0
                pasts[device] = PastSaved(self.opened_at[number], missed, (*before.uploads, *new))
        return pasts

    def kinds(self) -> list[str]:
        """The ledger, entry by entry, as kinds."""
        return [entry.kind for entry in self.ledger]
