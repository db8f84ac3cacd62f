"""What goes wrong in a simulated federation, as data: a plan says how often, a seed makes a timetable of it.

A plan's numbers are probabilities (per packet, per training) and mean seconds between strikes. All of it stops at
`until_s`; what must hold after that is the simulation's affair (`mhfl_mq.testing.sim`).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from mhfl_mq.transport.memory import Fate, Hop, Kind

__all__ = ["PLANS", "Blow", "FaultPlan", "Network", "Strike", "timetable"]

LATENCY_S: Final = (0.001, 0.02)
"""A plant's network when nothing is wrong: from a switch to a busy Wi-Fi."""
CHUNKS: Final = ("/c", "/chunk")
"""How topics of chunks end: any bit of those may flip, because each chunk is proven by its digest."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """How much goes wrong. A mean of 0 seconds: never."""

    until_s: float = 150.0
    duplicate: float = 0.03
    delay: float = 0.05  # of packets that take up to `delay_s` longer, and all behind them
    delay_s: float = 3.0
    lose: float = 0.1  # of QoS 0 messages
    corrupt: float = 0.003
    cut: float = 0.001
    fail: float = 0.02  # of trainings that end without a result
    slow: float = 0.1  # of trainings that take ten times as long
    crash_device_s: float = 40.0
    crash_aggregator_s: float = 40.0
    wipe_s: float = 0.0  # a device comes back with an empty folder
    sever_s: float = 50.0  # a link is killed, now and then with its session
    broker_s: float = 100.0
    clog_s: float = 120.0  # links stop one by one and are freed in another order
    full_disk_s: float = 0.0
    rollback_s: float = 0.0
    malice_s: float = 0.0
    flood: int = 0  # messages of one burst of the malicious device
    gate_no: float = 0.05
    max_packet: int = 2_000_000


PLANS: Final[Mapping[str, FaultPlan]] = MappingProxyType(
    {
        "calm": FaultPlan(
            duplicate=0,
            delay=0,
            lose=0,
            corrupt=0,
            cut=0,
            fail=0,
            slow=0,
            crash_device_s=0,
            crash_aggregator_s=0,
            sever_s=0,
            broker_s=0,
            clog_s=0,
            gate_no=0,
        ),
        "mixed": FaultPlan(full_disk_s=200, rollback_s=200, malice_s=40, flood=40, wipe_s=150),
        "crashes": FaultPlan(
            duplicate=0.01,
            delay=0.02,
            corrupt=0,
            cut=0,
            crash_device_s=15,
            crash_aggregator_s=12,
            broker_s=0,
            clog_s=0,
            full_disk_s=90,
        ),
        "network": FaultPlan(
            duplicate=0.1,
            delay=0.03,
            delay_s=4,
            lose=0.3,
            corrupt=0.01,
            cut=0.003,
            crash_device_s=0,
            crash_aggregator_s=0,
            sever_s=25,
            broker_s=60,
            clog_s=90,
        ),
        "malice": FaultPlan(malice_s=6, flood=200, crash_device_s=0, crash_aggregator_s=120, max_packet=8192),
        "stragglers": FaultPlan(slow=0.4, delay=0.02, delay_s=15, crash_device_s=40, rollback_s=120, gate_no=0.2),
    }
)
"""By name, for `mhfl simulate --plan`."""


class Blow(Enum):
    """One thing that happens at one instant."""

    CRASH = "crash"  # the node dies wherever it is
    CRASH_AT_EFFECT = "crash at effect"  # before its nth effect from now
    CRASH_AT_WRITE = "crash at write"  # in its nth write to the disk from now
    CRASH_IN_MERGE = "crash in merge"  # while the aggregator merges next
    FULL_DISK = "full disk"  # its nth write from now finds no room
    WIPE = "wipe"  # the node dies, and its folder is lost
    SEVER = "sever"  # its connection breaks
    BROKER = "broker"  # the broker dies and returns
    CLOG = "clog"  # nothing gets through for a while
    ROLLBACK = "rollback"
    MALICE = "malice"


@dataclass(frozen=True, slots=True)
class Strike:
    """A blow, when and whom; `lasts_s` is how long the victim stays away or clogged, `nth` as the blow says."""

    at: float
    blow: Blow
    victim: str = ""
    lasts_s: float = 0.0
    nth: int = 0
    forgets: tuple[bool, bool] = (False, False)  # the broker: retained messages, sessions


def timetable(plan: FaultPlan, luck: random.Random, aggregator: str, devices: Sequence[str]) -> tuple[Strike, ...]:
    """The strikes of one run, in order."""
    strikes: list[Strike] = []

    def often(mean_s: float, make: Callable[[float], None]) -> None:
        at = luck.expovariate(1.0 / mean_s) if mean_s else plan.until_s
        while at < plan.until_s:
            make(at)
            at += luck.expovariate(1.0 / mean_s)

    def crash(at: float, victim: str) -> None:
        blow = luck.choice((Blow.CRASH, Blow.CRASH_AT_EFFECT, Blow.CRASH_AT_EFFECT, Blow.CRASH_AT_WRITE))
        if victim == aggregator and luck.random() < 0.2:
            blow = Blow.CRASH_IN_MERGE
        away = luck.choice((0.1, 2.0, 20.0)) * luck.uniform(0.5, 1.5)
        strikes.append(Strike(at, blow, victim, away, luck.randrange(12)))

    def clog(at: float) -> None:
        victims = luck.sample([aggregator, *devices], k=luck.randint(1, 1 + len(devices) // 2))
        for victim in victims:
            at += luck.uniform(0.0, 2.0)
            strikes.append(Strike(at, Blow.CLOG, victim, luck.uniform(2.0, 25.0)))

    everybody = [aggregator, *devices]
    often(plan.crash_device_s, lambda at: crash(at, luck.choice(list(devices))))
    often(plan.crash_aggregator_s, lambda at: crash(at, aggregator))
    often(
        plan.wipe_s, lambda at: strikes.append(Strike(at, Blow.WIPE, luck.choice(list(devices)), luck.uniform(0.1, 5)))
    )
    often(plan.sever_s, lambda at: strikes.append(Strike(at, Blow.SEVER, luck.choice(everybody))))
    often(
        plan.broker_s,
        lambda at: strikes.append(
            Strike(
                at, Blow.BROKER, "broker", luck.uniform(0.2, 15.0), forgets=(luck.random() < 0.4, luck.random() < 0.4)
            )
        ),
    )
    often(plan.clog_s, clog)
    often(
        plan.full_disk_s,
        lambda at: strikes.append(Strike(at, Blow.FULL_DISK, aggregator, luck.uniform(1, 10), luck.randrange(8))),
    )
    often(plan.rollback_s, lambda at: strikes.append(Strike(at, Blow.ROLLBACK, aggregator)))
    often(plan.malice_s, lambda at: strikes.append(Strike(at, Blow.MALICE, "mallory", nth=plan.flood)))
    return tuple(sorted(strikes, key=lambda one: one.at))


@dataclass(slots=True)
class Network:
    """`Faults` of the broker in memory, drawn packet by packet; `calm()` when the faults stop."""

    plan: FaultPlan
    luck: random.Random
    now: Callable[[], float]
    note: Callable[[str], None]
    _on: bool = True
    _clogged: dict[str, float] = field(default_factory=dict)  # client id -> until when

    def clog(self, client_id: str, until: float) -> None:
        """Let nothing through to or from this client before then."""
        self._clogged[client_id] = until

    def calm(self) -> None:
        """From now on nothing goes wrong any more."""
        self._on = False
        self._clogged.clear()

    def fate(self, hop: Hop) -> Fate:
        """See `mhfl_mq.transport.memory.Faults`."""
        luck, plan = self.luck, self.plan
        delay = luck.uniform(*LATENCY_S)
        if not self._on:
            return Fate(delay_s=delay)
        delay += max(0.0, self._clogged.get(hop.client_id, 0.0) - self.now())
        if luck.random() < plan.delay:
            delay += luck.random() * plan.delay_s
        if luck.random() < plan.cut:
            self.note("packet.cut")
            return Fate(delay_s=delay, cut=True)
        if hop.kind is not Kind.PUBLISH:
            return Fate(delay_s=delay)
        if hop.topic.endswith(CHUNKS):
            self.note(f"chunk {hop.topic.rpartition('/')[2]} {hop.topic.split('/')[-2]}")
        if hop.qos == 0 and luck.random() < plan.lose:
            self.note("packet.lost")
            return Fate(delay_s=delay, lost=True)
        copies = 1
        if hop.qos and luck.random() < plan.duplicate:
            self.note("packet.duplicate")
            copies = 2
        payload = None
        if hop.payload and luck.random() < plan.corrupt:
            self.note("packet.corrupt")
            payload = _damaged(hop, luck)
        return Fate(delay_s=delay, copies=copies, payload=payload)


def _damaged(hop: Hop, luck: random.Random) -> bytes:
    """Chunks: one bit flips. Other messages are cut short, as no flipped bit may make another valid message."""
    if hop.topic.endswith(CHUNKS):
        at = luck.randrange(len(hop.payload))
        flipped = hop.payload[at] ^ (1 << luck.randrange(8))
        return hop.payload[:at] + bytes([flipped]) + hop.payload[at + 1 :]
    return hop.payload[: luck.randrange(len(hop.payload))]
