"""FedDF at the aggregator: parameters are averaged per tier, tables over everybody."""

import numpy as np
import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Cut, Evaluated, Weighting, make_algorithm
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Parameter, Tier, Vector

TIERS = (Tier("a", 0.5), Tier("b", 0.7), Tier("server"))
LAYOUT = Layout(
    TIERS,
    {},
    (
        Parameter("~logits", (Axis(2), Axis(2))),
        Parameter("a:w", (Axis(1),), only=0),
        Parameter("b:w", (Axis(2),), only=1),
        Parameter("server:w", (Axis(3),), only=2),
    ),
)
HEAD = np.arange(10, dtype=np.float32)
UPDATES = (
    (np.array([0.9, 0.1, 0.4, 0.6, 1.0], np.float32), 0, 10.0),
    (np.array([0.5, 0.5, 0.0, 1.0, -1.0], np.float32), 0, 30.0),
    (np.array([0.1, 0.9, 1.0, 0.0, 4.0, 5.0], np.float32), 1, 40.0),
)


def finalized(name: str, updates: tuple[tuple[Vector, int, float], ...], layout: Layout, head: Vector) -> Vector:
    algorithm = make_algorithm(name)
    total = Accumulator(layout.holdings, Bounds(5, 64.0, 10.0))
    for vector, tier, examples in updates:
        total.fold(vector, tier, algorithm.weight(examples))
    new = np.empty_like(head)
    algorithm.finalize(total, layout, head, new)
    return new


def test_the_table_is_the_mean_of_all_and_each_tiers_model_the_mean_of_its_own() -> None:
    new = finalized("feddf", UPDATES, LAYOUT, HEAD)
    rows = np.array([vector[:4] for vector, _, _ in UPDATES])
    np.testing.assert_allclose(new[:4], np.average(rows, axis=0, weights=[10, 30, 40]), rtol=1e-6)
    np.testing.assert_allclose(new[4], HEAD[4] + (10 * 1.0 + 30 * -1.0) / 40, rtol=1e-6)
    np.testing.assert_allclose(new[5:7], HEAD[5:7] + np.array([4.0, 5.0]), rtol=1e-6)


def test_the_aggregators_own_model_is_left_alone_by_the_sum() -> None:
    assert finalized("feddf", UPDATES, LAYOUT, HEAD)[7:].tobytes() == HEAD[7:].tobytes()


def test_t8_without_a_teacher_the_last_table_stays() -> None:
    assert finalized("feddf", (), LAYOUT, HEAD).tobytes() == HEAD.tobytes()


def test_the_variant_that_looks_at_single_updates_sends_no_table_and_says_that_sums_are_not_enough() -> None:
    tables, weights = make_algorithm("feddf"), make_algorithm("feddf-weights")
    assert (tables.about.linear, weights.about.linear) == (True, False)
    assert [own.array for own in tables.plan.own] == ["~logits"]
    assert not weights.plan.own
    for algorithm in (tables, weights):
        assert algorithm.concludes
        assert algorithm.evaluated is Evaluated.AGGREGATOR
        assert (algorithm.plan.cut, algorithm.plan.public, algorithm.plan.server) == (Cut.APART, True, True)
        assert algorithm.weight(7) == 7
    assert make_algorithm("feddf", {"weighting": Weighting.UNIFORM.value}).weight(7) == 1


@pytest.mark.parametrize("name", ["feddf", "feddf-weights", "fedet"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distil_steps": 3}, "did you mean 'distill_steps'"),
        ({"distill_steps": 0.5}, "not a whole number"),
        ({"distill_rate": 0}, "not within 1e-09 to 1"),
        ({"distill_batch": 0}, "not within 1 to"),
    ],
)
def test_wrong_options_of_the_aggregators_training_are_refused(
    name: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm(name, options)
