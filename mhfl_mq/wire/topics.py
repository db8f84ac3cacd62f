"""The topic tree: builds and reads every topic, and says who subscribes to what.

    {root}/v1/{fed}/srv/state           aggregator's Presence, retained, its last will
    {root}/v1/{fed}/srv/head            Head, retained
    {root}/v1/{fed}/srv/round           Close
    {root}/v1/{fed}/seg/{k}/man         ManifestNote of segment k, retained
    {root}/v1/{fed}/seg/{k}/c           carousel: chunks of segment k, broadcast once
    {root}/v1/{fed}/d/{dev}/status      device's Presence, retained, its last will
    {root}/v1/{fed}/d/{dev}/in/cmd      aggregator -> device: messages
    {root}/v1/{fed}/d/{dev}/in/chunk    aggregator -> device: chunks for repair
    {root}/v1/{fed}/d/{dev}/out/evt     device -> aggregator: messages
    {root}/v1/{fed}/d/{dev}/out/pull    device -> aggregator: Pull of segments
    {root}/v1/{fed}/d/{dev}/out/chunk   device -> aggregator: chunks of its update

The root has one or two levels, so a topic has at most 7 slashes (AWS IoT Core takes no more). The device id is a
level of its own: the broker's ACL binds it to the credentials, so the id in a topic IS the identity.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mhfl_mq.errors import LocalMisuse, PeerFault
from mhfl_mq.wire.bounds import MAX_SEGMENTS

__all__ = ["DEFAULT_ROOT", "TREE_VERSION", "Place", "Topics", "What", "check_id", "is_id"]

DEFAULT_ROOT: Final = "mhfl"
TREE_VERSION: Final = "v1"
"""Level of the tree's version: another tree lives beside this one, and neither reads the other."""
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # NATS refuses a space, RabbitMQ turns "." into "/"
_SEGMENT: Final = re.compile(r"0|[1-9][0-9]?")
_MAX_TOPIC: Final = 8 * 65  # characters: more cannot be one of ours, so it is not split


class What(Enum):
    """What a topic carries; the value is its tail in the tree."""

    STATE = "srv/state"
    HEAD = "srv/head"
    ROUND = "srv/round"
    MANIFEST = "seg/+/man"
    CAROUSEL = "seg/+/c"
    STATUS = "d/+/status"
    COMMAND = "d/+/in/cmd"
    REPAIR = "d/+/in/chunk"
    EVENT = "d/+/out/evt"
    PULL = "d/+/out/pull"
    UPLOAD = "d/+/out/chunk"


_WHATS: Final = {one.value: one for one in What}


@dataclass(frozen=True, slots=True)
class Place:
    """A topic that was read: what it carries, and the segment or the device that it belongs to."""

    what: What
    segment: int = -1  # of MANIFEST and CAROUSEL
    device: str = ""  # of all that have a device


def is_id(text: str) -> bool:
    """Whether `text` can be a level of a topic of ours: 1 to 64 of A-Z a-z 0-9 _ -"""
    return _ID.fullmatch(text) is not None


def check_id(text: str, where: str) -> str:
    """`text`, or `LocalMisuse` naming `where` it was found."""
    if not is_id(text):
        raise LocalMisuse(f"{text!r} is not an id", where=where, remedy="use 1 to 64 of A-Z a-z 0-9 _ -")
    return text


