"""Both real machines on one table: a federation and its devices, a fake link, a fake disk, a clock that jumps.

No bytes and no arrays: the whole house with codec, broker and faults is the simulator's affair. Here a test chooses
which event comes next, and kills a machine between any two of its effects. What must always hold is asserted at each
effect; a machine that is killed comes back at once, with what it had made durable.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from mhfl_mq.protocol import effects as fx
from mhfl_mq.protocol import events as ev
from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.rules import Decider, Rules
from mhfl_mq.testing.machines import Disk, Everybody, digest, example_rules, manifest_of
from mhfl_mq.wire.messages import (
    Accept,
    Capability,
    Head,
    Message,
    Offer,
    Presence,
    ProbeResult,
    Receipt,
    UpdateReady,
    Verdict,
)

__all__ = ["AGGREGATOR", "Killed", "Pair"]

AGGREGATOR: Final = "aggregator"
_PACKET: Final = 1 << 20


class Killed(Exception):
    """A machine's process ended between two effects."""


@dataclass(slots=True)
class _Side:
    """One process: its timers (name -> when) and how many effects it may still do before it is killed."""

    timers: dict[str, float] = field(default_factory=dict)
    fuse: int = -1  # -1: lives
    performed: int = 0


@dataclass(slots=True)
class _Device(_Side):
    machine: DeviceMachine | None = None
    saved: fx.SavedDevice = field(default_factory=fx.SavedDevice)
    session: int = 0
    online: bool = False
    probes: int = 2
    held: list[Message] = field(default_factory=list)  # what the broker keeps while it is away

    @property
    def life(self) -> DeviceMachine:
        assert self.machine is not None
        return self.machine


Job = Callable[[str, fx.AggregatorEffect | fx.DeviceEffect], "ev.AggregatorEvent | ev.DeviceEvent | None"]


