"""HeteroFL and FedAvg through the contract, and algorithms by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Algorithm, Weighting, algorithm_names, make_algorithm
from mhfl_mq.families.sharing.fedavg import FedAvg
from mhfl_mq.families.sharing.heterofl import HeteroFL
from mhfl_mq.segments import Accumulator, Axis, Bounds, Contribution, Domain, Layout, Parameter, Tier

LENGTHS = (2, 3)
LAYOUT = Layout(
    (Tier("small", 0.5), Tier("large")), {"g": LENGTHS}, (Parameter("w", (Axis(3, group="g"),)),)
)  # of those lengths


@given(
    present=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 50)), min_size=1, max_size=5),
    weighting=st.sampled_from(Weighting),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_streamed_sum_is_the_sum_of_contributions(
    present: list[tuple[int, int]], weighting: Weighting, seed: int
) -> None:
    """What privacy stages will see, contributions that add, and the streamed fold are one sum."""
    algorithm, rng = HeteroFL(weighting), np.random.default_rng(seed)
    folded = Accumulator(LENGTHS, Bounds(5, algorithm.weight(50), 1.0))
    whole = None
    for tier, examples in present:
        delta = (rng.integers(-1024, 1025, LENGTHS[tier]) / 1024).astype(np.float32)
        folded.fold(delta, tier, algorithm.weight(examples))
        weight = algorithm.weight(examples)
        sums = {"vector": delta.astype(np.float64) * weight}
        one = Contribution("update", Domain.REAL, sums, np.full(tier + 1, weight))
        whole = one if whole is None else whole + one
    assert whole is not None
    head = np.ones(3, np.float32)
    new = np.empty_like(head)
    algorithm.finalize(folded, LAYOUT, head, new)
    expected = head.copy()
    for k, (low, high) in enumerate([(0, 2), (2, 3)]):
        if k < whole.weights.size:
            expected[low:high] += (whole.sums["vector"][low:high] / whole.weights[k]).astype(np.float64)
    assert np.allclose(new, expected, rtol=0, atol=1e-6)
    assert folded.weights[: whole.weights.size] == tuple(whole.weights)


def test_weights_are_one_or_the_samples_and_never_zero() -> None:
    assert [HeteroFL().weight(n) for n in (0, 1, 7)] == [1.0, 1.0, 1.0]
    assert [make_algorithm("fedavg").weight(n) for n in (0, 1, 7)] == [1.0, 1.0, 7.0]


def test_the_servers_rate_comes_from_the_options() -> None:
    algorithm = make_algorithm("heterofl", {"server_rate": 0.5, "weighting": "samples"})
    total = Accumulator((1,), Bounds(1, 9.0, 8.0))
    total.fold(np.full(1, 4.0, np.float32), 0, algorithm.weight(9))
    new = np.zeros(1, np.float32)
    algorithm.finalize(total, LAYOUT, np.ones(1, np.float32), new)
    assert new.tolist() == [3.0]


def test_a_device_is_told_the_training_settings_as_they_are() -> None:
    training = {"steps": 5.0, "rate": 0.1}
    told = make_algorithm("heterofl").device_options(training)
    assert told == {**training, "server_rate": 1.0, "masked": 0.0, "scaler": 0.0}
    assert training == {"steps": 5.0, "rate": 0.1}


def test_fedavg_has_one_tier() -> None:
    FedAvg().check_tiers(1)
    HeteroFL().check_tiers(3)
    with pytest.raises(ConfigError, match="3 tiers"):
        FedAvg().check_tiers(3)


def test_every_name_makes_an_algorithm_of_that_name() -> None:
    made: list[Algorithm] = [make_algorithm(name) for name in algorithm_names()]
    assert [a.about.name for a in made] == list(algorithm_names())
    assert len(set(algorithm_names())) == len(algorithm_names())


def test_an_unknown_algorithm_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'heterofl'"):
        make_algorithm("hetrofl")
    with pytest.raises(ConfigError, match=r"known are: .*fedavg.*heterofl"):
        make_algorithm("zzz")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weightning": "samples"}, "did you mean 'weighting'"),
        ({"weighting": "sample"}, "say 'uniform' or 'samples'"),
        ({"weighting": ["x"]}, "say 'uniform' or 'samples'"),
        ({"server_rate": 0}, "not within 1e-06 to 10"),
        ({"server_rate": float("nan")}, "not a number"),
        ({"server_rate": "1"}, "not a number"),
        ({"server_rate": True}, "not a number"),
    ],
)
@pytest.mark.parametrize("name", ["heterofl", "fedavg"])
def test_a_wrong_option_is_refused_with_a_hint(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm(name, options)
