"""Who may be invited: rules on facts, what a device has done, and the schedule, with reasons and the next chance."""

import random
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.policy import (
    Algorithm,
    Condition,
    Member,
    Participation,
    PerDevice,
    Policy,
    Rule,
    Schedule,
    Tier,
    Window,
    invite,
)
from mhfl_mq.policy.conditions import condition, holds
from mhfl_mq.policy.eligible import Eligibility, Fleet, decide, explain
from mhfl_mq.policy.facts import FACTS, DeviceFacts, Kind, Past, Source, Upload, Value

TOKYO = ZoneInfo("Asia/Tokyo")
NOON = datetime(2026, 11, 24, 12, tzinfo=TOKYO).timestamp()
MIDNIGHT = datetime(2026, 11, 25, tzinfo=TOKYO).timestamp()
MEMORY = Rule("enough-memory", (condition("ram_gb", ">= 1"),))
PRESS = Rule("press-line", (condition("tags", ["press"]),))
BATTERY = Rule("low", (condition("on_battery", True), condition("battery", "< 30")))


def policy(participation: Participation | None = None, per_device: PerDevice | None = None) -> Policy:
    schedule = Schedule(timezone="Asia/Tokyo", per_device=per_device or PerDevice())
    return Policy("p", (Tier("small", 1.0),), Algorithm("heterofl"), "", participation or Participation(), schedule)


def device(past: Any = None, next_bytes: Any = 0, **facts: Any) -> DeviceFacts:
    return DeviceFacts("gw-03", facts, past or Past(), NOON - 12.0, next_bytes)


# ---- conditions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact", "written", "value", "met"),
    [
        ("ram_gb", ">= 1", 1.0, True),
        ("ram_gb", ">=1", 0.99, False),
        ("ram_gb", "< 2.5", 2.5, False),
        ("ram_gb", "> -1", 0.0, True),
        ("cpus", 4, 4.0, True),
        ("cpus", "== 4", 5.0, False),
        ("idle", True, True, True),
        ("idle", False, True, False),
        ("os", "linux", "linux", True),
        ("os", ["linux", "windows"], "darwin", False),
        ("device", "gw-*", "gw-03", True),
        ("device", "gw-*", "xgw-03", False),
        ("device", "gw.03", "gw-03", False),
        ("device", "a*a", "a", False),
        ("device", "*a*b*", "xxbxaxb", True),
        ("device", "*a*a*a*a*a*a*a*a*a*b", "a" * 64, False),
        ("device", ["pc-1", "*-line-?"], "a-line-3", False),
        ("tags", ["press", "line-3"], ("line-3", "old", "press"), True),
        ("tags", "press", ("pres",), False),
    ],
)
def test_a_condition_holds_as_it_reads(fact: str, written: object, value: Value, met: bool) -> None:
    assert holds(condition(fact, written), value) is met


@pytest.mark.parametrize(
    ("fact", "written"),
    [
        ("ram_gb", "=> 1"),
        ("ram_gb", ">= 1 GB"),
        ("ram_gb", True),
        ("ram_gb", [1]),
        ("ram_gb", None),
        ("ram_gb", ">= " + "9" * 400),
        ("idle", "yes"),
        ("idle", 1),
        ("os", 3),
        ("os", []),
        ("os", ""),
        ("tags", {"a": 1}),
        ("tags", ["a", 3]),
    ],
)
def test_what_is_no_condition_on_a_fact_says_what_to_write(fact: str, written: object) -> None:
    with pytest.raises(ValueError, match=f"not a condition on {fact}.*; write"):
        condition(fact, written)


def test_every_fact_has_its_kind_its_source_and_what_it_means() -> None:
    for name, fact in FACTS.items():
        assert name == fact.name
        assert len(fact.says) > 10
    assert {fact.source for fact in FACTS.values()} == set(Source)


# ---- rules on facts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "out"),
    [
        ({"ram_gb": 2.0, "tags": ("press",)}, ""),
        ({"ram_gb": 0.5, "tags": ("press",)}, "enough-memory"),
        ({"ram_gb": 2.0, "tags": ()}, "press-line"),
        ({"tags": ("press",)}, "enough-memory"),
        ({}, "enough-memory"),
    ],
)
def test_all_that_is_required_must_hold_and_what_is_not_known_does_not(facts: dict[str, Value], out: str) -> None:
    rules = Eligibility(policy(Participation(require=(MEMORY, PRESS))))
    assert rules.against(device(**facts), 0, NOON) == out