class Pair:
    """The table: a queue of (to whom, event), the machines, and what lies on their disks."""

    def __init__(
        self,
        devices: Sequence[str] = ("ada", "bob", "cyd"),
        rules: Rules | None = None,
        decider: Decider | None = None,
        seed: int = 0,
    ) -> None:
        self.rules = example_rules() if rules is None else rules
        self.decider = Everybody() if decider is None else decider
        self.luck = Random(seed)
        self.first_epoch = 1
        self.now = 0.0
        self.disk = Disk()
        self.queue: deque[tuple[str, ev.AggregatorEvent | ev.DeviceEvent]] = deque()
        self.side = _Side()
        self.devices = {device: _Device() for device in devices}
        self.jobs: dict[type, Job] = {}  # what a test wants done instead
        self.sums: dict[int, dict[str, str]] = {}  # round -> device -> blob, in this life of the aggregator
        self.trained: Counter[tuple[int, str]] = Counter()
        self.alarms: list[str] = []
        self.stopped = ""
        self.kills = 0
        self.acked: set[int] = set()
        self._token = 0
        self._srv: Presence | None = None
        self._head: Head | None = None
        self.start_aggregator()
        for device in devices:
            self.start_device(device)

    # ---- lives ----

    def start_aggregator(self) -> None:
        """A new life from the disk; its birth reaches who is connected, retained presences reach it."""
        self.side = _Side()
        self.sums = {}
        self.machine = FederationMachine(self.rules, self.decider, self.disk.restore(), first_epoch=self.first_epoch)
        self._srv = Presence(self.machine.epoch, True, "aggregator")
        self.queue.append((AGGREGATOR, ev.Started()))
        for name, device in self.devices.items():
            self._to_device(name, self._srv)
            if device.session:
                self._to_aggregator(name, Presence(device.session, device.online, "device"))

    def start_device(self, name: str) -> None:
        """A new life from what was saved, and a connection."""
        device = self.devices[name]
        device.timers, device.fuse = {}, -1
        device.machine = DeviceMachine(name, self.rules.task, "mhfl-mq/test", device.saved, self.luck)
        self.queue.append((name, ev.Started()))
        self.connect(name)

    def connect(self, name: str) -> None:
        """The broker takes the device: what it kept for it, and what is retained, comes."""
        device = self.devices[name]
        device.session += 1
        device.online = True
        self._to_aggregator(name, Presence(device.session, True, "device"))
        self.queue.append((name, ev.Connected(device.session, _PACKET)))
        held, device.held = device.held, []
        for message in (self._srv, self._head, *held):
            if message is not None:
                self._to_device(name, message)

    def cut(self, name: str) -> None:
        """The device loses its connection; the broker says its last will."""
        device = self.devices[name]
        device.online = False
        self._to_aggregator(name, Presence(device.session, False, "device"))
        self.queue.append((name, ev.Disconnected()))

    def kill(self, name: str) -> None:
        """The process ends; its own events are lost, messages for it are not. It comes back at once."""
        self.kills += 1
        kept = [(to, event) for to, event in self.queue if to != name or isinstance(event, ev.Heard)]
        self.queue = deque(kept)
        if name == AGGREGATOR:
            self._srv = Presence(self.machine.epoch, False, "aggregator")
            for device in self.devices:
                self._to_device(device, self._srv)
            mine = [item for item in self.queue if item[0] == AGGREGATOR]
            self.queue = deque(item for item in self.queue if item[0] != AGGREGATOR)
            self.start_aggregator()
            self.queue.extend(mine)
        else:
            self.devices[name].online = False
            self._to_aggregator(name, Presence(self.devices[name].session, False, "device"))
            mine = [item for item in self.queue if item[0] == name]
            self.queue = deque(item for item in self.queue if item[0] != name)
            self.start_device(name)
            self.queue.extend(mine)

    # ---- running ----

    def run(self, until: Callable[[], bool], limit: int = 3_000) -> None:
        """Deliver, and let time pass when there is nothing to deliver, until it is so."""
        for _ in range(limit):
            if until():
                return
            assert self.queue or any(side.timers for side in (self.side, *self.devices.values())), "all wait for ever"
            self.step()
        raise AssertionError(f"not reached in {limit} steps; at {self.now:.0f} s: {self.machine.state}")

    def run_to_version(self, version: int) -> None:
        """Until the head is at least this version, and all devices have it installed."""
        self.run(
            lambda: (
                self.disk.head.version >= version
                and all(one.life.installed == self.disk.head.version for one in self.devices.values())
            )
        )

    def step(self) -> None:
        """Deliver the next event, or let the next timer run out."""
        if self.queue:
            self.deliver()
        else:
            self.tick()

    def tick(self) -> None:
        """The next timer of anybody runs out."""
        due = [(at, AGGREGATOR, timer) for timer, at in self.side.timers.items()]
        for name, device in self.devices.items():
            due += [(at, name, timer) for timer, at in device.timers.items()]
        if due:
            at, name, timer = min(due)
            self.now = max(self.now, at)
            del self.side_of(name).timers[timer]
            self.queue.append((name, ev.TimerFired(timer)))

    def deliver(self, index: int = 0) -> None:
        """Hand over one event; a machine that is killed at one of its effects comes back, and hears it again."""
        self.queue.rotate(-index)
        name, event = self.queue.popleft()
        self.queue.rotate(index)
        if name == AGGREGATOR and self.stopped:
            return
        try:
            self._hand(name, event)
        except Killed:
            if isinstance(event, ev.Heard) and event.token not in self.acked:
                self.queue.appendleft((name, event))
            self.kill(name)

    def _hand(self, name: str, event: ev.AggregatorEvent | ev.DeviceEvent) -> None:
        side = self.side_of(name)
        todo: Sequence[fx.AggregatorEffect | fx.DeviceEffect] = (
            self.machine.handle(event, self.now)  # type: ignore[arg-type]
            if name == AGGREGATOR
            else self.devices[name].life.handle(event)  # type: ignore[arg-type]
        )
        token = getattr(event, "token", 0)
        acks = [one for one in todo if isinstance(one, fx.Ack)]
        assert acks == ([fx.Ack(token)] if token else []), "each message is acknowledged once"
        assert not acks or todo[-1] is acks[0], "and last"
        for effect in todo:
            if side.fuse == 0:
                raise Killed
            side.fuse -= 1 if side.fuse > 0 else 0
            side.performed += 1
            self._perform(name, effect)

    # ---- effects ----

    def _perform(self, name: str, effect: fx.AggregatorEffect | fx.DeviceEffect) -> None:
        job = self.jobs.get(type(effect))
        if job is not None:
            answer = job(name, effect)
            if answer is not None:
                self.queue.append((name, answer))
            return
        match effect:
            case fx.SetTimer(timer, after_s):
                assert after_s >= 0.0
                self.side_of(name).timers[timer] = self.now + after_s
            case fx.CancelTimer(timer):
                self.side_of(name).timers.pop(timer, None)
            case fx.Ack(token):
                self.acked.add(token)
            case fx.Alarm(text):
                self.alarms.append(f"{name}: {text}")
            case fx.Stop(reason) if name == AGGREGATOR:
                self.stopped = reason
                self.side.timers.clear()
            case _ if name == AGGREGATOR:
                self._perform_aggregator(effect)
            case _:
                self._perform_device(name, effect)

    def _perform_aggregator(self, effect: fx.AggregatorEffect | fx.DeviceEffect) -> None:
        match effect:
            case fx.Persist(changes, entries):
                self.disk.apply(changes, entries, self.now)
            case fx.Tell(name, message):
                self._check_told(name, message)
                self._to_device(name, message)
            case fx.Announce(message):
                if isinstance(message, Head):
                    assert message.version == self.disk.head.version
                    message = replace(message, segments=self._segments(self.disk.head.model, self._all))
                    self._head = message
                for name in self.devices:
                    self._to_device(name, message)
            case fx.FetchUpdate(number, name, _, manifest):
                self.queue.append((AGGREGATOR, ev.UpdateStored(number, name, manifest.blob_id)))
            case fx.OpenFold(number):
                self.sums[number] = {}
            case fx.Fold(number, name, _, blob_id):
                assert self.disk.counted[number, name].blob_id == blob_id, "folded what is not counted"
                assert name not in self.sums[number], "folded twice"
                self.sums[number][name] = blob_id
            case fx.Merge(number):
                counted = {name: one.blob_id for name, one in self.disk.counted_in(number).items()}
                assert self.sums[number] == counted, "the sum is not what was counted"
                self.queue.append((AGGREGATOR, ev.Merged(number, digest(f"model of {number}"), {"accuracy": 0.5})))
            case fx.Release(number):
                assert number in self.disk.closed
                self.sums.pop(number, None)

    def _check_told(self, name: str, message: Message) -> None:
        match message:
            case Offer(number, base):
                assert name in dict(self.disk.rounds[number].cohort), "offered before it was durable"
                assert base == self.disk.head.version
            case Receipt(number, Verdict.COUNTED):
                assert (number, name) in self.disk.counted, "receipted before it was durable"

    def _perform_device(self, name: str, effect: fx.AggregatorEffect | fx.DeviceEffect) -> None:
        device = self.devices[name]
        match effect:
            case fx.SaveState(saved):
                device.saved = saved
            case fx.Say(message):
                self._check_said(device, message)
                self._to_aggregator(name, message)
            case fx.Probe(survey, session):
                probes = tuple(ProbeResult(tier.name, 0.1, 1000) for tier in survey.tiers[: device.probes])
                found = Capability(session, survey.layout, 100, 0.0, probes)
                self.queue.append((name, ev.Probed(found)))
            case fx.FetchSegments(offer):
                self.queue.append((name, ev.Fetched(offer.round)))
            case fx.Train(offer):
                assert (offer.round, name) not in self.disk.counted, "trained again although it is counted"
                self.trained[offer.round, name] += 1
                size = 4 * self.rules.tiers[offer.tier].length
                blob = manifest_of(f"{name} {offer.round} {self.trained[offer.round, name]}", size)
                self.queue.append((name, ev.Trained(offer.round, blob, 2.0, {"loss": 0.1}, b"x" * size)))
            case fx.Install(head):
                self.queue.append((name, ev.Installed(head.version)))

    @staticmethod
    def _check_said(device: _Device, message: Message) -> None:
        saved = device.saved
        match message:
            case Accept(number):
                assert saved.offer is not None, "accepted before it was durable"
                assert saved.offer.round == number
            case UpdateReady(number):
                assert saved.update == message.manifest, "announced before it was durable"
                assert saved.offer is not None
                assert saved.offer.round == number

    # ---- the link ----

    def side_of(self, name: str) -> _Side:
        """A process; set its `fuse` to have it killed after so many effects."""
        return self.side if name == AGGREGATOR else self.devices[name]

    def _to_aggregator(self, name: str, message: Message) -> None:
        self._token += 1
        self.queue.append((AGGREGATOR, ev.Heard(name, message, self._token)))

    def _to_device(self, name: str, message: Message) -> None:
        device = self.devices[name]
        if not device.online:
            device.held.append(message)
            return
        if isinstance(message, Offer):
            held = message.holds or range(message.tier + 1)
            message = replace(message, segments=self._segments(self.disk.head.model, held))
        self._token += 1
        self.queue.append((name, ev.Heard(AGGREGATOR, message, self._token)))

    @property
    def _all(self) -> range:
        """Every segment that there is."""
        return range(1 + max(spec.holds(k)[-1] for k, spec in enumerate(self.rules.tiers)))

    def _segments(self, model: str, held: Iterable[int]) -> tuple[str, ...]:
        return tuple(digest(f"segment {k} of {model}") for k in held)
