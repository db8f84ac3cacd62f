"""HeteroFL and FedAvg through the contract: contribute -> sum -> finalize."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Algorithm, FedAvg, HeteroFL, Weighting, algorithm_names, make_algorithm
from mhfl_mq.segments import Accumulator, Bounds

LENGTHS = (2, 3)


@given(
    present=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 50)), min_size=1, max_size=5),
    weighting=st.sampled_from(Weighting),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_streamed_sum_is_the_sum_of_contributions(
    present: list[tuple[int, int]], weighting: Weighting, seed: int
) -> None:
    algorithm, rng = HeteroFL(weighting), np.random.default_rng(seed)
    folded = Accumulator(LENGTHS, Bounds(5, algorithm.weight(50), 1.0))
    whole = None
    for tier, examples in present:
        delta = (rng.integers(-1024, 1025, LENGTHS[tier]) / 1024).astype(np.float32)
        folded.fold(delta, tier, algorithm.weight(examples))
        one = algorithm.contribute(delta, tier, examples)
        whole = one if whole is None else whole + one
    assert whole is not None
    head = np.ones(3, np.float32)
    new = np.empty_like(head)
    algorithm.finalize(folded, head, new)
    expected = head.copy()
    for k, (low, high) in enumerate([(0, 2), (2, 3)]):
        if k < whole.weights.size:
            expected[low:high] += (whole.sums["prefix"][low:high] / whole.weights[k]).astype(np.float64)
    assert np.allclose(new, expected, rtol=0, atol=1e-6)
    assert folded.weights[: whole.weights.size] == tuple(whole.weights)


def test_weights_are_one_or_the_samples_and_never_zero() -> None:
    assert [HeteroFL().weight(n) for n in (0, 1, 7)] == [1.0, 1.0, 1.0]
    assert [FedAvg().weight(n) for n in (0, 1, 7)] == [1.0, 1.0, 7.0]


def test_the_servers_rate_comes_from_the_options() -> None:
    algorithm = make_algorithm("heterofl", {"server_rate": 0.5, "weighting": "samples"})
    total = Accumulator((1,), Bounds(1, 9.0, 8.0))
    total.fold(np.full(1, 4.0, np.float32), 0, algorithm.weight(9))
    new = np.zeros(1, np.float32)
    algorithm.finalize(total, np.ones(1, np.float32), new)
    assert new.tolist() == [3.0]


def test_a_device_is_told_the_training_settings_as_they_are() -> None:
    training = {"steps": 5.0, "rate": 0.1}
    told = HeteroFL().device_options(training)
    assert told == training
    assert told is not training


def test_fedavg_is_heterofl_with_one_tier() -> None:
    FedAvg().check_tiers(1)
    HeteroFL().check_tiers(3)
    with pytest.raises(ConfigError, match="3 tiers"):
        FedAvg().check_tiers(3)


def test_every_name_makes_an_algorithm_of_that_name() -> None:
    made: list[Algorithm] = [make_algorithm(name) for name in algorithm_names()]
    assert [a.name for a in made] == ["fedavg", "heterofl"]
    assert all(a.linear for a in made)


def test_an_unknown_algorithm_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'heterofl'"):
        make_algorithm("hetrofl")
    with pytest.raises(ConfigError, match="known are: fedavg, heterofl"):
        make_algorithm("zzz")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weightning": "samples"}, "did you mean 'weighting'"),
        ({"weighting": "sample"}, "say 'uniform' or 'samples'"),
        ({"weighting": ["x"]}, "say 'uniform' or 'samples'"),
        ({"server_rate": 0}, "above 0"),
        ({"server_rate": float("nan")}, "above 0"),
        ({"server_rate": "1"}, "not a number"),
        ({"server_rate": True}, "not a number"),
    ],
)
@pytest.mark.parametrize("name", ["heterofl", "fedavg"])
def test_a_wrong_option_is_refused_with_a_hint(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm(name, options)
