"""A whole federation in one thread: real machines, codec, hosts and stores over the broker in memory, from one seed.

Time is virtual, luck is seeded, threads are gone, so a seed gives the same run each time, and `mhfl simulate --seed N`
replays a failure. Things go wrong by a plan until `until_s` (`mhfl_mq.testing.faults`); then all is repaired and the
federation must commit again, come to rest, and have lost nothing. What must hold all the time is in
`mhfl_mq.testing.invariants`. The idea is FoundationDB's (https://apple.github.io/foundationdb/testing.html).
"""

import asyncio
import hashlib
import logging
import random
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mhfl_mq.protocol.events import RollbackAsked
from mhfl_mq.protocol.states import FederationState, Standing
from mhfl_mq.run.aggregator import CLIENT_ID
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, Parts, run_aggregator, run_device
from mhfl_mq.store.view import BLOBS
from mhfl_mq.testing.faults import PLANS, Blow, FaultPlan, Network, Strike, timetable
from mhfl_mq.testing.invariants import Truth, Violation, require
from mhfl_mq.testing.sim_malice import Mallory
from mhfl_mq.testing.sim_nodes import AggregatorNode, DeviceNode, Node, Stage
from mhfl_mq.testing.sim_time import Killed, SimClock, SimLoop
from mhfl_mq.testing.sim_world import (
    DEADLINE_S,
    FEDERATION,
    TASK,
    SimFoundation,
    SimTrainer,
    knobs,
    sim_layout,
    sim_policy,
)
from mhfl_mq.transport.memory import MemoryBroker, MemoryTransport
from mhfl_mq.wire.topics import Topics

__all__ = ["DEVICES", "Outcome", "Simulation", "simulate"]

