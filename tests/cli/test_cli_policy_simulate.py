"""`mhfl policy simulate`: the calendar of rounds, with windows, clock changes, devices and bytes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.policy.facts import DeviceFacts, Past

NIGHT = """\
apiVersion: mhfl-mq/v1
kind: FederationPolicy
metadata: {name: night}
spec:
  tiers: [{name: small, width: 0.5}, {name: large}]
  algorithm: {name: heterofl}
  participation:
    quorum: {min: 2}
    deadline: 20m
    require: [{name: memory, ram_gb: ">= 1"}]
  schedule:
    timezone: Europe/Berlin
    interval: 1h
    windows: [{name: night, cron: 0 22 * * *, duration: 8h}]
    blackouts: [{name: end, cron: 0 0 L * *, duration: 1d}]
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "night.yaml"
    file.write_text(NIGHT)
    return file


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Two large devices and three small ones, one of which has too little memory and one is away."""
    devices = [
        DeviceFacts(
            f"gw-{k}",
            {"tier": "large" if k < 2 else "small", "ram_gb": 0.5 if k == 4 else 2.0},
            Past(),
            0.0,
            present=k != 3,
        )
        for k in range(5)
    ]
    file = tmp_path / "fleet.json"
    document = {"federation": "f", "rounds": 3, "committed_at": None, "lengths": {"small": 1000, "large": 4000}}
    file.write_text(json.dumps({**document, "devices": [asdict(one) for one in devices]}))
    return file


def simulate(mhfl: Any, *words: object) -> Any:
    done = mhfl("policy", "simulate", *words)
    assert done.code == 0, done.err
    return done.out


def test_rounds_are_only_in_the_windows_and_an_autumn_night_is_an_hour_shorter_by_the_wall(
    mhfl: Any, policy: Path
) -> None:
    out = simulate(mhfl, policy, "--from", "2026-10-23T12:00", "--days", "9")
    rows = {line.split()[1]: line for line in out.splitlines() if line[:4] in ("Fri ", "Sat ", "Sun ", "Mon ")}
    assert "the clocks change 2026-10-25 02:00 CET: they are put back by 1h" in out
    assert "00:00-05:40, 22:00-00:00" in rows["2026-10-24"]
    assert "00:00-04:40, 22:00-00:00" in rows["2026-10-25"]
    assert rows["2026-10-31"].split()[2:4] == ["never", "0"]
    assert out.endswith("\n49 rounds\n")


def test_few_rounds_are_shown_one_by_one_with_devices_and_bytes(mhfl: Any, policy: Path, fleet: Path) -> None:
    out = simulate(mhfl, policy, "--from", "2026-11-24T12:00", "--days", "1", "--fleet", fleet)
    first = next(line for line in out.splitlines() if line.startswith("Tue 2026-11-24 22:00 CET"))
    assert "3 of 5" in first
    assert "36 kB" in first
    assert "memory 1" in first
    assert "6 rounds" in out
    assert ["gw-3", "small", "0", "0%", "0", "B"] in [line.split() for line in out.splitlines()]
    assert ["gw-0", "large", "6", "100%", "96", "kB"] in [line.split() for line in out.splitlines()]


def test_json_has_every_round(mhfl: Any, policy: Path, fleet: Path) -> None:
    found = json.loads(
        simulate(mhfl, policy, "--from", "2026-11-24T12:00", "--days", "1", "--fleet", fleet, "--round", "5m", "--json")
    )
    assert (found["policy"], found["zone"], found["complete"]) == ("night", "Europe/Berlin", True)
    assert found["rounds"][0] == {
        "begin": "2026-11-24T21:00:00+00:00",
        "end": "2026-11-24T21:05:00+00:00",
        "devices": ["gw-0", "gw-1", "gw-2"],
        "bytes_up": 36_000,
        "out": {"memory": 1},
    }
    assert found["rounds"][1]["begin"] == "2026-11-24T22:05:00+00:00"


def test_a_byte_budget_shows_in_the_calendar(mhfl: Any, policy: Path, fleet: Path) -> None:
    policy.write_text(NIGHT + "    per_device: {upload_per_day: 20kB}\n")
    found = json.loads(simulate(mhfl, policy, "--from", "2026-11-24T12:00", "--days", "2", "--fleet", fleet, "--json"))
    sent: dict[tuple[int, str], int] = {}
    for one in found["rounds"]:
        day = sum(one["begin"] >= f"2026-11-2{number}T23:00" for number in (4, 5))  # midnight in Berlin
        for device in one["devices"]:
            size = 16_000 if device in ("gw-0", "gw-1") else 4_000
            sent[day, device] = sent.get((day, device), 0) + size
    assert sent[0, "gw-0"] == sent[1, "gw-0"] == 16_000
    assert all(size <= 20_000 for size in sent.values())


def test_a_policy_that_opens_rounds_without_pause_ends_its_rehearsal(mhfl: Any) -> None:
    out = simulate(mhfl, "default", "--days", "1", "--round", "1s")
    assert "2000 rounds\n\nthere may be more: the rehearsal ends here" in out


def test_where_no_round_would_begin_that_is_said(mhfl: Any, policy: Path, fleet: Path) -> None:
    policy.write_text(NIGHT.replace(">= 1", ">= 100"))
    out = simulate(mhfl, policy, "--from", "2026-11-24T12:00", "--days", "1", "--fleet", fleet)
    assert "no round would begin: 4 of 5 devices are here" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--from", "soon"], "write e.g. 2026-11-24T22:00"),
        (["--from", "9999-12-31T23:00"], "write e.g. 2026-11-24T22:00"),
        (["--from", "0001-01-01"], "write e.g. 2026-11-24T22:00"),
        (["--round", "1x"], "write a number with a unit"),
        (["--round", "1h"], "at most 20m, the deadline"),
        (["--fleet", "nowhere"], "there is no fleet"),
    ],
)
def test_what_cannot_be_simulated_is_an_error(mhfl: Any, policy: Path, words: list[str], says: str) -> None:
    done = mhfl("policy", "simulate", policy, *words)
    assert done.code not in (0, 1)
    assert says in done.err