class Topics:
    """The tree of one federation. Raises `LocalMisuse` for a root, a federation or an id that cannot be a level."""

    def __init__(self, federation: str, root: str = DEFAULT_ROOT) -> None:
        levels = root.split("/")
        if not 1 <= len(levels) <= 2:
            raise LocalMisuse(f"root {root!r} has {len(levels)} levels", remedy="use one or two, such as acme/tokyo")
        for level in levels:
            check_id(level, f"root {root!r}")
        self.root = root
        self.federation = check_id(federation, "federation")
        self.prefix = f"{root}/{TREE_VERSION}/{federation}/"
        self.state = self.prefix + What.STATE.value
        self.head = self.prefix + What.HEAD.value
        self.round = self.prefix + What.ROUND.value

    def __repr__(self) -> str:
        return f"Topics({self.federation!r}, {self.root!r})"

    # ---- build ----

    def manifest(self, segment: int) -> str:
        """Retained `ManifestNote` of a segment."""
        return self._segment(segment, "man")

    def carousel(self, segment: int) -> str:
        """Broadcast chunks of a segment."""
        return self._segment(segment, "c")

    def status(self, device: str) -> str:
        """Retained `Presence` of a device, and its last will."""
        return self._device(device, "status")

    def command(self, device: str) -> str:
        """Messages to a device."""
        return self._device(device, "in/cmd")

    def repair(self, device: str) -> str:
        """Chunks to a device, that it pulled."""
        return self._device(device, "in/chunk")

    def event(self, device: str) -> str:
        """Messages of a device."""
        return self._device(device, "out/evt")

    def pull(self, device: str) -> str:
        """`Pull` of segments by a device."""
        return self._device(device, "out/pull")

    def upload(self, device: str) -> str:
        """Chunks of a device's update, that the aggregator pulled."""
        return self._device(device, "out/chunk")

    def _segment(self, segment: int, tail: str) -> str:
        if not 0 <= segment < MAX_SEGMENTS:
            raise LocalMisuse(f"segment {segment}", remedy=f"a federation has at most {MAX_SEGMENTS}, numbered from 0")
        return f"{self.prefix}seg/{segment}/{tail}"

    def _device(self, device: str, tail: str) -> str:
        return f"{self.prefix}d/{check_id(device, 'device')}/{tail}"

    # ---- read ----

    def parse(self, topic: str) -> Place:
        """What a topic is; raises `PeerFault` for one that is not of this tree."""
        if len(topic) <= _MAX_TOPIC and topic.startswith(self.prefix):
            levels = topic[len(self.prefix) :].split("/")
            owner = levels[1] if len(levels) > 2 else ""
            if owner:
                levels[1] = "+"
            what = _WHATS.get("/".join(levels))
            if what is not None:
                if not owner:
                    return Place(what)
                if what in (What.MANIFEST, What.CAROUSEL):
                    if _SEGMENT.fullmatch(owner) and int(owner) < MAX_SEGMENTS:
                        return Place(what, segment=int(owner))
                elif is_id(owner):
                    return Place(what, device=owner)
        raise PeerFault(f"not a topic of {self.prefix}", where=ascii(topic[:100]))

    # ---- subscribe ----

    def aggregator_filters(self) -> list[tuple[str, int]]:
        """(filter, QoS) of the aggregator: every device's presence, and all that devices send."""
        return [(f"{self.prefix}d/+/status", 1), (f"{self.prefix}d/+/out/+", 1)]

    def device_filters(self, device: str) -> list[tuple[str, int]]:
        """(filter, QoS) of a device before it has a tier: exact names, since RabbitMQ retains only for those."""
        return [
            (self.state, 1),
            (self.head, 1),
            (self.round, 1),
            (self.command(device), 1),
            (self.repair(device), 1),
        ]

    def tier_filters(self, segments: Iterable[int]) -> list[tuple[str, int]]:
        """(filter, QoS) that a device whose tier holds these segments adds: their manifests, and carousels.

        Carousels are of QoS 0: what is lost is pulled.
        """
        held = tuple(segments)
        return [(self.manifest(k), 1) for k in held] + [(self.carousel(k), 0) for k in held]

    # ---- access control ----

    def acl_lines(self, aggregator: str) -> list[str]:
        """A mosquitto ACL file for this federation; a device's user name (certificate CN) is its device id."""
        check_id(aggregator, "aggregator's user name")
        return [
            f"user {aggregator}",
            f"topic readwrite {self.prefix}#",
            "",
            f"pattern read {self.prefix}srv/#",
            f"pattern read {self.prefix}seg/#",
            f"pattern read {self.prefix}d/%u/in/#",
            f"pattern write {self.prefix}d/%u/out/#",
            f"pattern write {self.prefix}d/%u/status",
        ]
