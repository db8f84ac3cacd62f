"""`mhfl policy explain`: each rule with its numbers, in or out, the next chance, and the line to change."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.policy.facts import DeviceFacts, Past, Upload

NOON = 1795575600.0  # 2026-11-25 12:00 in Tokyo
POLICY = """\
apiVersion: mhfl-mq/v1
kind: FederationPolicy
metadata: {name: press}
spec:
  tiers: [{name: small}]
  algorithm: {name: heterofl}
  participation:
    require:
      - {name: enough-memory, ram_gb: ">= 1"}
      - name: press-line
        tags: [press]
  schedule:
    timezone: Asia/Tokyo
    windows: [{name: night, cron: 0 22 * * *, duration: 8h}]
    per_device:
      min_interval: 1h
  devices: {gw-*: {tags: [press]}}
"""


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A folder with a policy and the fleet of an aggregator."""
    (tmp_path / "press.yaml").write_text(POLICY)
    devices = [
        DeviceFacts("gw-1", {"ram_gb": 2.0, "tags": ()}, Past(1, 0, NOON - 600, (Upload(NOON, 5, 1.0),)), NOON - 12),
        DeviceFacts("gw-2", {"ram_gb": 0.5, "tags": ("press",)}, Past(), NOON - 12),
        DeviceFacts("gw-3", {"tags": ("press",)}, present=False),
    ]
    fleet = {
        "federation": "f",
        "rounds": 3,
        "committed_at": None,
        "lengths": {"small": 1000},
        "devices": [asdict(one) for one in devices],
    }
    (tmp_path / "fleet.json").write_text(json.dumps(fleet))
    return tmp_path


def explain(mhfl: Any, plant: Path, device: str, *more: str, at: str = "2026-11-25T12:00") -> Any:
    return mhfl("policy", "explain", device, "--policy", plant / "press.yaml", "--state", plant, "--at", at, *more)


def test_each_rule_is_shown_with_its_numbers_and_the_next_chance(mhfl: Any, plant: Path) -> None:
    done = explain(mhfl, plant, "gw-1")
    assert done.code == 0
    first, *rules, last = done.out.splitlines()
    assert first.startswith("gw-1 is OUT: policy press (")
    assert first.endswith("), 2026-11-25 12:00 JST")
    assert [line.split()[:2] for line in rules] == [
        ["ok", "enough-memory"],
        ["ok", "press-line"],
        ["NO", "schedule.per_device.min_interval"],
        ["NO", "schedule.windows"],
        ["NO", "schedule"],
    ]
    assert "ram_gb >= 1: it is 2 (reported 12s ago)" in rules[0]
    assert "it is [press] (verified)" in rules[1]  # by this file's registry, whatever the aggregator's own says
    path = plant / "press.yaml"
    assert last == f"  next chance: 2026-11-25 22:00 JST    change this: {path}:16, {path}:14"


def test_at_another_time_it_is_in(mhfl: Any, plant: Path) -> None:
    done = explain(mhfl, plant, "gw-1", at="2026-11-25T22:30")
    assert done.out.startswith("gw-1 is IN")
    assert "next chance" not in done.out
    assert explain(mhfl, plant, "gw-1", at="2026-11-25T13:30:00+00:00").out == done.out


def test_json_has_the_rules_with_their_lines(mhfl: Any, plant: Path) -> None:
    found = json.loads(explain(mhfl, plant, "gw-2", "--json", at="2026-11-25T23:00").out)
    assert (found["device"], found["in"], found["next"]) == ("gw-2", False, None)
    against = [one for one in found["rules"] if not one["holds"]]
    assert [(one["rule"], one["line"]) for one in against] == [("enough-memory", 9)]


def test_a_device_that_is_not_connected_is_out_for_that_reason(mhfl: Any, plant: Path) -> None:
    done = explain(mhfl, plant, "gw-3", at="2026-11-25T23:00")
    assert "NO  present" in done.out
    assert "ram_gb is not known, so the device is out" in done.out
    assert "next chance: not by waiting alone" in done.out


@pytest.mark.parametrize(
    ("device", "at", "says"),
    [
        ("gw-11", "2026-11-25T12:00", "did you mean gw-1"),
        ("zebra", "2026-11-25T12:00", "`mhfl status` shows the devices"),
        ("gw-1", "noon", "write e.g. 2026-11-24T22:00"),
    ],
)
def test_what_cannot_be_explained_is_an_error_with_what_to_do(
    mhfl: Any, plant: Path, device: str, at: str, says: str
) -> None:
    done = explain(mhfl, plant, device, at=at)
    assert done.code not in (0, 1)
    assert says in done.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no fleet"),
        ("{", "not a fleet"),
        ("[]", "not a fleet"),
        ('{"federation": "f", "rounds": 1, "committed_at": null, "devices": [{"device": "a"}]}', "not a fleet"),
    ],
)
def test_a_folder_without_a_fleet_is_told(mhfl: Any, plant: Path, text: str | None, says: str) -> None:
    (plant / "fleet.json").unlink()
    if text is not None:
        (plant / "fleet.json").write_text(text)
    done = explain(mhfl, plant, "gw-1")
    assert done.code not in (0, 1)
    assert says in done.err
    assert "fleet.json" in done.err


def test_a_fact_of_another_kind_is_told_by_its_name(mhfl: Any, plant: Path) -> None:
    text = (plant / "fleet.json").read_text().replace('"ram_gb": 2.0', '"ram_gb": "much"')
    (plant / "fleet.json").write_text(text)
    assert "the fact ram_gb is 'much', which is no number" in explain(mhfl, plant, "gw-1").err