DEVICES: Final = 6
RECOVERY_DEADLINES: Final = 20
"""Round deadlines after the last fault within which a round must be committed: a device that was refused or gave up
asks again after minutes, and a row of failed rounds makes the next one wait."""
REST_DEADLINES: Final = 5
"""Round deadlines within which every transfer ends and every device has the head, once nobody trains any more."""
LAST_LINES: Final = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one seed. `error` is empty when all held; `trace` is complete only when it was asked for."""

    seed: int
    plan: str
    devices: int
    apart: bool
    error: str
    digest: str  # of everything that happened, in order
    seconds: float  # virtual
    events: int
    rounds: int
    commits: int
    seen: Counter[str]
    trace: tuple[str, ...]

    @property
    def replay(self) -> str:
        """The command that runs it again."""
        apart = " --apart" if self.apart else ""
        return f"mhfl simulate --seed {self.seed} --plan {self.plan} --devices {self.devices}{apart} --trace"


def simulate(
    seed: int, plan: str = "mixed", *, devices: int = DEVICES, trace: bool = False, apart: bool = False
) -> Outcome:
    """Run one seed under the named plan; raises nothing for a federation that fails, says so in the outcome.

    With `apart` tiers have segments of their own, and are no prefixes of one another.
    """
    with tempfile.TemporaryDirectory(prefix="mhfl-sim-", dir=_fast_disk()) as folder:
        return Simulation(seed, plan, devices=devices, folder=Path(folder), trace=trace, apart=apart).run()


def _fast_disk() -> str | None:
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() else None


class Simulation(Stage):
    """One run. All luck comes from `seed`, each part of it from a stream of its own."""

    def __init__(self, seed: int, plan: str, *, devices: int, folder: Path, trace: bool, apart: bool = False) -> None:
        self.seed = seed
        self.plan: FaultPlan = PLANS[plan]
        self.seen: Counter[str] = Counter()
        self.folder = folder
        self._plan_name = plan
        self._apart = apart
        self._events = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._lines: deque[str] = deque(maxlen=None if trace else LAST_LINES)
        self._error: BaseException | None = None
        self._faulty = True
        self._resting = False
        pauses = self._luck("threads")
        self._loop = SimLoop(lambda: pauses.choice((0.0, 0.01, 0.5)))
        self._clock = SimClock(self._loop)
        self._policy = sim_policy(self._luck("policy"), devices)
        self._topics = Topics(FEDERATION)
        self._network = Network(self.plan, self._luck("network"), self._loop.time, self.note)
        self.broker = MemoryBroker(
            faults=self._network,
            protocol=self._luck("broker").choice((4, 5)),
            max_packet=self.plan.max_packet,
        )
        names = [f"d{k}" for k in range(devices)]
        self.aggregator = AggregatorNode(self, self._luck("aggregator"), self._run_aggregator, self._policy)
        self.truth = Truth(
            sim_layout(apart=apart),
            self.aggregator.folder,
            self.note,
            self._loop.time,
            by_examples=self._policy.algorithm.weighting == "samples",
        )
        self.devices = [DeviceNode(name, self, self._luck(name), self._run_device) for name in names]
        strikes = timetable(self.plan, self._luck("strikes"), self.aggregator.name, names)
        self.strikes: tuple[Strike, ...] = strikes
        self._main: asyncio.Task[None] | None = None

    def _luck(self, stream: str) -> random.Random:
        return random.Random(f"{self.seed}/{stream}")

    def _is_faulty(self) -> bool:
        return self._faulty

    def _is_resting(self) -> bool:
        return self._resting

    # ---- Stage ----

    def note(self, what: str) -> None:
        """Count something interesting."""
        self.seen[what] += 1

    def trace(self, node: str, what: str) -> None:
        """Something happened at a node."""
        self._events += 1
        line = f"{self._loop.time():10.3f}  {node:<10}  {what}"
        self._digest.update(line.encode())
        self._lines.append(line)

    def fail(self, error: BaseException) -> None:
        """The run has failed: the first error counts."""
        if self._error is None:
            self._error = error
            if self._main is not None:
                self._main.cancel()

    # ---- the run ----

    def run(self) -> Outcome:
        """Play it to its end."""
        logging_before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # the federation warns of what goes wrong, and much does
        try:
            with knobs(self._luck("knobs")), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                self._loop.set_exception_handler(self._unhandled)
                runner.run(self._guarded())
        finally:
            logging.disable(logging_before)
        commits = sum(one.closed is not None and one.closed.version is not None for one in self.truth.rounds.values())
        return Outcome(
            seed=self.seed,
            plan=self._plan_name,
            devices=len(self.devices),
            apart=self._apart,
            error="" if self._error is None else f"{type(self._error).__name__}: {self._error}",
            digest=self._digest.hexdigest(),
            seconds=self._loop.time(),
            events=self._events,
            rounds=len(self.truth.rounds),
            commits=commits,
            seen=self.seen,
            trace=tuple(self._lines),
        )

    async def _guarded(self) -> None:
        self._main = asyncio.create_task(self._play())
        await asyncio.wait([self._main])
        if not self._main.cancelled() and (error := self._main.exception()) is not None:
            self.fail(error)
        for node in self._nodes:
            node.stop()
            node.kill(0.0)

    @property
    def _nodes(self) -> list[Node]:
        return [self.aggregator, *self.devices]

    async def _play(self) -> None:
        running = [asyncio.create_task(node.run(), name=f"node {node.name}") for node in self._nodes]
        try:
            await self._trouble()
            await self._recover()
            await self._rest()
            self.aggregator.stop()
            await asyncio.wait([running[0]])
            await asyncio.sleep(DEADLINE_S)  # what was on its way arrives
            for device in self.devices:
                device.stop()
            await asyncio.wait(running)
            self._nothing_leaked()
            self.truth.ledger_is_whole()
        finally:
            for node in self._nodes:
                node.stop()
                node.kill(0.0)
            await asyncio.wait(running)
            for task in running:
                task.result()

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised, or an error was never looked at: both are bugs."""
        error = context.get("exception")
        if not isinstance(error, Killed):
            self.fail(error if isinstance(error, BaseException) else Violation(str(context.get("message"))))

    # ---- while things go wrong ----

    async def _trouble(self) -> None:
        for strike in self.strikes:
            await asyncio.sleep(max(0.0, strike.at - self._loop.time()))
            self.trace("fate", f"{strike.blow.value} {strike.victim} {strike.lasts_s:.1f} {strike.nth}")
            self._strike(strike)
        await asyncio.sleep(max(0.0, self.plan.until_s - self._loop.time()))
        self.trace("fate", "the faults stop")
        self._faulty = False
        self._network.calm()
        if not self.broker.up:
            self.broker.start()
        for node in self._nodes:
            node.returns_at = 0.0
            if node.life is not None:
                node.life.effects_left = node.life.files.writes_left = -1

    def _strike(self, strike: Strike) -> None:
        node = next((node for node in self._nodes if node.name == strike.victim), None)
        match strike.blow:
            case Blow.SEVER if node is not None:
                self.broker.kill(self._client(node))
                self.note("link.severed")
            case Blow.CLOG if node is not None:
                self._network.clog(self._client(node), self._loop.time() + strike.lasts_s)
                self.note("link.clogged")
            case Blow.BROKER:
                if self.broker.up:
                    self.broker.stop()
                    self._loop.call_later(strike.lasts_s, self._broker_returns, strike)
                    self.note("broker.died")
            case Blow.ROLLBACK:
                self._roll_back()
            case Blow.MALICE:
                lie = Mallory(
                    self._topics,
                    TASK,
                    self.truth.layout.digest,
                    self.devices[0].name,
                    self._luck(f"malice {strike.at}"),
                )
                transport = MemoryTransport(self.broker)
                self._loop.create_task(lie.strike(transport, self.aggregator, strike.nth), name="mallory")
                self.note("malice")
            case _:
                if node is not None and node.up and node.life is not None:
                    self._wound(node, strike)

    def _wound(self, node: Node, strike: Strike) -> None:
        assert node.life is not None
        life = node.life
        node.returns_at = self._loop.time() + strike.lasts_s
        self.note(strike.blow.value)
        match strike.blow:
            case Blow.CRASH:
                self._note_moment(node)
                node.kill(strike.lasts_s)
            case Blow.WIPE:
                node.wiped = True
                node.kill(strike.lasts_s)
            case Blow.CRASH_AT_EFFECT:
                life.effects_left = strike.nth
            case Blow.CRASH_AT_WRITE | Blow.FULL_DISK:
                life.files.fate = "full" if strike.blow is Blow.FULL_DISK else "kill"
                life.files.writes_left = strike.nth
            case Blow.CRASH_IN_MERGE:
                self.aggregator.dies_in_merge = strike.lasts_s

    def _note_moment(self, node: Node) -> None:
        if isinstance(node, AggregatorNode) and node.machine is not None:
            one = node.machine.round
            self.note(f"crash.aggregator {'between rounds' if one is None else one.state.value}")
        elif isinstance(node, DeviceNode) and node.machine is not None:
            self.note(f"crash.device {node.machine.work.value}")

    def _broker_returns(self, strike: Strike) -> None:
        retained, sessions = strike.forgets
        if not self.broker.up:
            self.trace("fate", f"the broker is back, forgets retained {retained}, sessions {sessions}")
            self.broker.start(keep_retained=not retained, keep_sessions=not sessions)

    def _roll_back(self) -> None:
        """An operator asks for the weights of an older version."""
        host, machine, head = self.aggregator.aggregator, self.aggregator.machine, self.truth.head
        if host is None or machine is None or head is None or machine.state is FederationState.NEW:
            return
        if head.version and self.aggregator.up:
            asked = RollbackAsked(0, self._first_model, {}, "simulated", "operator")
            host.post(asked)
            self.note("rollback")

    @property
    def _first_model(self) -> str:
        return next(str(entry.facts["model"]) for entry in self.truth.entries if entry.kind == "model.initial")

    def _client(self, node: Node) -> str:
        return f"{CLIENT_ID}{FEDERATION}" if node is self.aggregator else node.name

    # ---- after the faults ----

    async def _until(self, holds: Callable[[], str], deadlines: int) -> None:
        """Wait until `holds` says nothing is missing; else `Violation` with what it said last."""
        end = self._loop.time() + deadlines * DEADLINE_S
        while missing := holds():
            if self._loop.time() >= end:
                raise Violation(f"{deadlines} deadlines after the faults: {missing}")
            await asyncio.sleep(0.25)

    async def _recover(self) -> None:
        last = self.truth.last_round
        commits = self.seen["round.committed"]

        def committed() -> str:
            if self.seen["round.committed"] > commits and self.truth.last_round > last:
                return ""
            machine = self.aggregator.machine
            state = "no machine" if machine is None else machine.state.value
            return f"no new round was committed (the aggregator is {state}, the last round is {self.truth.last_round})"

        await self._until(committed, RECOVERY_DEADLINES)

    async def _rest(self) -> None:
        """There must come an instant between rounds at which nothing is under way."""
        self._resting = True
        await self._until(self._restless, REST_DEADLINES)

    def _restless(self) -> str:
        """What is not at rest; empty when all is."""
        head = self.truth.head
        assert head is not None
        waiting = self.broker.waiting
        for node in self._nodes:
            if not node.up or node.host is None:
                return f"{node.name} is not up"
            if node.host.transfers:
                return f"{node.name} has {node.host.transfers} transfers under way"
            if self._client(node) not in self.broker.connected:
                return f"{node.name} is not connected"
            if waiting[self._client(node)]:
                return f"{waiting[self._client(node)]} messages wait in the broker for {node.name}"
        for device in self.devices:
            assert device.machine is not None
            if device.machine.standing is not Standing.READY:
                return f"{device.name} is {device.machine.standing.value}"
            if device.machine.installed != head.version:
                return f"{device.name} runs version {device.machine.installed}, the head is {head.version}"
        return ""

    def _nothing_leaked(self) -> None:
        """What lies on the disks is what an open round and the head need."""
        one = self.truth.open_round
        kept = sorted(path.name for path in (self.aggregator.folder / BLOBS).iterdir())
        if one is None:
            require(not kept, f"the aggregator keeps {len(kept)} files of updates, and no round is open: {kept[:3]}")
        else:
            most = 4 * len(self.devices)  # blob; or manifest, part and map; for each device
            require(len(kept) <= most, f"the aggregator keeps {len(kept)} files of updates for one open round")
        segments = max(map(len, self.truth.layout.holds))
        for node in self.devices:
            files = sorted(path.name for path in (node.folder / BLOBS).iterdir())
            blobs = [name for name in files if name.endswith(".blob")]
            most = 2 * segments + 1  # the head's segments, the open round's, an update
            require(len(blobs) <= most, f"{node.name} keeps {len(blobs)} blobs, at most {most} are of use")
            scratch = list((node.folder / "scratch").iterdir()) if (node.folder / "scratch").exists() else []
            require(len(scratch) <= 1, f"{node.name} leaves {len(scratch)} files in its scratch folder")

    # ---- processes ----

    async def _run_aggregator(self, folder: Path, transport: Any, started: Any, parts: Parts) -> str:
        luck = self.aggregator.luck
        return await run_aggregator(
            AggregatorSetup(folder, FEDERATION, TASK),
            self._policy,
            transport,
            SimFoundation(self.truth, self.plan, luck, self._is_faulty),
            clock=self._clock,
            luck=luck,
            started=started,
            parts=parts,
        )

    async def _run_device(self, name: str, folder: Path, transport: Any, started: Any, parts: Parts) -> str:
        index = int(name[1:])
        node = self.devices[index]

        def trainer(scratch: Path) -> SimTrainer:
            return SimTrainer(
                name,
                index % len(self.truth.layout.tiers),
                scratch,
                truth=self.truth,
                plan=self.plan,
                luck=node.luck,
                faulty=self._is_faulty,
                resting=self._is_resting,
                note=self.note,
                poison=0.5 if index == 0 and self.plan.malice_s else 0.0,
            )

        return await run_device(
            DeviceSetup(folder, name, FEDERATION, TASK),
            transport,
            trainer,
            clock=self._clock,
            luck=node.luck,
            started=started,
            parts=parts,
        )