@pytest.mark.parametrize(
    ("facts", "allowed"),
    [
        ({"on_battery": True, "battery": 20.0}, False),
        ({"on_battery": True, "battery": 80.0}, True),
        ({"on_battery": False}, True),  # whatever its battery is
        ({"on_battery": True}, False),  # not known: out
        ({"battery": 20.0}, False),
        ({"battery": 80.0}, True),
        ({}, False),
    ],
)
def test_what_is_forbidden_needs_all_of_its_conditions_and_what_is_not_known_is_forbidden(
    facts: dict[str, Value], allowed: bool
) -> None:
    one = policy(Participation(forbid=(BATTERY,)))
    assert (Eligibility(one).against(device(**facts), 0, NOON) == "") is allowed
    (reason,) = Eligibility(one).explain(device(**facts), 0, NOON).reasons
    assert (reason.rule, reason.holds) == ("low", allowed)


def test_forbid_is_looked_at_first() -> None:
    both = policy(Participation(require=(MEMORY,), forbid=(BATTERY,)))
    assert Eligibility(both).names == ("low", "enough-memory")
    assert Eligibility(both).against(device(ram_gb=0.1, on_battery=True, battery=5.0), 0, NOON) == "low"


def test_a_reason_has_the_value_whose_word_it_is_and_how_old_it_is() -> None:
    one = policy(Participation(require=(MEMORY, PRESS), forbid=(BATTERY,)))
    found = explain(one, Fleet(), device(ram_gb=2.0, tags=("press", "line-3"), on_battery=False), NOON)
    assert found.answer.now
    assert [str(reason) for reason in found.reasons] == [
        "low: forbidden where on_battery is yes: it is no (reported 12s ago), "
        "battery < 30: battery is not known, so the device is out",
        "enough-memory: ram_gb >= 1: it is 2 (reported 12s ago)",
        "press-line: tags has press: it is [press, line-3] (verified)",
    ]


# ---- what a device has done -----------------------------------------------------------------------------------


def test_a_least_interval_lies_between_two_turns_of_a_device() -> None:
    one = policy(per_device=PerDevice(min_interval_s=3600.0))
    rules = Eligibility(one)
    assert rules.against(device(), 5, NOON) == ""
    soon = device(Past(1, 0, NOON - 600.0))
    assert rules.against(soon, 5, NOON) == "schedule.per_device.min_interval"
    assert rules.against(soon, 5, NOON + 3000.0) == ""
    found = explain(one, Fleet(), soon, NOON)
    assert found.answer.changes_at == NOON + 3000.0
    assert "its last turn began 2026-11-24 11:50 JST, 1h must lie between two" in found.why
    far = device(Past(1, 0, NOON + 1e6))  # of a clock that was wrong: it stops nobody
    assert rules.against(far, 5, NOON) == ""


def test_a_byte_budget_stops_uploads_until_midnight_in_the_policys_zone() -> None:
    one = policy(per_device=PerDevice(upload_bytes=1000))
    rules = Eligibility(one)
    yesterday = Upload(datetime(2026, 11, 23, 23, 59, tzinfo=TOKYO).timestamp(), 900, 1.0)
    today = Upload(datetime(2026, 11, 24, 0, 1, tzinfo=TOKYO).timestamp(), 600, 1.0)
    assert rules.against(device(Past(uploads=(yesterday, today)), 400), 2, NOON) == ""
    spent = device(Past(uploads=(yesterday, today)), 401)
    assert rules.against(spent, 2, NOON) == "schedule.per_device.upload_per_day"
    found = explain(one, Fleet(), spent, NOON)
    assert found.answer.changes_at == MIDNIGHT
    assert "600 B today, the next update is 401 B, 1 kB are allowed" in found.why
    assert rules.against(spent, 2, MIDNIGHT - 0.1) == "schedule.per_device.upload_per_day"
    assert rules.against(spent, 2, MIDNIGHT) == ""


def test_an_update_that_is_larger_than_a_days_budget_is_never_sent() -> None:
    found = explain(policy(per_device=PerDevice(upload_bytes=1000)), Fleet(), device(next_bytes=1001), NOON)
    assert (found.answer.now, found.answer.changes_at) == (False, None)


