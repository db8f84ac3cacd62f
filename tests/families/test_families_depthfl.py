"""DepthFL's half at the aggregator: its options and the ramp."""

import math
from itertools import pairwise

import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Evaluated, Weighting, make_algorithm
from mhfl_mq.families.sharing.depthfl import DepthFL, mutual_weight


def test_the_weight_of_mutual_learning_rises_to_one_and_stays() -> None:
    weights = [mutual_weight(t, 20.0) for t in range(1, 60)]
    assert weights[0] == pytest.approx(math.exp(-5.0 * 0.95**2))
    assert all(a < b for a, b in pairwise(weights[:20]))
    assert weights[19:] == [1.0] * 40


def test_a_ramp_of_one_round_is_no_ramp() -> None:
    assert mutual_weight(1, 1.0) == 1.0


def test_devices_count_alike_as_published_and_the_aggregator_scores() -> None:
    algorithm = make_algorithm("depthfl")
    assert [algorithm.weight(n) for n in (0, 7)] == [1.0, 1.0]
    assert make_algorithm("depthfl", {"weighting": "samples"}).weight(7) == 7.0
    assert DepthFL.WEIGHTING is Weighting.UNIFORM
    assert algorithm.evaluated is Evaluated.AGGREGATOR
    assert algorithm.plan.exits
    assert algorithm.about.linear


def test_a_device_is_told_the_ramp() -> None:
    assert make_algorithm("depthfl", {"ramp": 30}).device_options({"rate": 0.1}) == {
        "rate": 0.1,
        "ramp": 30.0,
        "server_rate": 1.0,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rampe": 3}, "did you mean 'ramp'"),
        ({"ramp": 0}, "0 is not within 1 to 1e"),
        ({"ramp": 2.5}, "2.5 is not a whole number"),
        ({"ramp": float("inf")}, "not a number"),
    ],
)
def test_a_wrong_option_is_refused_with_a_hint(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm("depthfl", options)
