"""`mhfl policy diff`: what a new policy changes in the file, for the fleet, and in the calendar."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.policy.compare import changes
from mhfl_mq.policy.facts import DeviceFacts, Past

OLD = """\
apiVersion: mhfl-mq/v1
kind: FederationPolicy
metadata: {name: press}
spec:
  tiers: [{name: small, width: 0.5}, {name: large}]
  algorithm: {name: heterofl}
  participation:
    quorum: {min: 2}
    deadline: 30m
    require: [{name: enough-memory, ram_gb: ">= 1"}]
  schedule: {interval: 30m}
"""
NEW = OLD.replace(">= 1", ">= 4").replace("interval: 30m", "interval: 90m")
AT = ("--at", "2026-11-24T12:00")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two policies, and a fleet of twelve devices with 1, 2, ... 12 GB."""
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    devices = [
        DeviceFacts(f"gw-{k:02}", {"tier": "small", "ram_gb": float(k)}, Past(), 0.0, present=k > 4)
        for k in range(1, 13)
    ]
    document = {"federation": "f", "rounds": 3, "committed_at": None, "lengths": {"small": 1000, "large": 4000}}
    (tmp_path / "fleet.json").write_text(json.dumps({**document, "devices": [asdict(one) for one in devices]}))
    return tmp_path


def diff(mhfl: Any, folder: Path, *words: object, old: str = "old.yaml", new: str = "new.yaml") -> str:
    done = mhfl("policy", "diff", folder / old, folder / new, *words)
    assert done.code == 0, done.err
    out: str = done.out
    return out


def test_what_changes_in_the_file_is_said_key_by_key(mhfl: Any, folder: Path) -> None:
    assert diff(mhfl, folder).splitlines() == [
        "spec.participation.require.enough-memory.ram_gb: >= 1 -> >= 4",
        "spec.schedule.interval: 30m -> 90m",
    ]


def test_what_changes_for_the_fleet_is_said_device_by_device(mhfl: Any, folder: Path) -> None:
    out = diff(mhfl, folder, "--fleet", folder, *AT)
    assert "devices that may be invited: 12 -> 9 of 12" in out
    assert [line.strip() for line in out.splitlines() if line.startswith("  gw")] == [
        f"gw-0{k} leaves: enough-memory" for k in (1, 2, 3)
    ]
    assert "rounds in 7 days: 168 -> 84; up 8.06 MB -> 3.02 MB" in out
    back = diff(mhfl, folder, "--fleet", folder, *AT, old="new.yaml", new="old.yaml")
    assert "gw-03 joins (was kept out by enough-memory)" in back


def test_a_device_whose_tier_is_gone_leaves(mhfl: Any, folder: Path) -> None:
    (folder / "new.yaml").write_text(OLD.replace("{name: small, width: 0.5}, ", ""))
    out = diff(mhfl, folder, "--fleet", folder, *AT)
    assert "devices that may be invited: 12 -> 0 of 12" in out
    assert "gw-01 leaves: no tier small" in out


def test_json_has_all_of_it(mhfl: Any, folder: Path) -> None:
    found = json.loads(diff(mhfl, folder, "--fleet", folder, *AT, "--json"))
    assert found["devices"] == [12, 9]
    assert found["moved"][0] == {"device": "gw-01", "was": "", "is": "enough-memory"}
    assert found["week"] == [{"rounds": 168, "bytes_up": 8_064_000}, {"rounds": 84, "bytes_up": 3_024_000}]
    assert found["changes"][1] == {"key": "spec.schedule.interval", "old": "30m", "new": "90m"}


def test_the_same_policy_written_otherwise_is_told(mhfl: Any, folder: Path) -> None:
    (folder / "new.yaml").write_text(OLD.replace("interval: 30m", "interval: 1800s"))
    assert diff(mhfl, folder).splitlines() == [
        "the same policy, written otherwise",
        "spec.schedule.interval: 30m -> 1800s",
    ]
    assert diff(mhfl, folder, new="old.yaml") == "the same policy\n"


def test_a_wrong_policy_is_an_error_with_its_findings(mhfl: Any, folder: Path) -> None:
    (folder / "new.yaml").write_text(NEW.replace("ram_gb", "ramgb"))
    done = mhfl("policy", "diff", folder / "old.yaml", folder / "new.yaml")
    assert done.code == 4
    assert "did you mean 'ram_gb'?" in done.err


YS = "a.y: {name: y} is new"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"b": None}, ["a: 1 is gone", "b: empty is new"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a: [1, 2] -> [1]"]),
        (
            {"a": [{"name": "x", "k": 1}]},
            {"a": [{"name": "y"}]},
            ["a.x: {name: x, k: 1} is gone", "a.y: {name: y} is new"],
        ),
        ({"a": [{"name": "x"}, {"name": "y"}]}, {"a": [{"name": "y"}, {"name": "x"}]}, []),
        ({"a": [{"name": "x"}, {"name": "x"}]}, {"a": []}, ["a: [{name: x}, {name: x}] -> []"]),
        ({"a": {"b": True}}, {"a": "b"}, ["a: {b: true} -> b"]),
    ],
)
def test_named_entries_of_lists_are_compared_by_name(old: Any, new: Any, said: list[str]) -> None:
    assert [str(one) for one in changes(old, new)] == said
