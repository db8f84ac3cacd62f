"""`algorithm: auto`: what it came to, and why, stands in the log, the ledger and the status."""

import asyncio
import logging
import random
from dataclasses import replace
from pathlib import Path

import pytest

from mhfl_mq.policy import Algorithm
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, run_aggregator, run_device
from mhfl_mq.run.status import read_board
from mhfl_mq.store.ledger import read
from mhfl_mq.store.view import LEDGER
from mhfl_mq.testing.light import FEDERATION, TASK, LightFoundation, LightTrainer, light_policy
from mhfl_mq.testing.lossy import LossyBroker
from mhfl_mq.testing.sim_time import SimClock
from mhfl_mq.transport.memory import MemoryTransport

LENGTHS = (1000, 4000)


async def federation(folder: Path, name: str) -> None:
    """One round with one device."""
    broker, clock = LossyBroker(), SimClock(asyncio.get_running_loop())
    hosts: list[DeviceHost] = []
    plain = light_policy(LENGTHS, quorum=1)
    policy = replace(plain, algorithm=Algorithm(name, "uniform", plain.algorithm.options))
    async with asyncio.timeout(600), asyncio.TaskGroup() as group:
        group.create_task(
            run_device(
                DeviceSetup(folder / "ada", "ada", FEDERATION, TASK),
                MemoryTransport(broker),
                lambda scratch: LightTrainer("ada", 1, scratch),
                clock=clock,
                luck=random.Random("ada"),
                started=hosts.append,
            )
        )
        await run_aggregator(
            AggregatorSetup(folder / "state", FEDERATION, TASK, max_rounds=1),
            policy,
            MemoryTransport(broker),
            LightFoundation(LENGTHS),
            clock=clock,
            luck=random.Random(1),
        )
        hosts[0].stop()


def test_the_choice_and_its_reason_stand_in_the_log_the_ledger_and_the_status(
    virtual: asyncio.Runner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "mhfl_mq.run.launch"):
        virtual.run(federation(tmp_path, "auto"))
    reason = "computation binds and the tiers differ in width"
    assert f"algorithm auto: slimmable, because {reason}" in caplog.text
    said = {one.kind: one.facts for one in read(tmp_path / "state" / LEDGER)}
    for kind in ("model.initial", "aggregator.start"):
        assert said[kind]["algorithm"] == "slimmable"
        assert str(said[kind]["why"]).startswith(f"auto: {reason}")
    shown = read_board(tmp_path / "state")["algorithm"]
    assert shown["name"] == "slimmable"
    assert shown["why"].startswith(f"auto: {reason}")


def test_an_algorithm_that_the_policy_names_has_no_reason(virtual: asyncio.Runner, tmp_path: Path) -> None:
    virtual.run(federation(tmp_path, "fjord"))
    said = {one.kind: one.facts for one in read(tmp_path / "state" / LEDGER)}
    assert said["aggregator.start"]["algorithm"] == "fjord"
    assert "why" not in said["aggregator.start"]
    assert read_board(tmp_path / "state")["algorithm"] == {"name": "fjord", "why": ""}
