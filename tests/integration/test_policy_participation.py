"""The rules about devices act on a running federation: real commands, a real broker, and clocks that are set."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.testing.plant import Plant

pytestmark = [pytest.mark.broker]

LIGHT = Path(__file__).with_name("light.yaml").read_text()


def with_rules(plant: Plant, *, participation: str = "", schedule: str = "", spec: str = "") -> Path:
    """The light policy with more in it."""
    text = LIGHT.replace("deadline: 20s}", f"deadline: 20s{', ' if participation else ''}{participation}}}")
    text = text.replace("interval: 20ms}", f"interval: 20ms{', ' if schedule else ''}{schedule}}}") + spec
    file = plant.folder / "rules.yaml"
    file.write_text(text)
    done = plant.mhfl("policy", "check", file)
    assert done.code == 0, done.out
    return file


def at(time: str) -> dict[str, str]:
    """The environment of a process whose wall clock shows this time, UTC, now."""
    ahead = datetime.fromisoformat(time).replace(tzinfo=UTC) - datetime.now(UTC)
    return {"MHFL_LIGHT_CLOCK_S": str(ahead.total_seconds())}


def explained(plant: Plant, device: str, policy: Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    done = plant.mhfl("policy", "explain", device, "--policy", policy, "--state", plant.state, "--json", env=env)
    assert done.code == 0, done
    found: dict[str, Any] = json.loads(done.out)
    return found


def invited(plant: Plant) -> set[str]:
    return {device for one in plant.entries("round.open") for device, _ in one["cohort"]}


def test_only_devices_that_meet_the_rules_are_invited_and_the_others_are_told_why(plant: Plant) -> None:
    policy = with_rules(
        plant,
        participation="require: [{name: press-line, tags: [press]}, {name: memory, ram_gb: '>= 0.01'}], "
        "forbid: [{name: not-this-one, labels: [broken]}]",
        spec="  devices: {gw-*: {tags: [press]}}\n",
    )
    plant.aggregator(policy=policy)
    plant.device("gw-1", 0)
    plant.device("gw-2", 1, "--label", "broken")
    plant.device("pc-1", 1)
    plant.await_entry("device.assign", device="gw-2")
    plant.await_entry("device.assign", device="pc-1")
    plant.await_counted("gw-1")
    plant.await_rounds(3)
    assert invited(plant) == {"gw-1"}
    plant.await_entry("round.open", out={"not-this-one": 1, "press-line": 1})
    plant.processes.until(lambda: "not-this-one" in plant.mhfl("status", "--state", plant.state).out, "rule in status")
    plant.processes.until(lambda: explained(plant, "gw-1", policy)["in"], "gw-1 in")
    out = explained(plant, "gw-2", policy)
    assert (out["in"], out["next"]) == (False, None)
    against = {one["rule"]: one for one in out["rules"] if not one["holds"]}
    assert set(against) == {"not-this-one"}
    assert "it is [broken] (reported" in against["not-this-one"]["says"]
    text = plant.mhfl("policy", "explain", "pc-1", "--policy", policy, "--state", plant.state).out
    assert "NO  press-line" in text
    assert "it is [] (verified)" in text
    line = next(k for k, one in enumerate(policy.read_text().splitlines(), 1) if "press-line" in one)
    assert f"change this: {policy}:{line}" in text
    plant.processes.stop()
    plant.verify()


def test_a_byte_budget_stops_uploads_until_midnight_in_the_policys_zone_also_over_a_restart(plant: Plant) -> None:
    """An update of the small tier has 1,200 bytes: two of them fit in a day."""
    policy = with_rules(plant, schedule="timezone: Asia/Tokyo, per_device: {upload_per_day: 3kB}")
    clock = at("2026-11-24T14:00")  # 23:00 in Tokyo
    plant.aggregator(policy=policy, env=clock)
    plant.device("d1", 0)
    plant.await_rounds(2)
    plant.processes.until(
        lambda: "schedule.per_device.upload_per_day" in plant.mhfl("status", "--state", plant.state, env=clock).out,
        "the budget in the status",
    )
    assert plant.last_round() == 2
    plant.processes.stop("aggregator")
    clock = at("2026-11-24T14:30")  # 23:30
    plant.aggregator(policy=policy, env=clock)
    plant.processes.until(
        lambda: "schedule.per_device.upload_per_day" in plant.mhfl("status", "--state", plant.state, env=clock).out,
        "the budget in the status of the next life",
    )
    out = explained(plant, "d1", policy, clock)
    assert out["next"] == "2026-11-24T15:00:00+00:00"
    assert "2.4 kB today, the next update is 1.2 kB, 3 kB are allowed" in str(out["rules"])
    assert plant.last_round() == 2
    plant.processes.stop("aggregator")
    plant.aggregator(policy=policy, env=at("2026-11-24T15:00"))  # midnight
    plant.await_rounds(2)
    plant.processes.stop()
    assert plant.last_round() == 4
    plant.verify()


def test_a_largest_share_spreads_the_rounds_over_the_devices(plant: Plant) -> None:
    policy = with_rules(plant, participation="largest_share: 0.5")
    plant.aggregator("--rounds", 12, policy=policy)
    for number in range(3):
        plant.device(f"d{number}", 0)
    assert plant.processes.ended("aggregator") == 0
    opened = plant.entries("round.open")
    for device in ("d0", "d1", "d2"):
        turns = [device in dict(one["cohort"]) for one in opened]
        for number in range(1, len(turns) + 1):
            assert sum(turns[:number]) < number / 2 + 1
    plant.processes.stop()


def test_a_device_keeps_to_its_own_file_whatever_the_aggregator_asks_and_says_so(plant: Plant) -> None:
    """Two small updates of 1,200 bytes fit into its day; the policy knows nothing of it."""
    own = plant.folder / "device.toml"
    own.write_text('timezone = "Asia/Tokyo"\nupload_per_day = "3kB"\n')
    clock = at("2026-11-24T14:00")  # 23:00 in Tokyo
    plant.aggregator(policy=with_rules(plant))
    plant.device("free", 0)
    plant.device("own", 0, "--site", own, env=clock)
    plant.await_counted("own")
    said = plant.await_entry("update.decline", device="own", code="site")
    assert "this device's own file forbids it: schedule.per_device.upload_per_day: 2.4 kB today" in said["reason"]
    plant.processes.stop("own")
    plant.device("own", 0, "--site", own, env=clock, log="again")  # it remembers what it sent
    last = plant.last_round()
    plant.processes.until(
        lambda: any(one["round"] > last and one["device"] == "own" for one in plant.entries("update.decline")),
        "another refusal",
    )
    assert sum(one["device"] == "own" for one in plant.entries("update.count")) == 2
    plant.processes.stop("again")
    plant.device("own", 0, "--site", own, env=at("2026-11-24T15:01"), log="tomorrow")
    plant.await_counted("own")
    plant.processes.stop()


def test_a_device_whose_own_file_is_wrong_does_not_start(plant: Plant) -> None:
    own = plant.folder / "device.toml"
    own.write_text('upload_per_dai = "3kB"\n')
    done = plant.mhfl("device", "d1", "--state", plant.folder / "d1", "--site", own)
    assert done.code == 3
    assert "did you mean upload_per_day?" in done.err


def test_a_tier_that_is_asked_every_second_round_uploads_half_as_often(plant: Plant) -> None:
    policy = with_rules(plant)
    policy.write_text(policy.read_text().replace("budget: {step_ms: 2}}", "budget: {step_ms: 2}, every: 2}"))
    plant.aggregator(policy=policy)
    plant.device("often", 0)
    plant.await_counted("often")
    plant.device("rarely", 1)
    plant.await_counted("rarely")
    first = plant.last_round()
    plant.await_rounds(12)
    opened = [one for one in plant.entries("round.open") if one["round"] > first][:10]
    assert sum("often" in dict(one["cohort"]) for one in opened) == 10
    assert sum("rarely" in dict(one["cohort"]) for one in opened) == 5
    plant.processes.stop()


def test_a_device_whose_trainings_fail_rests_and_the_others_go_on(plant: Plant) -> None:
    policy = with_rules(plant, participation="cooldown: 1h, failures: 2")
    plant.aggregator(policy=policy)
    plant.device("good", 0)
    plant.device("bad", 0, env={"MHFL_LIGHT_TRAIN_S": "fails"})
    plant.await_counted("good")
    plant.await_entry("round.open", out={"participation.cooldown": 1})
    plant.await_rounds(3)
    assert sum("bad" in dict(one["cohort"]) for one in plant.entries("round.open")) == 2
    plant.processes.stop()
