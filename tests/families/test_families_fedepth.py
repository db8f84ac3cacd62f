"""FeDepth's half at the aggregator: whose turn it is, and that full models count by their samples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Cut, Evaluated, make_algorithm
from mhfl_mq.families.sharing.fedepth import group_of


def test_full_models_are_weighted_by_samples_and_the_aggregator_scores() -> None:
    algorithm = make_algorithm("fedepth")
    assert [algorithm.weight(n) for n in (0, 7)] == [1.0, 7.0]
    assert algorithm.plan.cut is Cut.WHOLE
    assert algorithm.evaluated is Evaluated.AGGREGATOR
    assert algorithm.about.linear


def test_an_unknown_option_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean 'server_rate'"):
        make_algorithm("fedepth", {"serverrate": 1.0})


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 50))
def test_each_group_has_its_turn_in_order_for_as_many_steps_give_or_take_one(
    groups: int, more: int, round_number: int
) -> None:
    steps = groups + more
    turns = [group_of(step, steps, groups, round_number) for step in range(steps)]
    assert turns == sorted(turns)
    counts = [turns.count(group) for group in range(groups)]
    assert max(counts) - min(counts) <= 1


@given(st.integers(1, 30), st.integers(1, 30))
def test_groups_that_a_short_round_skips_come_in_the_rounds_after(groups: int, steps: int) -> None:
    rounds = -(-groups // steps)
    seen = {group_of(step, steps, groups, number) for number in range(1, rounds + 1) for step in range(steps)}
    assert seen == set(range(groups))
