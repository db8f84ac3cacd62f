"""One federation of a benchmark: the real machines, codec, hosts and stores, in virtual time, over the memory broker.

Training is real and happens in this process; what it takes of virtual time follows from the costs that were measured
on this machine and from the device's profile, and transfers take the time of their bytes on its link. So the run is
the same for the same seed and costs, whatever else the machine does meanwhile.
"""

import asyncio
import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from mhfl_mq.bench.fleet import Budgets, Cost, Device
from mhfl_mq.bench.links import Links, Used
from mhfl_mq.bench.trainer import BenchFoundation, BenchTrainer, Spent
from mhfl_mq.bench.watch import RoundSeen, Watch
from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import Algorithm, Limits, Participation, Policy, Quorum, Schedule, Tier, transfer_seconds
from mhfl_mq.protocol.effects import SavedDevice
from mhfl_mq.run.aggregator import AggregatorHost
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, Parts, run_aggregator, run_device
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.run.training import TaskFoundation, TaskTrainer
from mhfl_mq.segments import Vector
from mhfl_mq.store.device import DeviceStore
from mhfl_mq.store.state import Store
from mhfl_mq.testing.sim_time import Database, Life, SimClock, SimLoop
from mhfl_mq.train.inprocess import LocalWorker
from mhfl_mq.train.task import Task
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.memory import MemoryBroker, MemoryTransport

__all__ = ["LAST", "Setting", "Simulated", "fast_disk", "run_federation"]

FEDERATION: Final = "bench"
LAST: Final = 5
"""Rounds at the end whose mean is the score: the best round would be chosen on the test data."""
PATIENCE: Final = 3.0
"""A round waits so many times as long as its slowest device is expected to take."""
SPARE_S: Final = 120.0
"""And so many seconds more, for messages and merging."""
LOOK_EVERY_S: Final = 3600.0
"""Virtual seconds between two looks for an operator's requests: there is no operator."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A federation to run. `tiers` have their budgets; `costs` are theirs; `devices` are those that take part.

    `cohort`: how many a round trains (None: all). `evaluate_every`: rounds between two evaluations; the last `LAST`
    are always evaluated. `weighting`: what an update counts; empty: what the algorithm's paper says.
    """

    task: Task
    folder: Path | None
    algorithm: str
    tiers: tuple[Tier, ...]
    costs: Sequence[Cost]
    budgets: Budgets
    devices: Sequence[Device]
    options: dict[str, float]
    rounds: int
    seed: int
    cohort: int | None = None
    weighting: str = ""
    evaluate_every: int = 1


@dataclass(slots=True)
class Simulated:
    """What a federation was. Traffic, links and what was spent are by device; `flat` is the last model."""

    rounds: list[RoundSeen]
    measured: set[int]  # versions whose metrics are their own: see `BenchFoundation`
    flat: Vector
    seconds: float  # virtual, from the opening of the first round to the end of the last
    spent: dict[str, Spent] = field(default_factory=dict)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    links: dict[str, Used] = field(default_factory=dict)


def run_federation(
    setting: Setting, worker: LocalWorker, told: Callable[[RoundSeen], None] = lambda _round: None
) -> Simulated:
    """Run it to its last round; raises `ConfigError` when it cannot end, and what its processes raise."""
    with (
        tempfile.TemporaryDirectory(prefix="mhfl-bench-", dir=fast_disk()) as folder,
        _quiet(),
        asyncio.Runner(loop_factory=lambda: SimLoop(lambda: 0.0)) as runner,
    ):
        return runner.run(_Run(setting, worker, Path(folder), told).play())


