"""Slimmable HeteroFL and FjORD at the aggregator: HeteroFL's mean, weighted as published."""

import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Family, Plan, make_algorithm


@pytest.mark.parametrize("name", ["slimmable", "fjord"])
def test_trap_t6_updates_count_by_samples_unless_the_policy_says_otherwise(name: str) -> None:
    assert [make_algorithm(name).weight(n) for n in (0, 1, 7)] == [1.0, 1.0, 7.0]
    assert make_algorithm(name, {"weighting": "uniform"}).weight(7) == 1.0


@pytest.mark.parametrize("name", ["slimmable", "fjord"])
def test_they_lie_in_the_vector_as_heterofl_does_and_a_sum_is_enough(name: str) -> None:
    algorithm = make_algorithm(name)
    assert algorithm.plan == Plan() == make_algorithm("heterofl").plan
    assert algorithm.about.linear
    assert algorithm.about.family is Family.SHARING


def test_self_distillation_is_said_to_devices_and_is_on_or_off() -> None:
    assert make_algorithm("fjord").device_options({"rate": 1.0}) == {"rate": 1.0, "server_rate": 1.0, "distil": 0.0}
    assert make_algorithm("fjord", {"distil": 1}).numbers["distil"] == 1.0
    with pytest.raises(ConfigError, match=r"0\.5 is not a whole number"):
        make_algorithm("fjord", {"distil": 0.5})
    with pytest.raises(ConfigError, match="did you mean 'distil'"):
        make_algorithm("fjord", {"distill": 1})
