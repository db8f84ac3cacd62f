"""A policy file becomes a policy, or all that is wrong with it at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mhfl_mq.errors import PolicyError
from mhfl_mq.policy.compiled import (
    Algorithm,
    Budget,
    Condition,
    Gate,
    Kpi,
    Limits,
    Participation,
    PerDevice,
    Quorum,
    Registered,
    Rule,
    Schedule,
    StageUse,
    Tier,
    Window,
)
from mhfl_mq.policy.load import MAX_BYTES, Known, check_policy, check_text, load_policy
from mhfl_mq.wire.blobs import PROFILES

Place = tuple[str, int, int]
DIGEST = "65bcb7a5644dbf7cf80963d4ec95f6c1d4925c50f366c739bdf30fb530426034"
"""Of the whole policy, since before schedules had windows."""

NINE = """\
apiVersion: mhfl-mq/v1
kind: FederationPolicy
metadata: {name: press, description: プレスライン, onwer: line}
spec:
  tiers:
    - {name: small, width: 0.5}
    - {name: small, width: 0.25}
  algorithm: {name: heteroffl}
  participation:
    quorum: {min: 2, fraction: 60%}
    deadline: 12:30
    deadline: 15m
  schedule:
    max_rounds: 0
  stages:
    - {name: dpp}
