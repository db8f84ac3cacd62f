"""`mhfl policy test`: unit tests of policies as files, and the rules that none of them has seen fail."""

import json
from pathlib import Path
from typing import Any

import pytest

POLICY = """\
apiVersion: mhfl-mq/v1
kind: FederationPolicy
metadata: {name: night}
spec:
  tiers: [{name: small}]
  algorithm: {name: heterofl}
  participation:
    require: [{name: memory, ram_gb: ">= 1"}, {name: press, tags: [press]}]
    largest_share: 0.5
    cooldown: 1h
  schedule:
    timezone: Europe/Berlin
    windows: [{name: night, cron: 0 22 * * *, duration: 8h}]
    per_device: {min_interval: 2h, upload_per_day: 10MB, training_per_day: 1h, quiet_on_battery: true}
  devices: {gw-*: {tags: [press]}}
"""
TESTS = """\
apiVersion: mhfl-mq/v1
kind: PolicyTest
policy: ../night.yaml
at: 2026-11-24T23:00
rounds: 10
devices:
  gw-1: {ram_gb: 2, on_battery: false}
  gw-2: {ram_gb: 0.5, on_battery: true}
  pc-1: {ram_gb: 2, on_battery: false, tags: [other], next_upload: 6MB, uploaded: 5MB}
  pc-2: {ram_gb: 2, on_battery: false, tags: [press], rounds: 9, missed: 3, turned_ago: 30m, trained: 40m}
  away: {ram_gb: 2, on_battery: false, tags: [press], present: false}
tests:
  - {device: gw-1, expect: in}
  - {device: gw-2, expect: out, because: [memory, schedule.per_device.quiet_on_battery]}
  - {device: pc-1, expect: out, because: [press, schedule.per_device.upload_per_day]}
  - device: pc-2
    expect: out
    because:
      - participation.cooldown
      - participation.largest_share
      - schedule.per_device.min_interval
      - schedule.per_device.training_per_day
  - {device: away, expect: out, because: [present]}
  - {name: not by day, at: 2026-11-24T12:00, expect: out, because: [schedule.windows], next: 2026-11-24T22:00}
  - {name: in another zone, at: 2026-11-24T21:30:00+00:00, expect: in}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "night.yaml").write_text(POLICY)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "night.test.yaml").write_text(TESTS)
    return tmp_path


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "tests" / "night.test.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


def test_tests_that_pass_and_cover_every_rule(mhfl: Any, folder: Path) -> None:
    done = mhfl("policy", "test", folder / "tests")
    assert done.code == 0, done.out
    assert "FAIL" not in done.out
    assert "every rule was seen to fail" in done.out
    assert "7 of 7 tests passed" in done.err
    assert "pass  not by day" in done.out


def test_a_test_that_fails_shows_what_was_expected_and_what_came(mhfl: Any, folder: Path) -> None:
    edit(folder, "device: gw-1, expect: in", "device: gw-2, expect: in")
    done = mhfl("policy", "test", folder)
    assert done.code == 4
    assert "FAIL  test 1: gw-2 is in" in done.out
    assert "expected in" in done.out
    assert "got      out: memory: ram_gb >= 1: it is 0.5" in done.out


@pytest.mark.parametrize(
    ("old", "new", "got"),
    [
        ("because: [present]", "because: [press]", "because present"),
        ("next: 2026-11-24T22:00", "next: 2026-11-24T22:30", "next 2026-11-24 22:00 CET"),
        ("in another zone, at: 2026-11-24T21:30:00+00:00, expect: in", "x, expect: out", "in: "),
    ],
)
def test_wrong_reasons_and_wrong_times_fail_too(mhfl: Any, folder: Path, old: str, new: str, got: str) -> None:
    edit(folder, old, new)
    done = mhfl("policy", "test", folder)
    assert done.code == 4
    assert got in done.out
    assert "6 of 7 tests passed" in done.err


def test_rules_that_no_test_has_seen_fail_are_listed(mhfl: Any, folder: Path) -> None:
    edit(folder, TESTS[TESTS.index("  - {device: gw-2") : TESTS.index("  - {device: away")], "")
    found = json.loads(mhfl("policy", "test", folder, "--json").out)
    assert found[0]["passed"]
    assert found[0]["rules_seen_to_fail"] == ["schedule.windows"]
    assert set(found[0]["rules_never_seen_to_fail"]) == {
        "memory",
        "press",
        "participation.cooldown",
        "participation.largest_share",
        "schedule.per_device.quiet_on_battery",
        "schedule.per_device.min_interval",
        "schedule.per_device.upload_per_day",
        "schedule.per_device.training_per_day",
    }


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("device: gw-1,", "device: gw-11,", "13:14: POL013: there is no device 'gw-11' here"),
        ("at: 2026-11-24T23:00\n", "", "12:5: POL011: the test has no time"),
        ("ram_gb: 2,", "ram_gb: two,", "7:18: POL033: devices.gw-1.ram_gb: not a value of ram_gb"),
        ("expect: in}", "expect: inn}", "13:28: POL013: tests[0].expect"),
        ("expect: in}", "expect: in, because: [press]}", "13:5: POL033: tests[0]: because and next are for out"),
        ("policy: ../night.yaml", "policy: ../nihgt.yaml", "POL001: cannot be read"),
        ("T23:00", "T25:00", "4:5: POL015: at: '2026-11-24T25:00' is no time"),
        ("at: 2026-11-24T23:00", "at: 9999-12-31T23:59", "4:5: POL015: at: '9999-12-31T23:59' is no time"),
        ("ram_gb: 2,", "ram_gb: 2, rounds: .inf,", "POL033: devices.gw-1.rounds: not a value of rounds"),
    ],
)
def test_a_mistake_in_a_test_file_is_a_finding_at_its_place(
    mhfl: Any, folder: Path, old: str, new: str, finding: str
) -> None:
    edit(folder, old, new)
    done = mhfl("policy", "test", folder)
    assert done.code == 4
    assert finding in done.out
    assert "1 of 1 files cannot be run" in done.err


def test_a_wrong_policy_is_shown_with_its_findings(mhfl: Any, folder: Path) -> None:
    (folder / "night.yaml").write_text(POLICY.replace("largest_share", "largest_shar"))
    done = mhfl("policy", "test", folder)
    assert done.code == 4
    assert "did you mean 'largest_share'?" in done.out


def test_a_shipped_policy_can_be_tested_by_its_name(mhfl: Any, folder: Path) -> None:
    file = folder / "tests" / "night.test.yaml"
    file.write_text(
        "apiVersion: mhfl-mq/v1\nkind: PolicyTest\npolicy: default\nat: 2026-11-24T23:00\ntests: [{expect: in}]\n"
    )
    assert mhfl("policy", "test", file).code == 0


def test_the_tests_of_the_shipped_policies_pass_and_see_every_rule_fail(mhfl: Any) -> None:
    folder = Path(__file__).parents[2] / "policies" / "tests"
    done = mhfl("policy", "test", folder, "--json")
    assert done.code == 0, done.out
    for one in json.loads(done.out):
        assert one["rules_never_seen_to_fail"] == [], one["file"]


def test_a_folder_without_tests_and_one_that_is_not_there_are_told(mhfl: Any, folder: Path) -> None:
    (folder / "tests" / "night.test.yaml").unlink()
    done = mhfl("policy", "test", folder)
    assert done.code == 3
    assert "press-line.test.yaml" in done.err
    assert mhfl("policy", "test", folder / "nowhere").code == 3
