"""Decisions: what they answer, why, and the laws that hold for all of them."""

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mhfl_mq.policy import (
    Budget,
    Gate,
    Invitation,
    Member,
    Participation,
    Quorum,
    Reason,
    Tier,
    assign_tier,
    best_tiers,
    gate,
    invite,
    quorum_needed,
)
from mhfl_mq.wire.messages import Capability, ProbeResult

LENGTHS = (1000, 4000, 16000)


def capability(*costs: tuple[float, int] | None, link: float = 0.0) -> Capability:
    """What a device measured: (seconds per step, peak bytes) for tiers t0, t1, ...; None: does not run."""
    probes = [ProbeResult(f"t{k}", *cost) for k, cost in enumerate(costs) if cost is not None]
    return Capability(session=1, layout="0" * 64, examples=10, link_bytes_s=link, probes=tuple(probes))


def tiers(*budgets: Budget) -> tuple[Tier, ...]:
    """Tiers t0, t1, ... with these budgets."""
    return tuple(Tier(f"t{k}", (k + 1) / len(budgets), 0, budget) for k, budget in enumerate(budgets))


# ---- tiers ----------------------------------------------------------------------------------------------------


def test_a_device_gets_the_largest_tier_that_fits_and_why_not_the_next() -> None:
    rules = tiers(Budget(0.1, 10**9, 5), Budget(0.1, 10**9, 5), Budget(0.1, 10**9, 5))
    found = assign_tier(rules, LENGTHS, capability((0.01, 10**6), (0.1, 10**9), (0.2, 2 * 10**9), link=10_000))
    assert found.answer == 1
    assert [reason.rule for reason in found.reasons if not reason.holds] == [
        "t2.step",
        "t2.memory",
        "t2.transfer",
    ]
    assert "t2.step: 200 ms is over 100 ms" in found.why
    assert Reason("t1.transfer", True, "3.2 s is within 5 s") in found.reasons
    assert "t1" not in found.why


def test_a_cost_of_exactly_the_budget_fits() -> None:
    # 1000 coordinates of 4 bytes, there and back, at 8000 bytes a second.
    found = assign_tier(tiers(Budget(0.1, 500, 1.0)), (1000,), capability((0.1, 500), link=8000))
    assert found.answer == 0
    assert (
        found.why
        == "t0.step: 100 ms is within 100 ms; t0.memory: 500 B is within 500 B; t0.transfer: 1 s is within 1 s"
    )


@pytest.mark.parametrize(
    ("step_s", "budget_s", "says"),
    [
        (0.012, 2.0, "12 ms is within 2 s"),
        (0.9999, 0.999, "1 s is over 999 ms"),
        (12.34, 90.0, "12.3 s is within 1m 30s"),
        (1e300, 1.0, "1e+300 s is over 1 s"),
    ],
)
def test_reasons_have_numbers_as_people_read_them(step_s: float, budget_s: float, says: str) -> None:
    found = assign_tier(tiers(Budget(budget_s)), LENGTHS[:1], capability((step_s, 500)))
    assert found.reasons[0] == Reason("t0.step", not says.count("over"), says)


def test_a_tier_that_does_not_run_is_not_given_and_no_tier_is_an_answer() -> None:
    found = assign_tier(tiers(Budget(), Budget()), LENGTHS[:2], capability(None, None))
    assert found.answer is None
    assert found.why == "t0.runs: does not run on this device; t1.runs: does not run on this device"


def test_a_link_that_was_not_measured_is_not_held_against_the_device() -> None:
    found = assign_tier(tiers(Budget(transfer_s=0.001)), (10**6,), capability((0.1, 1)))
    assert found.answer == 0
    assert Reason("t0.transfer", True, "link not measured yet") in found.reasons


def test_the_reason_fits_into_an_assignment_however_many_tiers_there_are() -> None:
    many = tuple(Tier(f"a-rather-long-name-for-a-tier-{k}", (k + 1) / 32) for k in range(32))
    assert len(assign_tier(many, range(32), capability()).why) == 400


bound = st.none() | st.floats(0.001, 1000)
budgets = st.builds(Budget, bound, st.none() | st.integers(1, 10**9), bound)
costs = st.none() | st.tuples(st.floats(0, 1000), st.integers(0, 10**9))