def test_a_budget_of_training_counts_the_last_training_as_the_next_one() -> None:
    one = policy(per_device=PerDevice(training_s=100.0))
    rules = Eligibility(one)
    assert rules.against(device(), 0, NOON) == ""
    past = Past(uploads=(Upload(NOON - 900, 2, 65.0),), last_s=35.0)
    assert rules.against(device(past), 0, NOON) == ""
    more = replace(past, uploads=(*past.uploads, Upload(NOON, 1, 35.0)))
    assert rules.against(device(more), 0, NOON) == "schedule.per_device.training_per_day"
    found = explain(one, Fleet(), device(more), NOON)
    assert found.answer.changes_at == MIDNIGHT
    assert "1m 40s today, the last training took 35s, 1m 40s are allowed" in found.why


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-24", 24)], ids=["spring", "autumn", "plain"]
)
def test_a_day_is_as_long_as_the_zones_clocks_make_it(day: str, hours: int) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    begin = datetime.fromisoformat(day).replace(tzinfo=berlin).timestamp()
    one = policy(per_device=PerDevice(upload_bytes=10))
    one = replace(one, schedule=replace(one.schedule, timezone="Europe/Berlin"))
    spent = device(Past(uploads=(Upload(begin, 10, 0.0),)), 1)
    assert explain(one, Fleet(), spent, begin + 1).answer.changes_at == begin + hours * 3600


def test_a_device_whose_turns_bring_nothing_rests_and_then_tries_again() -> None:
    one = policy(Participation(cooldown_s=1800.0, failures=2))
    rules = Eligibility(one)
    assert rules.against(device(Past(5, 1, NOON)), 9, NOON) == ""
    failed = device(Past(5, 2, NOON - 600.0))
    assert rules.against(failed, 9, NOON) == "participation.cooldown"
    found = explain(one, Fleet(), failed, NOON)
    assert found.answer.changes_at == NOON + 1200.0
    assert "2 turns in a row without an update, 2 are too many, rests until 2026-11-24 12:20 JST" in found.why
    assert rules.against(failed, 9, NOON + 1200.0) == ""


@given(share=st.floats(0.05, 0.95), rounds=st.integers(1, 200))
def test_no_device_has_its_turn_in_more_than_the_largest_share_of_the_rounds(share: float, rounds: int) -> None:
    rules = Eligibility(policy(Participation(largest_share=share)))
    turns = 0
    for number in range(rounds):
        if not rules.against(device(Past(turns)), number, NOON):
            turns += 1
        assert turns < share * (number + 1) + 1
    assert turns >= int(share * rounds)


@given(share=st.sampled_from([0.25, 0.34, 0.5, 0.8]), devices=st.integers(4, 12), seed=st.integers(0, 9))
def test_with_a_largest_share_devices_take_turns_and_rounds_go_on(share: float, devices: int, seed: int) -> None:
    """Invited by the rule and the invitation together, as a running federation does."""
    one = Participation(largest_share=share)
    rules, luck = Eligibility(policy(one)), random.Random(seed)
    turns = dict.fromkeys((f"d{k}" for k in range(devices)), 0)
    for number in range(60):
        allowed = [name for name, had in turns.items() if not rules.against(device(Past(had)), number, NOON)]
        found = invite([Member(name, 0, turns[name]) for name in allowed], one, luck, present=devices).answer
        assert found is not None, f"round {number} has nobody left"
        for name in found.devices:
            turns[name] += 1
            assert turns[name] < share * (number + 1) + 1
    assert min(turns.values()) >= 60 * share / 2


def test_a_turn_that_a_wrong_clock_put_far_ahead_keeps_nobody_out() -> None:
    one = policy(Participation(cooldown_s=1800.0, failures=2))
    assert Eligibility(one).against(device(Past(5, 2, NOON + 1e8)), 9, NOON) == ""


def test_a_training_that_was_longer_than_the_limit_keeps_a_device_out_for_its_day_alone() -> None:
    one = policy(per_device=PerDevice(training_s=60.0))
    slept = device(Past(uploads=(Upload(NOON - 900, 1, 9000.0),), last_s=9000.0))
    found = explain(one, Fleet(), slept, NOON)
    assert (found.answer.now, found.answer.changes_at) == (False, MIDNIGHT)
    assert Eligibility(one).against(slept, 0, MIDNIGHT) == ""