def fast_disk() -> str | None:
    """Where the state of simulated processes lies: in memory, where there is such a folder."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() else None


def policy_of(setting: Setting) -> Policy:
    """The policy that the aggregator runs."""
    return Policy(
        name="bench",
        tiers=setting.tiers,
        algorithm=Algorithm(setting.algorithm, setting.weighting, dict(setting.options)),
        participation=Participation(
            cohort=setting.cohort,
            quorum=Quorum(min=1, fraction=0.5),
            deadline_s=PATIENCE * _round_s(setting) + SPARE_S,
        ),
        schedule=Schedule(max_rounds=setting.rounds),
        limits=Limits(devices=max(1000, len(setting.devices))),
    )


def _round_s(setting: Setting) -> float:
    """Seconds that the slowest device is expected to take for a round."""
    steps = setting.options.get("steps", 1.0)
    taken = [0.0]
    for device in setting.devices:
        if device.tier is not None:
            cost, profile = setting.costs[device.tier], device.profile
            link = min(profile.up_bytes_s, profile.down_bytes_s)
            taken.append(steps * cost.step_s * profile.slowdown + transfer_seconds(cost.length, link))
    return max(taken)


class _Run:
    """The processes of one federation, as tasks of one event loop."""

    def __init__(self, setting: Setting, worker: LocalWorker, folder: Path, told: Callable[[RoundSeen], None]) -> None:
        self._setting = setting
        self._worker = worker
        self._folder = folder
        self._told = told
        self._hosts: list[DeviceHost] = []
        self._traffic: dict[str, Traffic] = {}
        self._spent = {device.name: Spent() for device in setting.devices}

    async def play(self) -> Simulated:
        setting, loop = self._setting, asyncio.get_running_loop()
        clock = SimClock(loop)
        links = Links({device.name: device.profile for device in setting.devices}, loop.time)
        broker = MemoryBroker(faults=links)
        watch = Watch(loop.time, self._told)
        inner = TaskFoundation(setting.task.name, data=setting.folder, seed=setting.seed, worker=self._worker)
        foundation = BenchFoundation(inner, setting.evaluate_every, setting.rounds - LAST)
        policy = policy_of(setting)
        limit_s = 2 * setting.rounds * policy.participation.deadline_s + 3600.0
        try:
            async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
                for device in setting.devices:
                    group.create_task(self._device(device, broker, clock))
                await self._aggregator(policy, foundation, broker, clock, watch)
                for host in self._hosts:
                    host.stop()
        except TimeoutError:
            raise ConfigError(
                f"the federation had {len(watch.rounds)} of {setting.rounds} rounds after {limit_s:.0f} s",
                where=f"algorithm {setting.algorithm}",
                remedy="no round can be opened when too few devices carry a tier",
            ) from None
        return Simulated(
            rounds=watch.rounds,
            measured=foundation.measured,
            flat=foundation.flat,
            seconds=max((one.closed_s for one in watch.rounds), default=0.0),
            spent=self._spent,
            traffic=self._traffic,
            links=links.used,
        )

    async def _aggregator(
        self, policy: Policy, foundation: BenchFoundation, broker: MemoryBroker, clock: SimClock, watch: Watch
    ) -> None:
        setting, life = self._setting, _life("aggregator")
        parts = Parts(
            files=life.files,
            store=lambda folder, now, *, files: Store(folder, now, files=files, connect=Database(life)),
            federation=watch.machine,
            look_every_s=LOOK_EVERY_S,
        )
        await run_aggregator(
            AggregatorSetup(
                self._folder / "aggregator",
                FEDERATION,
                setting.task.name,
                seed=setting.seed,
                wait_for=sum(device.tier is not None for device in setting.devices),
            ),
            policy,
            _transport(broker),
            foundation,
            clock=clock,
            luck=self._luck("aggregator"),
            started=self._aggregator_started,
            parts=parts,
        )

    def _aggregator_started(self, host: AggregatorHost) -> None:
        self._traffic["aggregator"] = host.traffic

    async def _device(self, device: Device, broker: MemoryBroker, clock: SimClock) -> None:
        setting, life = self._setting, _life(device.name)
        folder = self._folder / device.name
        with DeviceStore(folder, 0, clock.monotonic, life.files) as store:  # it knows its link from an earlier life
            store.save(SavedDevice(link_bytes_s=device.profile.link_bytes_s))
        await run_device(
            DeviceSetup(folder, device.name, FEDERATION, setting.task.name),
            _transport(broker),
            partial(self._trainer, device),
            clock=clock,
            luck=self._luck(device.name),
            started=partial(self._device_started, device.name),
            parts=Parts(files=life.files, facts=lambda _labels: None),
        )

    def _device_started(self, name: str, host: DeviceHost) -> None:
        self._hosts.append(host)
        self._traffic[name] = host.traffic

    def _trainer(self, device: Device, scratch: Path) -> BenchTrainer:
        setting = self._setting
        inner = TaskTrainer(setting.task.name, scratch, shard=device.shard, data=setting.folder, worker=self._worker)
        examples = len(setting.task.device_data(device.shard, setting.folder))
        return BenchTrainer(inner, device, setting.costs, setting.budgets, examples, self._spent[device.name])

    def _luck(self, stream: str) -> random.Random:
        return random.Random(f"{self._setting.seed}/{stream}")


def _life(name: str) -> Life:
    """A process whose disk waits for no platter: a simulation loses no power."""
    return Life(name, lambda _task, _error: None)


def _transport(broker: MemoryBroker) -> MemoryTransport:
    return MemoryTransport(broker, backoff=Backoff(lambda: 0.5, first_s=1.0, cap_s=8.0))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of many small processes: what matters of them is in the rounds."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
