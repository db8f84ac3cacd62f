"""Which tier a simulated device carries: by measured cost, under one budget for everybody."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.bench.fleet import Budgets, Cost, fleet_of, place_budgets, tier_of, with_budgets
from mhfl_mq.bench.profiles import Bound, constraints, profiles
from mhfl_mq.policy import Tier

STEPS = 10
SHARDS = [f"{k}/20" for k in range(20)]


@pytest.mark.parametrize("case", ["computation", "communication", "memory"])
def test_a_fleet_divides_as_planned_where_the_costs_allow_it(
    case: str, tiers: tuple[Tier, ...], costs: list[Cost]
) -> None:
    named = constraints()[case]
    budgets = place_budgets(named, costs, STEPS)
    bounded = with_budgets(tiers, budgets, STEPS)
    carried = Counter(tier_of(bounded, costs, one.profile, budgets) for one in fleet_of(named, SHARDS, 0))
    assert carried == {0: 12, 1: 6, 2: 2}


def test_a_mixed_fleet_has_devices_that_another_bound_holds_back(tiers: tuple[Tier, ...], costs: list[Cost]) -> None:
    named = constraints()["mixed"]
    budgets = place_budgets(named, costs, STEPS)
    bounded = with_budgets(tiers, budgets, STEPS)
    by_profile = {name: tier_of(bounded, costs, profile, budgets) for name, profile in profiles().items()}
    assert by_profile["pc"] == 2
    assert by_profile["pc-busy"] == 1  # by its memory
    assert by_profile["jetson"] == 1
    assert by_profile["jetson-radio"] == 0  # by its link
    assert by_profile["raspberry"] == 0
    assert by_profile["gateway"] is None  # it has neither the speed nor the link: refused


def test_where_costs_hardly_differ_the_budget_comes_nearest_to_the_plan_and_refuses_nobody(
    tiers: tuple[Tier, ...],
) -> None:
    costs = [Cost(0.001, 1, 1), Cost(0.001, 1, 1), Cost(0.0018, 1, 1)]
    budgets = place_budgets(constraints()["computation"], costs, STEPS)
    bounded = with_budgets(tiers, budgets, STEPS)
    for name in ("raspberry", "jetson", "pc"):
        assert tier_of(bounded, costs, profiles()[name], budgets) is not None


def test_an_algorithm_that_costs_more_gets_smaller_tiers_under_the_same_budget(
    tiers: tuple[Tier, ...], costs: list[Cost]
) -> None:
    budgets = place_budgets(constraints()["computation"], costs, STEPS)
    costly = [replace(cost, step_s=cost.step_s * 3) for cost in costs]
    bounded = with_budgets(tiers, budgets, STEPS)
    jetson = profiles()["jetson"]
    assert tier_of(bounded, costs, jetson, budgets) == 1
    assert tier_of(bounded, costly, jetson, budgets) == 0


def test_without_budgets_every_device_carries_the_largest_tier(tiers: tuple[Tier, ...], costs: list[Cost]) -> None:
    assert tier_of(tiers, costs, profiles()["gateway"], Budgets()) == 2


@given(
    steps=st.lists(st.floats(1e-4, 10.0), min_size=2, max_size=6),
    sizes=st.lists(st.integers(1, 10**9), min_size=6, max_size=6),
    case=st.sampled_from(sorted(constraints())),
)
def test_whatever_the_costs_a_planned_device_is_refused_only_where_bounds_are_mixed(
    steps: list[float], sizes: list[int], case: str
) -> None:
    costs = [Cost(s, size, size) for s, size in zip(sorted(steps), sorted(sizes), strict=False)]
    tiers = tuple(Tier(f"t{k}", 1.0) for k in range(len(costs)))
    named = constraints()[case]
    budgets = place_budgets(named, costs, STEPS)
    bounded = with_budgets(tiers, budgets, STEPS)
    for part in named.fleet:
        if part.rank is not None:
            assert tier_of(bounded, costs, part.profile, budgets) is not None


def test_a_seed_gives_the_same_fleet_and_another_seed_other_places() -> None:
    named = constraints()["memory"]
    one, same, other = (fleet_of(named, SHARDS, seed) for seed in (3, 3, 4))
    assert one == same
    assert [device.profile for device in one] != [device.profile for device in other]
    assert [device.shard for device in one] == SHARDS


def test_a_small_fleet_has_a_device_of_every_part() -> None:
    named = constraints()["memory"]
    assert {one.profile.name for one in fleet_of(named, SHARDS[:3], 0)} == {"raspberry", "jetson", "pc"}


def test_every_profile_and_case_says_what_it_is() -> None:
    for profile in profiles().values():
        assert profile.title
        assert profile.origin
        assert 0 < profile.idle_w <= profile.radio_w <= profile.active_w
    for case in constraints().values():
        assert sum(part.share for part in case.fleet) == 100
        assert case.bounds
    assert set(constraints()["mixed"].bounds) == set(Bound)