def test_a_device_on_its_battery_is_left_alone_and_so_is_one_that_does_not_say() -> None:
    rules = Eligibility(policy(per_device=PerDevice(quiet_on_battery=True)))
    name = "schedule.per_device.quiet_on_battery"
    assert [rules.against(device(**facts), 0, NOON) for facts in ({"on_battery": True}, {}, {"on_battery": False})] == [
        name,
        name,
        "",
    ]


# ---- the fleet ------------------------------------------------------------------------------------------------


def fleet(*devices: DeviceFacts) -> Fleet:
    return Fleet(devices)


def test_a_decision_names_who_may_be_invited_and_how_many_each_rule_keeps_out() -> None:
    one = policy(Participation(require=(MEMORY,)))
    found = decide(one, fleet(*(DeviceFacts(f"d{k}", {"ram_gb": float(k)}) for k in range(4))), NOON)
    assert found.answer == ("d1", "d2", "d3")
    assert [str(reason) for reason in found.reasons] == ["enough-memory: keeps 1 of 4 devices out"]


def test_while_the_schedule_allows_no_round_nobody_is_invited_whatever_the_rules_say() -> None:
    one = policy()
    night = replace(one.schedule, windows=(Window("0 22 * * *", 3600.0),))
    found = decide(replace(one, schedule=night), fleet(DeviceFacts("d1")), NOON)
    assert found.answer == ()
    assert "the next round may begin 2026-11-24 22:00 JST" in found.why


def test_the_next_chance_is_when_the_device_and_the_schedule_both_allow_it() -> None:
    one = policy(per_device=PerDevice(min_interval_s=7200.0))
    one = replace(one, schedule=replace(one.schedule, windows=(Window("0 */3 * * *", 3600.0),)))
    resting = device(Past(1, 0, NOON - 60.0))  # free at 13:59, and the window of 12:00 closes at 13:00
    found = explain(one, Fleet(), resting, NOON)
    assert found.answer.changes_at == NOON + 3 * 3600.0


names = st.sampled_from(sorted(name for name, fact in FACTS.items() if fact.kind is not Kind.TAGS))
values: dict[Kind, st.SearchStrategy[Value]] = {
    Kind.NUMBER: st.floats(0, 100),
    Kind.TEXT: st.sampled_from(["a", "b", "ab"]),
    Kind.FLAG: st.booleans(),
}
conditions_of: dict[Kind, st.SearchStrategy[object]] = {
    Kind.NUMBER: st.builds("{} {}".format, st.sampled_from([">=", "<", "=="]), st.integers(0, 100)),
    Kind.TEXT: st.lists(st.sampled_from(["a", "b", "a*"]), min_size=1, max_size=2),
    Kind.FLAG: st.booleans(),
}
conditions = names.flatmap(lambda name: st.builds(condition, st.just(name), conditions_of[FACTS[name].kind]))
some_rules = st.lists(
    st.builds(Rule, st.uuids().map(str), st.lists(conditions, min_size=1, max_size=3).map(tuple)), max_size=3
).map(tuple)


@given(require=some_rules, forbid=some_rules, data=st.data())
def test_the_quick_answer_is_that_of_the_reasons_and_a_plain_loop_agrees(
    require: tuple[Rule, ...], forbid: tuple[Rule, ...], data: st.DataObject
) -> None:
    facts = {name: data.draw(values[FACTS[name].kind], label=name) for name in data.draw(st.sets(names), label="known")}
    one = policy(Participation(require=require, forbid=forbid))
    found = Eligibility(one).explain(device(**facts), 0, NOON)

    def meets(one: Condition) -> bool | None:
        return None if one.fact not in facts else holds(one, facts[one.fact])

    plain = all(all(meets(one) for one in rule.conditions) for rule in require) and all(
        any(meets(one) is False for one in rule.conditions) for rule in forbid
    )
    assert found.answer is plain
    against = Eligibility(one).against(device(**facts), 0, NOON)
    assert against == next((reason.rule for reason in found.reasons if not reason.holds), "")


def test_the_table_of_facts_in_the_documents_is_that_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text("utf-8")
    for fact in FACTS.values():
        assert f"| `{fact.name}` | {fact.kind.value} | {fact.source.value} | {fact.says} |" in page