@given(st.lists(st.tuples(budgets, costs), min_size=1, max_size=5), st.floats(0, 1e6))
def test_an_assigned_tier_never_exceeds_a_budget_and_every_larger_one_does(
    both: list[tuple[Budget, tuple[float, int] | None]], link: float
) -> None:
    lengths = [1000 * 4**k for k in range(len(both))]
    rules = tiers(*(budget for budget, _ in both))
    answer = assign_tier(rules, lengths, capability(*(cost for _, cost in both), link=link)).answer

    def fits(k: int) -> bool:
        budget, cost = both[k]
        if cost is None:
            return False
        transfer = 8 * lengths[k] / link if link else 0.0
        limits = (budget.step_s, budget.memory_bytes, budget.transfer_s)
        return all(limit is None or value <= limit for value, limit in zip((*cost, transfer), limits, strict=True))

    assert answer is None or fits(answer)
    assert not any(
        fits(k) for k in range(-1 if answer is None else answer, len(both)) if k > (-1 if answer is None else answer)
    )


@given(st.lists(st.tuples(budgets, costs, st.floats(1, 10)), min_size=1, max_size=5), st.floats(0, 1e6))
def test_a_larger_budget_never_gives_a_smaller_tier(
    rows: list[tuple[Budget, tuple[float, int] | None, float]], link: float
) -> None:
    lengths = [1000 * 4**k for k in range(len(rows))]
    measured = capability(*(cost for _, cost, _ in rows), link=link)
    before = assign_tier(tiers(*(budget for budget, _, _ in rows)), lengths, measured).answer
    grown = tiers(*(_grown(budget, factor) for budget, _, factor in rows))
    after = assign_tier(grown, lengths, measured).answer
    assert before is None or (after is not None and after >= before)


def _grown(budget: Budget, factor: float) -> Budget:
    memory = None if budget.memory_bytes is None else math.ceil(budget.memory_bytes * factor)
    step, transfer = (None if one is None else one * factor for one in (budget.step_s, budget.transfer_s))
    return Budget(step, memory, transfer)


# ---- invitations ----------------------------------------------------------------------------------------------


def members(*counted: int) -> list[Member]:
    """Devices d0, d1, ... and how many turns they had."""
    return [Member(f"d{k}", 0, count) for k, count in enumerate(counted)]


def invited(rules: Participation, *counted: int, seed: int = 1) -> Invitation | None:
    """Who is invited."""
    return invite(members(*counted), rules, random.Random(seed)).answer


def test_everyone_who_is_there_is_invited_when_the_policy_says_all() -> None:
    found = invited(Participation(quorum=Quorum(2, 0.5)), 3, 1, 2, 0, 0)
    assert found is not None
    assert sorted(found.devices) == ["d0", "d1", "d2", "d3", "d4"]
    assert (found.cohort, found.needed) == (5, 3)


def test_a_cohort_takes_those_with_the_fewest_turns_and_some_more_for_failures() -> None:
    found = invited(Participation(cohort=2, over_provision=1.5, quorum=Quorum(1, 1.0)), 5, 1, 9, 0, 7)
    assert found is not None
    assert found.devices == ("d3", "d1", "d0")
    assert (found.cohort, found.needed) == (2, 2)


def test_too_few_devices_are_no_invitation_with_the_numbers() -> None:
    found = invite(members(0), Participation(quorum=Quorum(min=2)), random.Random(1))
    assert found.answer is None
    assert found.why == "quorum: 1 device here, 2 needed"


def test_a_cohort_is_at_most_who_is_here_and_so_is_what_the_quorum_is_a_share_of() -> None:
    rules = Participation(cohort=10, quorum=Quorum(3, 0.5))
    assert invited(rules, 0, 0) is None
    found = invited(rules, *[0] * 8)
    assert found is not None
    assert (len(found.devices), found.cohort, found.needed) == (8, 8, 4)


@pytest.mark.parametrize(
    ("quorum", "cohort", "needed"),
    [
        (Quorum(1, 0.7), 10, 7),
        (Quorum(1, 0.71), 10, 8),
        (Quorum(3, 0.1), 10, 3),
        (Quorum(1, 0.0), 10, 1),
        (Quorum(1, 1.0), 7, 7),
    ],
)
def test_a_quorum_is_the_larger_of_number_and_share(quorum: Quorum, cohort: int, needed: int) -> None:
    assert quorum_needed(quorum, cohort) == needed


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 12), st.floats(1, 3), st.integers(0, 99))
def test_an_invitation_follows_from_who_is_there_and_from_luck_alone(
    last: list[int], cohort: int, more: float, seed: int
) -> None:
    rules = Participation(cohort=cohort, over_provision=more)
    there = members(*last)
    found = invite(there, rules, random.Random(seed)).answer
    shuffled = random.Random(seed + 1).sample(there, len(there))
    assert invite(shuffled, rules, random.Random(seed)).answer == found
    assert found is not None
    chosen = [member.turns for member in there if member.device in found.devices]
    rest = [member.turns for member in there if member.device not in found.devices]
    assert (
        len(set(found.devices))
        == len(found.devices)
        == min(len(there), math.ceil(round(min(cohort, len(there)) * more, 9)))
    )
    assert not rest or max(chosen) <= min(rest)


