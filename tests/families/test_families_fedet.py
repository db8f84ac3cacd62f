"""Fed-ET at the aggregator: a consensus that variances weigh, as the quotient of two sums."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Evaluated, make_algorithm
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Parameter, Tier, Vector

PUBLIC, CLASSES = 4, 3
TABLE = PUBLIC * CLASSES
LAYOUT = Layout(
    (Tier("small", 0.5), Tier("server")),
    {},
    (
        Parameter("~votes", (Axis(PUBLIC), Axis(CLASSES))),
        Parameter("~trust", (Axis(PUBLIC),)),
        Parameter("~dissent", (Axis(PUBLIC), Axis(CLASSES))),
        Parameter("~doubt", (Axis(PUBLIC),)),
        Parameter("small:w", (Axis(2),), only=0),
        Parameter("server:w", (Axis(2),), only=1),
    ),
)
HEAD = np.full(LAYOUT.total, 3.0, np.float32)
Table = npt.NDArray[np.float64]


def update(said: Table, dissents: npt.NDArray[np.bool_]) -> Vector:
    """What a device sends whose model says this; its parameters gained 1."""
    sure = said.var(axis=1)
    votes = sure[:, None] * said
    parts = [votes, sure, votes * dissents[:, None], sure * dissents, np.ones(2)]
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)


def finalized(updates: list[Vector]) -> dict[str, npt.NDArray[np.float32]]:
    """The new version by array."""
    total = Accumulator(LAYOUT.holdings, Bounds(9, 1.0, 10.0))
    for one in updates:
        total.fold(one, 0, 1.0)
    new = np.empty_like(HEAD)
    with np.errstate(all="raise"):
        make_algorithm("fedet").finalize(total, LAYOUT, HEAD, new)
    return {p.name: new[slice(*LAYOUT.where(p.name))] for p in LAYOUT.parameters}


def dirichlet(seed: int, alpha: float = 0.5) -> Table:
    return np.random.default_rng(seed).dirichlet(np.full(CLASSES, alpha), PUBLIC)


@given(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4), label=st.integers(0, CLASSES - 1))
def test_the_consensus_weighs_each_device_by_the_variance_of_what_it_says(seeds: list[int], label: int) -> None:
    """Written out as in the paper: alpha_k(x) = Var(s_k(x)) / sum_l Var(s_l(x)), over all and over who disagrees."""
    said = [dirichlet(seed) for seed in seeds]
    against = [table.argmax(axis=1) != label for table in said]
    new = finalized([update(*pair) for pair in zip(said, against, strict=True)])
    for x in range(PUBLIC):
        sure = [table[x].var() for table in said]
        alpha = [one / sum(sure) for one in sure]
        consensus = sum(a * table[x] for a, table in zip(alpha, said, strict=True))
        np.testing.assert_allclose(new["~votes"].reshape(PUBLIC, CLASSES)[x], consensus, atol=1e-5)
        those = [k for k in range(len(said)) if against[k][x]]
        over = sum(sure[k] for k in those)
        dissent = sum(sure[k] / over * said[k][x] for k in those) if those else np.zeros(CLASSES)
        np.testing.assert_allclose(new["~dissent"].reshape(PUBLIC, CLASSES)[x], dissent, atol=1e-5)


def test_a_device_that_is_sure_is_heard_and_one_that_is_not_is_not() -> None:
    sure, vague = np.tile([0.0, 0.0, 1.0], (PUBLIC, 1)), np.tile([0.34, 0.33, 0.33], (PUBLIC, 1))
    nobody = np.zeros(PUBLIC, bool)
    new = finalized([update(sure, nobody), *[update(vague, nobody)] * 5])
    assert (new["~votes"].reshape(PUBLIC, CLASSES)[:, 2] > 0.99).all()


def test_t8_where_all_variances_are_zero_there_is_no_consensus_and_no_division_by_zero() -> None:
    uniform, nobody = np.full((PUBLIC, CLASSES), 1 / CLASSES), np.zeros(PUBLIC, bool)
    uniform[1] = [1.0, 0.0, 0.0]
    votes = finalized([update(uniform, nobody)] * 2)["~votes"].reshape(PUBLIC, CLASSES)
    assert votes[1].tolist() == [1, 0, 0]
    assert not votes[[0, 2, 3]].any()


def test_t8_where_nobody_disagrees_there_is_no_dissent_and_no_division_by_zero() -> None:
    new = finalized([update(dirichlet(seed), np.zeros(PUBLIC, bool)) for seed in range(3)])
    assert not new["~dissent"].any()
    assert not new["~doubt"].any()
    assert new["~votes"].any()


def test_t8_without_any_update_everything_stays() -> None:
    for name, array in finalized([]).items():
        assert set(array.tolist()) == {3.0}, name


def test_parameters_are_averaged_per_tier_and_the_aggregators_are_left_alone() -> None:
    new = finalized([update(dirichlet(0), np.zeros(PUBLIC, bool))] * 3)
    assert new["small:w"].tolist() == [4, 4]
    assert new["server:w"].tolist() == [3, 3]


def test_it_is_linear_and_evaluated_by_the_aggregator() -> None:
    algorithm = make_algorithm("fedet")
    assert algorithm.about.linear
    assert algorithm.concludes
    assert algorithm.plan.server
    assert algorithm.evaluated is Evaluated.AGGREGATOR
    assert algorithm.numbers["diversity"] == 0.05


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'diversity'"):
        make_algorithm("fedet", {"diverstiy": 1})
    with pytest.raises(ConfigError, match=r"share_head: 0\.5 is not a whole number"):
        make_algorithm("fedet", {"share_head": 0.5})
