"""A device that becomes too slow for its tier: its rounds show it, and it gets a smaller one by itself."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mhfl_mq.policy import Budget, Policy
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, run_aggregator, run_device
from mhfl_mq.run.ports import TrainResult
from mhfl_mq.store.ledger import read
from mhfl_mq.store.view import LEDGER, open_view
from mhfl_mq.testing.light import FEDERATION, TASK, LightFoundation, LightTrainer, light_policy
from mhfl_mq.testing.lossy import LossyBroker
from mhfl_mq.testing.sim_time import SimClock
from mhfl_mq.transport.memory import MemoryTransport
from mhfl_mq.wire.messages import Offer, Survey

LENGTHS = (1000, 4000)
DEADLINE_S = 30.0
ROUNDS = 5
LOADING_S = 5.0


class Hot(LightTrainer):
    """Its probe was quick; the step of a round takes for ever in the large tier, and a second in the small one."""

    async def train(
        self, survey: Survey, offer: Offer, segments: Sequence[Path], began: Callable[[], None]
    ) -> TrainResult:
        await asyncio.sleep(LOADING_S)
        began()
        await asyncio.sleep(1.0 if offer.tier == 0 else 1e6)
        return await super().train(survey, offer, segments, began)


class Cold(LightTrainer):
    """It loads for ever, as from a broken disk: no step is ever begun."""

    async def train(
        self, survey: Survey, offer: Offer, segments: Sequence[Path], began: Callable[[], None]
    ) -> TrainResult:
        await asyncio.sleep(1e6)
        raise AssertionError("it was to be stopped")


def policy() -> Policy:
    plain = light_policy(LENGTHS, quorum=1, deadline_s=DEADLINE_S, interval_s=40.0)
    budgets = (Budget(step_s=10.0), Budget(step_s=20.0))
    return replace(
        plain, tiers=tuple(replace(tier, budget=budget) for tier, budget in zip(plain.tiers, budgets, strict=True))
    )


async def federation(folder: Path, ada: type[LightTrainer]) -> None:
    """Run ada, who is slow, beside bob."""
    broker, clock = LossyBroker(), SimClock(asyncio.get_running_loop())
    hosts: list[DeviceHost] = []

    async def device(name: str, kind: type[LightTrainer]) -> str:
        return await run_device(
            DeviceSetup(folder / name, name, FEDERATION, TASK),
            MemoryTransport(broker),
            lambda scratch: kind(name, 1, scratch),
            clock=clock,
            luck=random.Random(name),
            started=hosts.append,
        )

    async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
        group.create_task(device("ada", ada))
        group.create_task(device("bob", LightTrainer))
        await run_aggregator(
            AggregatorSetup(folder / "state", FEDERATION, TASK, max_rounds=ROUNDS, wait_for=2),
            policy(),
            MemoryTransport(broker),
            LightFoundation(LENGTHS),
            clock=clock,
            luck=random.Random(1),
        )
        for host in hosts:
            host.stop()


def test_a_device_that_misses_two_deadlines_gets_a_smaller_tier_and_the_ledger_says_why(
    virtual: asyncio.Runner, tmp_path: Path
) -> None:
    virtual.run(federation(tmp_path, Hot))
    with open_view(tmp_path / "state") as view:
        counted = {
            number: {update.device: update.tier for update in view.updates(number)} for number in range(1, ROUNDS + 1)
        }
    assert counted[ROUNDS] == {"ada": 0, "bob": 1}
    late = [number for number, updates in counted.items() if "ada" not in updates]
    assert late == [1, 2]
    assigned = [one.facts for one in read(tmp_path / "state" / LEDGER) if one.kind == "device.assign"]
    (first, second) = [facts for facts in assigned if facts["device"] == "ada"]
    assert (first["tier"], second["was"], second["tier"]) == ("tier1", "tier1", "tier0")
    assert second["news"] == [
        "tier0: a step takes 6.25 s, it was 0.0005 s",
        "tier1: a step takes 25 s, it was 0.002 s",
    ]
    assert "tier1.step" in str(second["reason"])


def test_a_device_whose_training_never_begins_says_nothing_of_its_steps(
    virtual: asyncio.Runner, tmp_path: Path
) -> None:
    virtual.run(federation(tmp_path, Cold))
    assigned = [one.facts for one in read(tmp_path / "state" / LEDGER) if one.kind == "device.assign"]
    assert [facts["tier"] for facts in assigned if facts["device"] == "ada"] == ["tier1"]