"""


def places(text: str, known: Known | None = None) -> list[Place]:
    """Code, line and column of each finding."""
    return [(one.code, one.line, one.column) for one in check_text(text, "p.yaml", known).findings]


def test_nine_errors_in_one_file_are_nine_findings_at_their_places(known: Known) -> None:
    assert places(NINE, known) == [
        ("POL010", 3, 46),  # onwer, after wide characters
        ("POL020", 7, 14),  # small again
        ("POL021", 7, 28),  # narrower than the tier before
        ("POL024", 8, 21),  # heteroffl
        ("POL012", 10, 32),  # 60%
        ("POL014", 11, 15),  # 12:30
        ("POL005", 12, 5),  # deadline again
        ("POL013", 14, 17),  # 0 rounds
        ("POL025", 16, 14),  # dpp
    ]


def test_each_of_the_nine_says_what_to_do(known: Known) -> None:
    hints = [one.hint for one in check_text(NINE, "p.yaml", known).findings]
    assert hints[0] == "known here: description, name, revision"
    assert hints[3] == "did you mean 'heterofl'?"
    assert hints[4] == "write 0.6"
    assert hints[8] == "did you mean 'dp'?"
    assert all(hints[:7])


def test_a_whole_policy_is_compiled_into_seconds_and_bytes(whole: str, known: Known) -> None:
    checked = check_text(whole, "p.yaml", known)
    assert checked.findings == ()
    policy = checked.policy
    assert policy is not None
    assert (policy.name, policy.description) == ("line-3", "a test")
    assert policy.tiers == (Tier("small", 0.25, 2, Budget(0.04, 300_000_000, 10.0)), Tier("large", 1.0, 4))
    options = {"steps": 5, "batch": 16, "rate": 0.01, "static": 1}
    assert policy.algorithm == Algorithm("heterofl", "uniform", options)
    assert policy.participation == Participation(10, 1.2, Quorum(3, 0.6), 900.0)
    assert policy.schedule == Schedule(5400.0, 50)
    assert policy.gate == Gate(0.02)
    assert policy.stages == (StageUse("dp", {"epsilon": 6.0, "mode": "local"}),)
    assert policy.limits == Limits(2_000_000, 65536, 2, 20, 5000.0, 10.0, 1_000_000)


def test_what_is_left_out_has_the_defaults_of_the_compiled_policy(whole: str) -> None:
    head = whole[: whole.index("  algorithm")]
    policy = check_text(head + "  algorithm: {name: heterofl}\n", "p.yaml").policy
    assert policy is not None
    assert policy.participation == Participation()
    assert policy.schedule == Schedule()
    assert policy.gate == Gate()
    assert policy.limits == Limits()
    assert policy.algorithm.options == {"steps": 20, "batch": 64, "rate": 0.003}


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("step_ms: 40", "step_ms: fast", "must be a number, not 'fast'", "write a number, e.g. 0.5"),
        ("memory_mb: 300", "memory_mb: -1", "must be more than 0, not -1", "write more than 0"),
        ("name: line-3", "name: line 3!", "'line 3!' is not a name", "write e.g. line-3"),
        ("fraction: 0.6", "fraction: 1.5", "must be at most 1, not 1.5", "write 1 or less"),
        ("- {name: dp, options: {epsilon: 6.0, mode: local}}", "- dp", "must be a mapping, not 'dp'", "{name: dp}"),
        ("chunk_bytes: 64KiB", "chunk_bytes: 1GiB", "must be at most 4 MiB, not 1GiB", "write 4 MiB or less"),
        ("chunk_bytes: 64KiB", "chunk_bytes: 7B", "must be at least 64 bytes, not 7B", "write 64 bytes or more"),
        ("devices: 20", "devices: [1]", "must be a whole number, not a list", "write a whole number, e.g. 20"),
        ("cohort: 10", "cohort: 0", "must be at least 1, not 0", "write 1 or more"),
        ("gate: {max_drop: 0.02}", "gate: 3", "must be a mapping, not 3", "write it with keys: max_drop"),
        ("mode: local", "mode: []", "must be text, a finite number", "write one of these"),
        ("max_drop: 0.02", "max_drop: .nan", "must be a finite number, not nan", "write a number"),
        (
            "    - {name: large, width: 1.0, depth: 4}",
            "    - {width: 1.0, depth: 4}",
            "needs the key 'name'",
            "add name",
        ),
        ("deadline: 15m", "deadline: 1s", "needs 10.2s for a round, longer than the deadline of 1s", "make the deadl"),
        (
            "update_bytes: 2MB",
            "update_bytes: 32KiB",
            "a chunk of 64 KiB is larger than the largest update (32 KiB)",
            "mak",
        ),
    ],
)
def test_every_finding_says_what_to_write_in_units_of_people(
    whole: str, old: str, new: str, message: str, hint: str
) -> None:
    assert old in whole
    findings = check_text(whole.replace(old, new), "p.yaml").findings
    assert all(one.hint for one in findings)
    assert any(message in one.message and hint in one.hint for one in findings), findings


def test_every_shipped_policy_loads(shipped_policies: list[Path]) -> None:
    prototypes = frozenset({"adam", "decay", "lambda", "inference"})
    known = Known({"heterofl": frozenset({"adam", "decay"}), "fedproto": prototypes, "auto": frozenset()}, frozenset())
    names = {path.stem: load_policy(path, known) for path in shipped_policies}
    assert {"default", "baseline-smallest", "night-shift", "low-bandwidth", "memory-bound"} <= set(names)
    assert all(policy.name == stem for stem, policy in names.items())
    default = names["default"]
    assert len(default.tiers) == 3
    assert names["baseline-smallest"].tiers == default.tiers[:1]
    assert names["baseline-exclusive"].tiers == default.tiers[-1:]
    baselines = (names["baseline-smallest"], names["baseline-exclusive"])
    assert all(policy.algorithm == default.algorithm for policy in baselines)
    mixed = names["mixed-architectures"]
    assert [tier.architecture for tier in mixed.tiers] == ["mlp", "cnn", "lstm"]
    assert mixed.algorithm.name == "fedproto"


# ---- the digest -----------------------------------------------------------------------------------------------


def digest(text: str) -> str:
    """The digest of a policy that is right."""
    policy = check_text(text, "p.yaml").policy
    assert policy is not None
    return policy.digest


def test_the_digest_is_of_the_content_not_of_its_writing(whole: str) -> None:
    other = (
        whole.replace("15m", "900s").replace("64KiB", "65536").replace("  schedule: {", "\n  # why\n  schedule:   {")
    )
    moved = other.replace("  gate: {max_drop: 0.02}\n", "") + "  gate:\n    max_drop: 2.0e-2\n"
    assert digest(moved) == digest(whole)


@pytest.mark.parametrize(
    ("old", "new"),
    [("15m", "16m"), ("small", "tiny"), ("0.25", "0.26"), ("a test", "another"), ("mode: local", "mode: central")],
)
def test_another_content_has_another_digest(whole: str, old: str, new: str) -> None:
    assert digest(whole.replace(old, new)) != digest(whole)


# ---- single faults --------------------------------------------------------------------------------------------

FAULTS = [
    ("apiVersion: mhfl-mq/v1", "apiVersion: mhfl-mq/v2", "POL013", 1, 13, "did you mean 'mhfl-mq/v1'?"),
    ("kind: FederationPolicy", "kind: federationpolicy", "POL013", 2, 7, "did you mean 'FederationPolicy'?"),
    ("kind: FederationPolicy", "kind: 7", "POL013", 2, 7, "known here: FederationPolicy"),
    ("metadata: {name: line-3, ", "metadata: {", "POL011", 3, 1, ""),
    ("name: line-3", "name: 検査", "POL013", 3, 18, ""),
    ("name: line-3", "name: 3", "POL012", 3, 18, 'write "3" in quotes'),
    ("step_ms: 40", "step_ms: yes", "POL012", 6, 52, ""),
    ("step_ms: 40", "step_ms: '40'", "POL012", 6, 52, "write 40 without quotes"),
    ("step_ms: 40", "step_ms: .inf", "POL013", 6, 52, ""),
    ("step_ms: 40", "step_ms: {a: 1}", "POL012", 6, 52, ""),
    ("width: 0.25", "width: 0", "POL013", 6, 28, ""),
    ("width: 0.25", "width: 1.5", "POL013", 6, 28, ""),
    ("depth: 4", "depth: 4.5", "POL012", 7, 40, ""),
    ("width: 1.0, depth: 4", "width: 0.25, depth: 2", "POL021", 7, 28, "make it wider or deeper, or remove it"),
    ("static: 1", "statik: 1", "POL026", 10, 68, "did you mean 'static'?"),
    ("static: 1", "static: x", "POL012", 10, 76, ""),
    ("cohort: 10", "cohort: 2", "POL022", 14, 19, "write at most 2, or a larger cohort"),
    ("cohort: 10", "cohort: everyone", "POL012", 12, 13, "write all, or e.g. 20"),
    ("cohort: 10", "cohort: 0", "POL013", 12, 13, ""),
    ("cohort: 10", "cohort: 21", "POL022", 12, 13, "write at most 20, or raise limits.devices"),
    ("deadline: 15m", "deadline: 15", "POL014", 15, 15, "write 15s, 15m or 15h"),
    ("deadline: 15m", "deadline:", "POL012", 15, 14, "give it a value, or remove the line"),
    ("deadline: 15m", "deadline: 0s", "POL013", 15, 15, ""),
    ("deadline: 15m", "dead-line: 15m", "POL010", 15, 5, "did you mean 'deadline'?"),
    ("deadline: 15m", "deadline: 10s", "POL027", 6, 34, ""),
    ("    - {name: dp, options", "    - {nam: dp, options", "POL010", 19, 8, "did you mean 'name'?"),
    ("mode: local", "mode: [local]", "POL012", 19, 48, ""),
    ("mode: local", "mode: .nan", "POL012", 19, 48, ""),
    ("update_bytes: 2MB", "update_bytes: 2 mb", "POL014", 21, 19, ""),
    ("chunk_bytes: 64KiB", "chunk_bytes: 3MB", "POL023", 22, 18, ""),
    ("chunk_bytes: 64KiB", "chunk_bytes: 64B", "POL023", 22, 18, "write chunk_bytes of at least 1KiB"),
    ("chunk_bytes: 64KiB", "chunk_bytes: 5MiB", "POL013", 22, 18, ""),
    ("chunk_bytes: 64KiB", "chunk_bytes: small-packet", "POL014", 22, 18, "did you mean 'small-packets'?"),
    (
        "chunk_bytes: 64KiB",
        "chunk_bytes: tiny",
        "POL014",
        22,
        18,
        "known here: default, small-packets, websockets; or write",
    ),
    (
        "broadcast_bytes_s: 1MB",
        "broadcast_bytes_s: 100kB",
        "POL023",
        27,
        24,
        "write chunk_bytes of at most 32768 bytes",
    ),
    ("update_bytes: 2MB", "update_bytes: 4GiB", "POL023", 22, 18, "write chunk_bytes of at least 820KiB"),
    ("update_bytes: 2MB", "update_bytes: 900GiB", "POL023", 22, 18, "make update_bytes smaller"),
    ("devices: 20", "devices: 2", "POL022", 14, 19, "write at most 2, or raise limits.devices"),
]


@pytest.mark.parametrize(("name", "size"), PROFILES.items())
def test_a_chunk_can_be_chosen_by_the_kind_of_broker(whole: str, name: str, size: int) -> None:
    named = check_text(whole.replace("chunk_bytes: 64KiB", f"chunk_bytes: {name}"), "p.yaml", None).policy
    assert named is not None
    assert named.limits.chunk_bytes == size
    small = whole.replace("chunk_bytes: 64KiB", f"chunk_bytes: {name}").replace("2MB", "16KiB")
    assert "POL023" in {one.code for one in check_text(small, "p.yaml", None).findings}


@pytest.mark.parametrize(("old", "new", "code", "line", "column", "hint"), FAULTS)
def test_a_fault_is_found_where_it_stands(
    whole: str, known: Known, old: str, new: str, code: str, line: int, column: int, hint: str
) -> None:
    assert old in whole
    findings = check_text(whole.replace(old, new, 1), "p.yaml", known).findings
    there = {(one.code, one.line, one.column): one for one in findings}
    assert (code, line, column) in there, [one.render() for one in findings]
    found = there[code, line, column]
    assert found.message
    assert hint in found.hint


PLANS = [
    ("timezone: Asia/Tokyo", "timezone: Asia/Tokio", "POL015", 36, 15, "did you mean 'Asia/Tokyo'?"),
    (
        "timezone: Asia/Tokyo",
        "timezone: 0/0",
        "POL015",
        36,
        15,
        "write e.g. Asia/Tokyo, Europe/Berlin or UTC",
    ),
    ("timezone: Asia/Tokyo", "timezone: 9", "POL012", 36, 15, ""),
    ("cron: 0 2 * * 1-5", "cron: 0 25 * * 1-5", "POL015", 37, 11, "e.g. 0 2 * * 1-5 for 02:00 from Monday to Friday"),
    ("cron: 0 2 * * 1-5", "cron: 0 0 2 * * 1-5", "POL015", 37, 11, "write minute, hour, day, month and weekday"),
    ("cron: 0 2 * * 1-5", "cron: 2", "POL012", 37, 11, ""),
    ("cron: 0 2 * * 1-5", "interval: 1h", "POL032", 38, 5, "write a cron, or remove it"),
    ("jitter: 5m", "interval: 1h", "POL032", 39, 5, "remove the interval or the cron"),
    ("jitter: 5m", "jitter: 5", "POL014", 39, 13, "write 5s, 5m or 5h"),
    ("duration: 8h", "duration: 15m", "POL032", 41, 51, "write more than 15m, or a shorter participation.deadline"),
    ("duration: 1d", "duration: 40d", "POL013", 43, 54, "write 31d or less"),
    ("cron: 0 22 * * *", "cron: '* * * * *'", "POL032", 41, 29, "write a cron line that begins it once"),
    ("jitter: 5m", "jitter: 1d", "POL032", 39, 13, "write less than 1d"),
    ("within: 90m", "within: 8d", "POL013", 38, 13, "write 7d or less"),
    ("duration: 1d", "duratoin: 1d", "POL010", 43, 44, "did you mean 'duration'?"),
    ("{cron: 30 4", "{name: month-end, cron: 30 4", "POL020", 44, 16, "give each one a name of its own"),
    ('ram_gb: ">= 1"', "ram_gb: 1 GB", "POL033", 17, 39, 'write a comparison in quotes, e.g. ram_gb: ">= 1"'),
    ('ram_gb: ">= 1"', 'ramgb: ">= 1"', "POL010", 17, 31, "did you mean 'ram_gb'?"),
    ("tags: [press]", "tags: 3", "POL033", 18, 34, "write the tags that it must have, e.g. tags: [press]"),
    ("on_battery: true", "on_battery: yes", "POL033", 20, 41, "write on_battery: true or on_battery: false"),
    ("name: low-battery", "name: press-line", "POL020", 18, 16, "give each one a name of its own"),
    ("tags: [press]", "tier: smal", "POL033", 18, 34, "did you mean 'small'?"),
    ('ram_gb: ">= 1"', "", "POL033", 17, 9, "add a condition on one of device, tags"),
    ("cooldown: 30m", "cooldown: 0", "POL033", 23, 5, "write a cooldown, or remove it"),
    ("largest_share: 0.5", "largest_share: 0", "POL013", 21, 20, "write more than 0"),
    ("upload_per_day: 50MB", "upload_per_day: 0", "POL013", 45, 52, "write 1 bytes or more"),
    ("gw-*: {tags", "gw 1: {tags", "POL013", 47, 5, "write e.g. gw-1"),
    ('"<= 2MB"', '"<= 2 megs"', "POL034", 51, 7, 'write e.g. "<= 2MB"'),
    ('"<= 2MB"', '"= 2MB"', "POL034", 51, 7, 'write e.g. "<= 2MB"'),
    ('">= 0.8"', "0.8", "POL012", 50, 44, ""),
    ("participation_rate", "participaton_rate", "POL013", 50, 16, "did you mean 'participation_rate'?"),
    (", watts: 12", "", "POL034", 52, 7, "add watts: 12"),
    ("window: 7d", "window: 7d, of: 0.9", "POL034", 50, 7, "remove of"),
    ("window: 7d", "window: 0s", "POL013", 50, 62, ""),
    ("gw-*: {tags", "gw-1: {tagz", "POL010", 47, 12, "did you mean 'tags'?"),
]


@pytest.mark.parametrize(("old", "new", "code", "line", "column", "hint"), PLANS)
def test_a_fault_of_the_schedule_is_found_where_it_stands(
    planned: str, known: Known, old: str, new: str, code: str, line: int, column: int, hint: str
) -> None:
    assert old in planned
    findings = check_text(planned.replace(old, new, 1), "p.yaml", known).findings
    there = {(one.code, one.line, one.column): one for one in findings}
    assert (code, line, column) in there, [one.render() for one in findings]
    assert hint in there[code, line, column].hint


def test_a_schedule_and_its_rules_are_compiled_into_seconds_and_bytes(planned: str, known: Known) -> None:
    policy = check_text(planned, "p.yaml", known).policy
    assert policy is not None
    assert policy.schedule == Schedule(
        cron="0 2 * * 1-5",
        timezone="Asia/Tokyo",
        within_s=5400.0,
        jitter_s=300.0,
        windows=(Window("0 22 * * *", 28_800.0, "night"),),
        blackouts=(Window("0 0 L * *", 86_400.0, "month-end"), Window("30 4 * * 7", 1200.0)),
        per_device=PerDevice(3600.0, 50_000_000, 1200.0, True),
    )
    part = policy.participation
    assert (part.largest_share, part.cooldown_s, part.failures) == (0.5, 1800.0, 2)
    assert part.require == (
        Rule("enough-memory", (Condition("ram_gb", ">=", 1.0),)),
        Rule("press-line", (Condition("device", "one of", ("gw-*", "pc-1")), Condition("tags", "has", ("press",)))),
    )
    assert part.forbid == (Rule("low-battery", (Condition("battery", "<", 30.0), Condition("on_battery", "is", True))),)
    assert [tier.every for tier in policy.tiers] == [1, 2]
    assert policy.kpi == (
        Kpi("participation_rate", ">=", 0.8, 604_800.0),
        Kpi("bytes_per_device_round", "<=", 2e6),
        Kpi("energy_per_device_round", "<=", 500.0, watts=12.0),
        Kpi("time_to_accuracy", "<=", 7200.0, of=0.9),
    )
    assert (policy.revision, policy.require_signatures) == (7, 2)
    assert policy.devices == (Registered("gw-*", ("press", "line-3")),)


def test_a_time_zone_where_no_hour_matters_is_a_finding(whole: str, known: Known) -> None:
    text = whole.replace("interval: 1h30m", "interval: 1h30m, timezone: Asia/Tokyo")
    assert [(one.code, one.column) for one in check_text(text, "p.yaml", known).findings] == [("POL032", 31)]


def test_a_policy_without_the_schedules_later_keys_keeps_its_digest(whole: str, known: Known) -> None:
    """It stands in ledgers."""
    policy = check_text(whole, "p.yaml", known).policy
    assert policy is not None
    assert policy.digest == DIGEST


def test_a_stage_twice_and_a_stage_where_none_is_installed() -> None:
    text = NINE[: NINE.index("  stages")] + "  stages: [{name: dp}, {name: dp}]\n"
    codes = [one[0] for one in places(text, Known({}, frozenset()))]
    assert codes.count("POL020") == 2  # the tier, and the stage
    assert codes.count("POL025") == 2


def test_what_algorithms_and_stages_have_against_a_policy_is_found_at_the_list(whole: str) -> None:
    known = Known(
        {"heterofl": frozenset({"static"})},
        frozenset({"dp"}),
        stages_misfit=lambda names: f"{names} do not fit",
        tiers_misfit=lambda name, tiers: f"{name} cannot do {tiers} tiers",
    )
    found = check_text(whole, "p.yaml", known).findings
    assert [(one.code, one.line, one.column, one.message) for one in found] == [
        ("POL029", 5, 3, "heterofl cannot do 2 tiers"),
        ("POL028", 18, 3, "['dp'] do not fit"),
    ]


@pytest.mark.parametrize("text", ["[1, 2]", "hello", "7", "spec"])
def test_a_file_that_is_no_mapping_is_one_finding(text: str) -> None:
    assert places(text) == [("POL012", 1, 1)]


def test_a_file_with_nothing_right_says_what_a_policy_begins_with() -> None:
    findings = check_text("{}", "p.yaml").findings
    assert {one.message for one in findings} == {
        f"the file needs the key '{key}'" for key in ("apiVersion", "kind", "metadata", "spec")
    }
    assert any("begin the file with apiVersion: mhfl-mq/v1" in one.hint for one in findings)


def test_without_known_names_any_algorithm_and_stage_passes(whole: str) -> None:
    assert places(whole.replace("heterofl", "mine").replace("name: dp", "name: seal")) == []


def test_a_parts_own_form_is_checked_where_a_list_stands_for_a_mapping(whole: str) -> None:
    assert places(whole.replace("schedule: {interval: 1h30m, max_rounds: 50}", "schedule: [1h]")) == [
        ("POL012", 16, 13)
    ]


# ---- files ----------------------------------------------------------------------------------------------------


def test_a_missing_file_a_folder_and_a_huge_file_are_findings(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (MAX_BYTES + 1))
    for path, code in ((tmp_path / "none.yaml", "POL001"), (tmp_path, "POL001"), (big, "POL003")):
        (found,) = check_policy(path)
        assert (found.code, found.line) == (code, 0)
        assert found.render().startswith(f"{path}: {code}: ")


def test_a_file_that_is_not_utf_8_is_found_at_its_first_wrong_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: 1\nnäme: ".encode() + b"\xfc\n")
    assert [(one.code, one.line, one.column) for one in check_policy(path)] == [("POL002", 2, 7)]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path, whole: str) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + whole.replace("\n", "\r\n").encode())
    assert check_policy(path) == []


def test_loading_a_wrong_policy_raises_one_error_with_every_finding(tmp_path: Path, known: Known) -> None:
    path = tmp_path / "nine.yaml"
    path.write_text(NINE, encoding="utf-8")
    with pytest.raises(PolicyError) as raised:
        load_policy(path, known)
    assert "9 findings" in str(raised.value)
    assert str(raised.value).count(f"{path}:") == 10  # where, and each finding
    assert raised.value.exit_code == 4


@given(st.text(alphabet="{}[]:,-&*!|>'\"#%@ \n0ab.~", max_size=120))
def test_any_text_gives_a_policy_or_findings_and_never_another_error(text: str) -> None:
    checked = check_text(text, "p.yaml")
    assert (checked.policy is None) == bool(checked.findings)
    assert all(one.render() for one in checked.findings)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the fixture is a constant
@given(
    line=st.integers(0, 27),
    value=st.sampled_from(["x", "[]", "{}", "~", "-1", "1e400", "'", "*a", "&a b", "true", "? ", '"\\ud800"']),
)
def test_a_strange_value_on_any_line_gives_a_policy_or_findings(whole: str, line: int, value: str) -> None:
    lines = whole.splitlines()
    number = line % len(lines)
    key, _, _ = lines[number].partition(":")
    lines[number] = f"{key}: {value}"
    checked = check_text("\n".join(lines), "p.yaml")
    assert (checked.policy is None) == bool(checked.findings)
    assert all(one.render().encode() for one in checked.findings)
    if checked.policy is not None:
        assert len(checked.policy.digest) == 64


def test_what_acts_on_a_policy_needs_neither_yaml_nor_pydantic() -> None:
    code = "import sys, mhfl_mq.policy; print([name for name in ('yaml', 'pydantic', 'numpy') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


# ---- tiers of unlike models -----------------------------------------------------------------------------------


def with_tiers(whole: str, *tiers: str) -> str:
    """The whole policy with these tiers, from line 6 on."""
    first, last = whole.index("    - {name: small"), whole.index("  algorithm:")
    return whole[:first] + "".join(f"    - {{{tier}}}\n" for tier in tiers) + whole[last:]


@pytest.mark.parametrize(
    "tiers",
    [
        ("name: a, architecture: mlp", "name: b, architecture: cnn"),
        ("name: a, width: 1.0, architecture: mlp", "name: b, width: 1.0, architecture: cnn"),
        ("name: a, width: 1.0, depth: 4, architecture: mlp", "name: b, width: 0.5, depth: 2, architecture: cnn"),
        ("name: a, width: 0.25", "name: b, width: 0.25, architecture: mlp", "name: c, width: 1.0"),
        ("name: a, width: 0.25", "name: b, architecture: mlp"),
    ],
)
def test_tiers_of_their_own_architecture_need_not_nest(whole: str, known: Known, tiers: tuple[str, ...]) -> None:
    checked = check_text(with_tiers(whole, *tiers), "p.yaml", known)
    assert checked.findings == ()
    assert checked.policy is not None
    assert [bool(tier.architecture) for tier in checked.policy.tiers] == ["architecture" in tier for tier in tiers]


def test_those_without_must_nest_whatever_stands_between_them(whole: str, known: Known) -> None:
    text = with_tiers(whole, "name: a, width: 0.5", "name: b, width: 1.0, architecture: mlp", "name: c, width: 0.25")
    (finding,) = check_text(text, "p.yaml", known).findings
    assert (finding.code, finding.line) == ("POL021", 8)


def test_an_architecture_under_an_algorithm_that_cuts_one_model_is_a_finding_at_its_place(whole: str) -> None:
    known = Known({"heterofl": frozenset({"static"})}, frozenset({"dp"}), models_apart=lambda name: name != "heterofl")
    text = with_tiers(whole, "name: a, width: 0.5", "name: b, width: 1.0, architecture: mlp")
    (finding,) = check_text(text, "p.yaml", known).findings
    assert (finding.code, finding.line, finding.column) == ("POL031", 7, 43)
    assert "heterofl makes all tiers of one model" in finding.message
    assert "fedproto" in finding.hint
