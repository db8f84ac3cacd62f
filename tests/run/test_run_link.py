"""A device behind a slow line: its tier is what its line carries, once that was seen."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

from mhfl_mq.policy import Policy
from mhfl_mq.run.aggregator import AggregatorHost
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, run_aggregator, run_device
from mhfl_mq.store.view import open_view
from mhfl_mq.testing.light import FEDERATION, TASK, LightFoundation, LightTrainer, light_policy
from mhfl_mq.testing.lossy import LossyBroker, SlowLine
from mhfl_mq.testing.sim_time import SimClock
from mhfl_mq.transport.memory import MemoryTransport

LENGTHS = (100_000, 1_000_000)  # 0.4 and 4 MB
SLOW = 100_000.0  # bytes per second: the large tier's 8 MB take 80 s, the small one's 8 s
MOST_S = 30.0


def bounded() -> Policy:
    policy = light_policy(LENGTHS, quorum=2, interval_s=5.0, deadline_s=200.0)
    tiers = tuple(replace(one, budget=replace(one.budget, transfer_s=MOST_S)) for one in policy.tiers)
    return replace(policy, tiers=tiers)


def test_a_device_whose_link_is_too_slow_for_its_tier_gets_a_smaller_one(
    virtual: asyncio.Runner, tmp_path: Path
) -> None:
    async def main() -> None:
        line = SlowLine({"bob": SLOW})
        broker, clock = LossyBroker(line), SimClock(asyncio.get_running_loop())
        hosts: list[AggregatorHost | DeviceHost] = []
        tasks = [
            asyncio.create_task(
                run_aggregator(
                    AggregatorSetup(tmp_path / "state", FEDERATION, TASK),
                    bounded(),
                    MemoryTransport(broker),
                    LightFoundation(LENGTHS),
                    clock=clock,
                    luck=random.Random(1),
                    started=hosts.append,
                )
            )
        ]

        async def device(name: str) -> str:
            return await run_device(
                DeviceSetup(tmp_path / name, name, FEDERATION, TASK),
                MemoryTransport(broker),
                lambda scratch: LightTrainer(name, 1, scratch, 1.0),
                clock=clock,
                luck=random.Random(name),
                started=hosts.append,
            )

        tasks += [asyncio.create_task(device(name)) for name in ("ada", "bob")]

        async def tier_of(name: str, tier: int, link: bool) -> str:
            """Wait until a device carries this tier, with a measured link or without; returns the reason."""
            while True:
                await asyncio.sleep(0.5)
                with open_view(tmp_path / "state") as view:
                    for one in view.devices():
                        if (one.device, one.tier, one.link_bytes_s > 0) == (name, tier, link):
                            return one.reason

        async with asyncio.timeout(600):
            assert "link not measured yet" in await tier_of("bob", 1, link=False)
            reason = await tier_of("bob", 0, link=True)
            assert "tier1.transfer: 1m 2" in reason  # 80 s by the line's rate, and a little for the packets around it
            assert reason.endswith("s is over 30 s")
            await tier_of("ada", 1, link=True)
            line.rates["bob"] = 100 * SLOW  # a better line is noticed as well
            assert "within 30 s" in await tier_of("bob", 1, link=True)
        with open_view(tmp_path / "state") as view:
            rounds = view.rounds()
            assert all(one.closed is None or one.closed.outcome == "committed" for one in rounds)
            assert {dict(one.opened.cohort)["bob"] for one in rounds} == {0, 1}
        for host in hosts:
            host.stop()
        await asyncio.wait(tasks)

    virtual.run(main())
