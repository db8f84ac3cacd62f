"""Every algorithm by its name in a policy file: two rounds over a real broker, and every device's update counted.

The aggregator, the devices, their stores, the codec and the broker are real; training happens in this process, for a
child with torch for each device would make this test as long as all others together.
"""

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.cli.policies import read_installed_policy
from mhfl_mq.families import algorithm_class, algorithm_names
from mhfl_mq.families.plan import Cut, Shares
from mhfl_mq.run.clock import SystemClock, seeded_luck
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, run_aggregator, run_device
from mhfl_mq.run.training import TaskFoundation, TaskTrainer
from mhfl_mq.store.device import POINTER
from mhfl_mq.store.view import open_view
from mhfl_mq.testing.plant import Plant
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.inprocess import LocalWorker
from mhfl_mq.train.task import Examples, Task
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.mqtt import MqttTransport

CLASSES = 3
ROUNDS = 2
PATIENCE_S = 60.0
DEVICES = ("one", "two", "three")
POLICY = """
apiVersion: mhfl-mq/v1
kind: FederationPolicy
metadata: {{name: every-algorithm}}
spec:
  tiers: [{tiers}]
  algorithm: {{name: {algorithm}, options: {{steps: 4, batch: 16, rate: 0.05}}}}
  participation: {{quorum: {{min: {devices}}}, deadline: 30s}}
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


TASK = Task(
    name="every",
    model=model,
    device_data=lambda shard, _folder: data(len(shard), 60),
    test_data=lambda _folder: data(99, 200),
    sample=lambda: torch.randn(3, 4),
    public_data=lambda _folder: data(98, 40),
    architectures={"narrow": partial(foreign, 6), "wide": partial(foreign, 20)},
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiers_for(algorithm: str) -> str:
    """Tiers that this algorithm can serve, as a policy writes them."""
    plan = algorithm_class(algorithm).PLAN
    if algorithm == "fedavg":
        return "{name: only}"
    if plan.server:
        return "{name: small, architecture: narrow}, {name: server, architecture: wide}"
    if plan.cut is Cut.APART or plan.shares is Shares.NOTHING:
        return "{name: small, architecture: narrow}, {name: large, architecture: wide}"
    if plan.exits or plan.private_last or plan.cut is Cut.WHOLE:
        return "{name: small, depth: 1}, {name: large, depth: 3}"
    return "{name: small, width: 0.25}, {name: large, width: 1.0}"


@pytest.mark.broker
@pytest.mark.parametrize("algorithm", algorithm_names())
async def test_it_runs_by_its_name_from_a_policy_file(algorithm: str, plant: Plant, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(tiers=tiers_for(algorithm), algorithm=algorithm, devices=len(DEVICES), rounds=ROUNDS))
    policy, worker, luck = read_installed_policy(path), LocalWorker(TASK, None), seeded_luck()

    def transport() -> MqttTransport:
        return MqttTransport(plant.broker.url, backoff=Backoff(luck.random, first_s=0.1))

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        devices = [
            group.create_task(
                run_device(
                    DeviceSetup(tmp_path / name, name, "every", TASK.name),
                    transport(),
                    partial(TaskTrainer, TASK.name, shard=name, worker=worker),
                    clock=SystemClock(),
                    luck=luck,
                )
            )
            for name in DEVICES
        ]
        ended = await run_aggregator(
            AggregatorSetup(tmp_path / "state", "every", TASK.name, wait_for=len(DEVICES)),
            policy,
            transport(),
            TaskFoundation(TASK.name, worker=worker),
            clock=SystemClock(),
            luck=luck,
        )
        for device in devices:
            device.cancel()
    assert "rounds" in ended
    for name in DEVICES:  # each knows which model its programs had better use, and has it
        pointer = json.loads((tmp_path / name / POINTER).read_text())
        assert pointer["use"] in {tier.name for tier in policy.tiers}
        assert all(Path(file).is_file() for file in pointer["files"])
    with open_view(tmp_path / "state") as view:
        versions = [one.added for one in view.versions()]
        assert [one.round for one in versions] == [None, 1, 2]
        assert [one.counted for one in view.rounds(last=ROUNDS)] == [len(DEVICES)] * ROUNDS
        carried = {name.partition("/")[2] for name in versions[-1].metrics}
    assert carried
    assert all(0.0 <= value <= 1.0 for value in versions[-1].metrics.values())
