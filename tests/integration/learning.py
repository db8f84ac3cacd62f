"""A federation that learns, in one process over a real broker: a task for every algorithm, policies, three devices.

The aggregator, the devices, their stores, the codec and the broker are real; training happens in this process, for a
child with torch for each device would make a test as long as all others together.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mhfl_mq.cli.policies import read_installed_policy
from mhfl_mq.families import algorithm_class
from mhfl_mq.families.plan import Cut, Shares
from mhfl_mq.run.clock import SystemClock, seeded_luck
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, run_aggregator, run_device
from mhfl_mq.run.ports import Trainer
from mhfl_mq.run.training import TaskFoundation, TaskTrainer
from mhfl_mq.testing.plant import Plant
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.inprocess import LocalWorker
from mhfl_mq.train.task import Examples, Task
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.mqtt import MqttTransport
from mhfl_mq.wire.messages import Capability, Survey

__all__ = ["BROKEN", "TASK", "SmallTrainer", "device_tiers", "policy_text", "run_federation", "trainers_of"]

CLASSES = 3
PATIENCE_S = 60.0
BROKEN = "broken"
"""The shard whose data are no numbers."""
POLICY = """
apiVersion: mhfl-mq/v1
kind: FederationPolicy
metadata: {{name: every-algorithm}}
spec:
  tiers: [{tiers}]
  algorithm: {{name: {algorithm}, options: {{{options}}}}}
  participation: {{quorum: {{min: {quorum}}}, deadline: 30s}}
  schedule: {{max_rounds: {rounds}}}
"""


class Block(nn.Module):
    """A layer that adds to what it gets."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.inner = nn.Linear(wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.inner(x))


def model(shape: TierShape) -> nn.Module:
    wide, depth = round(16 * shape.width), shape.depth or 3
    heads = [nn.Linear(wide, CLASSES) for _ in range(depth if shape.exits else 1)]
    return ExitNet(nn.Linear(4, wide), [Block(wide) for _ in range(depth)], heads)


def foreign(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def data(seed: int, count: int) -> Examples:
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return Examples(inputs, inputs[:, :CLASSES].argmax(dim=1))


def device_data(shard: str, _folder: Path | None) -> Examples:
    """Other examples on every shard; on that of a dead sensor none is a number."""
    good = data(sum(shard.encode()), 60)
    return Examples(torch.full_like(good.inputs, float("nan")), good.targets) if shard == BROKEN else good


TASK = Task(
    name="every",
    model=model,
    device_data=device_data,
    test_data=lambda _folder: data(99, 200),
    sample=lambda: torch.randn(3, 4),
    public_data=lambda _folder: data(98, 40),
    architectures={"narrow": partial(foreign, 6), "wide": partial(foreign, 20)},
)


SERVER = "server"


def tiers_for(algorithm: str) -> dict[str, str]:
    """Tiers that this algorithm can serve, by name, as a policy writes them: two for devices, but one for fedavg."""
    plan = algorithm_class(algorithm).PLAN
    apart = {"small": "architecture: narrow", "large": "architecture: wide"}
    if algorithm == "fedavg":
        return {"only": "width: 1.0"}
    if plan.server:
        return {**apart, SERVER: "architecture: wide"}
    if plan.cut is Cut.APART or plan.shares is Shares.NOTHING:
        return apart
    if plan.exits or plan.private_last or plan.cut is Cut.WHOLE:
        return {"small": "depth: 1", "large": "depth: 3"}
    return {"small": "width: 0.25", "large": "width: 1.0"}


def device_tiers(algorithm: str) -> list[str]:
    """The names of the tiers that devices may have, smallest first."""
    return [name for name in tiers_for(algorithm) if name != SERVER]


def policy_text(algorithm: str, *, quorum: int, rounds: int, steps: int = 4, rate: float = 0.05) -> str:
    """A policy of this algorithm."""
    tiers = ", ".join(f"{{name: {name}, {shape}}}" for name, shape in tiers_for(algorithm).items())
    options = f"steps: {steps}, batch: 16, rate: {rate}"
    if "distill_steps" in algorithm_class(algorithm).NUMBERS:
        options += ", distill_steps: 20"  # the aggregator's own, for every tier in every round: 200 take seconds
    return POLICY.format(tiers=tiers, algorithm=algorithm, options=options, quorum=quorum, rounds=rounds)


class SmallTrainer(TaskTrainer):
    """Trains on a machine that carries the smallest tier only."""

    async def probe(self, survey: Survey, session: int) -> Capability:
        capability = await super().probe(survey, session)
        return replace(capability, probes=capability.probes[:1])


MakeTrainer = Callable[[Path], Trainer]


def trainers_of(worker: LocalWorker, **kinds: type[TaskTrainer]) -> dict[str, MakeTrainer]:
    """What trains on each device; its name is that of its shard."""
    return {name: partial(kind, TASK.name, shard=name, worker=worker) for name, kind in kinds.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread: for models as small as these, more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


async def run_federation(
    plant: Plant, policy: str, trainers: Mapping[str, MakeTrainer], worker: LocalWorker, *, wait_for: int
) -> str:
    """Run a device for each of `trainers` and the plant's aggregator until its rounds are done; why it ended.

    Then the devices are stopped in good order. Run again, all go on in their folders.
    """
    path = plant.folder / "policy.yaml"
    path.write_text(policy)
    luck, hosts = seeded_luck(), list[DeviceHost]()

    def transport() -> MqttTransport:
        return MqttTransport(plant.broker.url, backoff=Backoff(luck.random, first_s=0.1))

    with one_thread():
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for name, make in trainers.items():
                setup = DeviceSetup(plant.folder / name, name, "every", TASK.name)
                group.create_task(
                    run_device(setup, transport(), make, clock=SystemClock(), luck=luck, started=hosts.append)
                )
            ended = await run_aggregator(
                AggregatorSetup(plant.state, "every", TASK.name, wait_for=wait_for),
                read_installed_policy(path),
                transport(),
                TaskFoundation(TASK.name, worker=worker),
                clock=SystemClock(),
                luck=luck,
            )
            for host in hosts:
                host.stop()
    return ended
