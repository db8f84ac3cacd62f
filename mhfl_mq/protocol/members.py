"""Who belongs to the federation and who is there now: presence, sessions, capabilities.

A session number grows with every life of a device. A last will is the broker's word for the end of a connection, and
it may come late: that of an older session is not heard. Within a session the last word holds. A device that lost its
folder counts from 1 again; its hello is believed, whatever its number.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Final

from mhfl_mq.protocol.records import DeviceSaved, PastSaved, UpdateCounted
from mhfl_mq.protocol.rules import Candidate
from mhfl_mq.wire.messages import Capability, Facts, Hello, Presence

__all__ = ["Link", "Member", "Members"]

_NOTHING_YET: Final = PastSaved()


class Link(Enum):
    """Whether a device is there, as far as is known."""

    UNSEEN = "unseen"  # known from an earlier life of ours, not heard in this one
    ONLINE = "online"
    GONE = "gone"


@dataclass(slots=True)
class Member:
    """A device that was measured at least once."""

    saved: DeviceSaved
    session: int
    link: Link = Link.UNSEEN

    @property
    def capability(self) -> Capability:
        """What it said it can carry, when last measured."""
        saved = self.saved
        return Capability(saved.session, saved.layout, saved.examples, saved.link_bytes_s, saved.probes)


class Members:
    """The devices of a federation, at most `limit`."""

    def __init__(
        self,
        saved: Iterable[DeviceSaved],
        turns: Mapping[str, int],
        limit: int,
        pasts: Mapping[str, PastSaved] = MappingProxyType({}),
    ) -> None:
        self._members = {one.device: Member(one, one.session) for one in saved}
        self._turns = dict(turns)
        self._pasts = dict(pasts)
        self._said: dict[str, tuple[Facts, float]] = {}
        self._limit = limit

    def get(self, device: str) -> Member | None:
        """A device that was measured; None for others."""
        return self._members.get(device)

    def roll(self) -> tuple[Member, ...]:
        """Everybody who was measured, by name."""
        return tuple(member for _, member in sorted(self._members.items()))

    def has_room(self, device: str) -> bool:
        """Whether this device is one of us, or may become one."""
        return device in self._members or len(self._members) < self._limit

    def presence(self, device: str, presence: Presence) -> None:
        """A birth, or a last will of the session that we know. Who was never measured is not followed."""
        member = self._members.get(device)
        if member is None or presence.session < member.session:
            return
        member.session = presence.session
        member.link = Link.ONLINE if presence.online else Link.GONE

    def hello(self, device: str, hello: Hello) -> None:
        """A device that was measured before is there (again)."""
        member = self._members[device]
        member.session, member.link = hello.session, Link.ONLINE

    def measured(self, saved: DeviceSaved) -> None:
        """A device said what it can carry, and this is what was decided."""
        self._members[saved.device] = Member(saved, saved.session, Link.ONLINE)

    def said(self, device: str) -> tuple[Facts, float] | None:
        """What a device said of itself last, and when."""
        return self._said.get(device)

    def says(self, device: str, facts: Facts, now: float) -> None:
        """A device says what it is; strangers are heard while there is room."""
        if device in self._members or device in self._said or len(self._said) < self._limit:
            self._said[device] = facts, now

    def turns(self, device: str) -> int:
        """In how many rounds it had its turn."""
        return self._turns.get(device, 0)

    def past(self, device: str) -> PastSaved:
        """What a device did so far."""
        return self._pasts.get(device, _NOTHING_YET)

    def had_turns(self, devices: Iterable[str], counted: Iterable[UpdateCounted], began: float, now: float) -> None:
        """A round that began then has ended: these devices had their turn in it, and these updates counted."""
        updates = {one.device: one for one in counted}
        for device in devices:
            self._turns[device] = self._turns.get(device, 0) + 1
            past, update = self.past(device), updates.get(device)
            missed = past.missed + 1 if update is None else 0
            if update is not None:
                past = past.uploaded(now, update.size, update.metrics.get("seconds", 0.0))
            self._pasts[device] = replace(past, turned_at=began, missed=missed)

    def candidates(self, layout: str) -> tuple[Candidate, ...]:
        """Who may be invited now, by name: present, with a tier, of this layout."""
        return tuple(
            (device, member.saved.tier, self._turns.get(device, 0))
            for device, member in sorted(self._members.items())
            if member.link is Link.ONLINE and member.saved.tier is not None and member.saved.layout == layout
        )