def test_no_device_is_passed_over_for_long() -> None:
    luck, counted = random.Random(7), dict.fromkeys(range(10), 0)
    for _ in range(20):
        there = [Member(str(k), 0, count) for k, count in counted.items()]
        found = invite(there, Participation(cohort=3), luck).answer
        assert found is not None
        for device in found.devices:
            counted[int(device)] += 1
    assert set(counted.values()) == {6}


def test_among_equals_luck_decides() -> None:
    firsts = {found.devices for seed in range(20) if (found := invited(Participation(cohort=1), 0, 0, 0, seed=seed))}
    assert firsts == {("d0",), ("d1",), ("d2",)}


# ---- the gate -------------------------------------------------------------------------------------------------

TIERS = ("small", "large")


def test_a_model_that_is_not_worse_passes() -> None:
    found = gate(TIERS, {"small": 0.7, "large": 0.8}, {"small": 0.7, "large": 0.8}, Gate(0.0))
    assert found.answer
    assert found.alarms == ()


def test_a_drop_of_exactly_the_bound_passes_and_more_does_not() -> None:
    head = {"small": 0.8, "large": 0.9}
    assert gate(TIERS, {"small": 0.7, "large": 0.8}, head, Gate(0.1)).answer
    found = gate(TIERS, {"small": 0.69, "large": 0.8}, head, Gate(0.1))
    assert not found.answer
    assert found.why == "max_drop: mean 0.8500 -> 0.7450, at most 0.1 less is allowed"


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_metric_that_is_missing_or_not_finite_never_passes(value: float | None) -> None:
    new = {"small": 0.7} if value is None else {"small": 0.7, "large": value}
    found = gate(TIERS, new, {}, Gate())
    assert not found.answer
    assert found.why == "finite: no finite metric for tier large"


def test_the_first_model_has_nothing_to_be_worse_than() -> None:
    assert gate(TIERS, {"small": 0.2, "large": 0.3}, {}, Gate(0.0)).answer


def test_only_tiers_that_the_head_was_measured_on_are_compared() -> None:
    found = gate(TIERS, {"small": 0.8, "large": 0.1}, {"small": 0.8, "large": math.nan}, Gate(0.0))
    assert found.answer


def test_without_a_bound_any_finite_model_passes() -> None:
    assert gate(TIERS, {"small": 0.1, "large": 0.1}, {"small": 0.9, "large": 0.9}, Gate()).answer


def test_a_largest_tier_that_is_worse_than_a_smaller_one_is_an_alarm_and_no_refusal() -> None:
    found = gate(("a", "b", "c"), {"a": 0.6, "b": 0.8, "c": 0.7}, {}, Gate(0.1))
    assert found.answer
    assert found.alarms == ("tier c (0.7000) is worse than the smaller tier b (0.8000)",)


@given(
    st.lists(st.floats(-1e308, 1e308), min_size=2, max_size=2),
    st.lists(st.floats(-1e308, 1e308), min_size=2, max_size=2),
    st.floats(0, 1e3),
    st.floats(0, 1e3),
)
def test_a_gate_that_allows_more_never_refuses_what_a_stricter_one_took(
    new: list[float], head: list[float], drop: float, more: float
) -> None:
    now, before = dict(zip(TIERS, new, strict=True)), dict(zip(TIERS, head, strict=True))
    assume(gate(TIERS, now, before, Gate(drop)).answer)
    assert gate(TIERS, now, before, Gate(drop + more)).answer


NESTED = ((0,), (0, 1), (0, 1, 2))


def test_devices_get_the_best_model_that_they_hold_when_their_own_is_worse() -> None:
    found = best_tiers(("small", "medium", "large"), NESTED, {"small": 0.8, "medium": 0.9, "large": 0.7})
    assert found.answer == (0, 1, 1)
    assert found.alarms == ("devices of tier large (0.7000) use tier medium (0.9000)",)
    assert best_tiers(("small", "medium", "large"), NESTED, {"small": 0.8, "medium": 0.7, "large": 0.75}).answer == (
        0,
        0,
        0,
    )


def test_equally_good_or_better_or_not_measured_is_ones_own() -> None:
    tiers = ("small", "medium", "large")
    assert best_tiers(tiers, NESTED, {"small": 0.8, "medium": 0.8, "large": 0.9}).answer == (0, 1, 2)
    assert best_tiers(tiers, NESTED, {"small": 0.8, "medium": float("nan")}).answer == (0, 1, 2)


def test_a_better_model_that_a_device_does_not_hold_is_not_used() -> None:
    apart = ((0,), (1,), (0, 2))
    found = best_tiers(("one", "two", "three"), apart, {"one": 0.9, "two": 0.5, "three": 0.6})
    assert found.answer == (0, 1, 0)
