"""The schedule of a policy acts on a running federation: real commands, a real broker, and a clock that is set."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mhfl_mq.testing.plant import Plant

pytestmark = [pytest.mark.broker]

LIGHT = Path(__file__).with_name("light.yaml").read_text()


def with_schedule(plant: Plant, schedule: str) -> Path:
    """The light policy with this schedule."""
    file = plant.folder / "scheduled.yaml"
    file.write_text(LIGHT.replace("schedule: {interval: 20ms}", f"schedule: {schedule}"))
    assert plant.mhfl("policy", "check", file).code == 0
    return file


def at(time: str) -> dict[str, str]:
    """The environment of a process whose wall clock shows this time, UTC, now."""
    ahead = datetime.fromisoformat(time).replace(tzinfo=UTC) - datetime.now(UTC)
    return {"MHFL_LIGHT_CLOCK_S": str(ahead.total_seconds())}


NIGHT = "{interval: 20ms, timezone: Asia/Tokyo, windows: [{name: night, cron: 0 22 * * *, duration: 8h}]}"


def test_a_device_is_not_invited_outside_the_window_and_is_inside_it(plant: Plant) -> None:
    policy = with_schedule(plant, NIGHT)
    clock = at("2026-11-24T12:59")  # 21:59 in Tokyo
    plant.aggregator(policy=policy, env=clock)
    plant.device("d1", 0)
    plant.await_entry("device.assign", device="d1")
    plant.processes.until(lambda: "22:00 JST" in status(plant, clock), "the next round in the status")
    assert "no round now: schedule.windows: no window is open that a whole round fits into" in status(plant, clock)
    assert plant.entries("round.open") == []
    plant.processes.stop("aggregator")
    clock = at("2026-11-24T13:01")  # 22:01
    plant.aggregator(policy=policy, env=clock)
    plant.await_rounds(2)
    plant.processes.until(lambda: "schedule." not in status(plant, clock), "a status that names no rule against rounds")
    plant.processes.stop("aggregator")
    done = plant.last_round()
    clock = at("2026-11-24T21:00")  # 6:00, when the window has closed
    plant.aggregator(policy=policy, env=clock)
    plant.processes.until(lambda: "no round now" in status(plant, clock), "a status of the last aggregator")
    plant.processes.until(lambda: "1 of 1 here" in status(plant, clock), "the device")
    assert plant.last_round() == done
    plant.processes.stop()
    plant.verify()


def test_a_time_of_the_cron_line_makes_one_round_also_over_a_restart(plant: Plant) -> None:
    policy = with_schedule(plant, "{cron: 0 2 * * *, timezone: Europe/Berlin}")
    clock = at("2026-10-25T00:30")  # 2:30 in Berlin, before the hour comes again
    plant.aggregator(policy=policy, env=clock)
    plant.device("d1", 0)
    plant.await_rounds(1)
    plant.processes.stop("aggregator")
    clock = at("2026-10-25T01:10")  # 2:10 for the second time
    plant.aggregator(policy=policy, env=clock)
    plant.processes.until(lambda: "2026-10-26 02:00 CET" in status(plant, clock), "the next day's round in the status")
    plant.processes.until(lambda: "1 of 1 here" in status(plant, clock), "the device")
    assert plant.last_round() == 1
    plant.processes.stop("aggregator")
    clock = at("2026-10-26T01:00")  # 2:00 of the next day
    plant.aggregator(policy=policy, env=clock)
    plant.await_rounds(1)
    plant.processes.stop()
    plant.verify()


def test_a_blackout_keeps_a_federation_from_rounds_that_could_last_into_it(plant: Plant) -> None:
    schedule = "{interval: 20ms, blackouts: [{name: inventory, cron: 0 0 1 * *, duration: 1d}]}"
    policy = with_schedule(plant, schedule)
    clock = at("2026-11-30T23:59:45")  # the deadline is 20 s
    plant.aggregator(policy=policy, env=clock)
    plant.device("d1", 0)
    plant.await_entry("device.assign", device="d1")
    plant.processes.until(lambda: "the blackout inventory" in status(plant, clock), "the blackout in the status")
    assert plant.entries("round.open") == []
    plant.processes.stop()


def status(plant: Plant, clock: Mapping[str, str]) -> str:
    return plant.mhfl("status", "--state", plant.state, env=clock).out
