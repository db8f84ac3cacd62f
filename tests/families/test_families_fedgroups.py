"""FedGroups' half at the aggregator: groups that never mix, and the mean of what everybody says."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Cut, Evaluated, Shares, make_algorithm
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Parameter, Tier, Vector

PUBLIC, CLASSES = 2, 3
TABLE = PUBLIC * CLASSES
LAYOUT = Layout(
    (Tier("a", architecture="x"), Tier("b", architecture="y")),
    {},
    (
        Parameter("~logits", (Axis(PUBLIC), Axis(CLASSES))),
        Parameter("a:w", (Axis(4),), only=0),
        Parameter("b:w", (Axis(5),), only=1),
    ),
)
A, B = slice(TABLE, TABLE + 4), slice(TABLE + 4, TABLE + 9)


def update(tier: int, delta: float, said: float) -> Vector:
    return np.concatenate([np.full(TABLE, said), np.full(4 + tier, delta)]).astype(np.float32)


def merge(updates: list[tuple[int, float, float, float]], head: Vector) -> Vector:
    """Updates are (tier, delta, said, examples)."""
    algorithm = make_algorithm("fedgroups")
    total = Accumulator(LAYOUT.holdings, Bounds(len(updates), 100.0, 100.0))
    for tier, delta, said, examples in updates:
        total.fold(update(tier, delta, said), tier, algorithm.weight(examples))
    out = np.empty_like(head)
    algorithm.finalize(total, LAYOUT, head, out)
    return out


HEAD = np.linspace(-1, 1, LAYOUT.total).astype(np.float32)


def test_each_group_has_the_mean_of_its_own_devices_and_all_have_the_mean_of_what_was_said() -> None:
    new = merge([(0, 1.0, 0.1, 10), (0, 2.0, 0.4, 30), (1, 8.0, 0.9, 60)], HEAD)
    np.testing.assert_allclose(new[A], HEAD[A] + 1.75, rtol=1e-6)
    np.testing.assert_allclose(new[B], HEAD[B] + 8.0, rtol=1e-6)
    np.testing.assert_allclose(new[:TABLE], 0.1 * 0.1 + 0.3 * 0.4 + 0.6 * 0.9, rtol=1e-6)


def test_a_group_without_a_device_in_the_round_keeps_its_model_bit_for_bit() -> None:
    new = merge([(1, 8.0, 0.9, 60)], HEAD)
    assert new[A].tobytes() == HEAD[A].tobytes()
    assert new[B].tobytes() != HEAD[B].tobytes()


@given(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32))
def test_what_a_group_does_never_reaches_the_other(one: float, other: float) -> None:
    first, second = (merge([(0, 1.0, 0.5, 3), (1, delta, 0.5, 5)], HEAD) for delta in (one, other))
    assert first[A].tobytes() == second[A].tobytes()


def test_it_is_the_same_in_files(tmp_path: Path) -> None:
    algorithm = make_algorithm("fedgroups")
    total = Accumulator(LAYOUT.holdings, Bounds(1, 100.0, 100.0))
    total.fold(update(0, 1.0, 0.5), 0, 7.0)
    HEAD.tofile(tmp_path / "head")
    algorithm.finalize(total, LAYOUT, tmp_path / "head", tmp_path / "out")
    assert np.fromfile(tmp_path / "out", "<f4").tobytes() == merge([(0, 1.0, 0.5, 7.0)], HEAD).tobytes()


def test_without_distillation_nothing_but_models_travels_and_no_public_data_are_needed() -> None:
    plan = make_algorithm("fedgroups", {"distil": 0}).plan
    assert (plan.cut, plan.shares, plan.own, plan.public) == (Cut.APART, Shares.ALL, (), False)
    with_it = make_algorithm("fedgroups").plan
    assert with_it.public
    assert [own.array for own in with_it.own] == ["~logits"]


def test_the_aggregator_can_say_how_good_every_group_is() -> None:
    algorithm = make_algorithm("fedgroups")
    assert algorithm.evaluated is Evaluated.AGGREGATOR
    assert algorithm.about.linear


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distill": 1}, "did you mean 'distil'"),
        ({"distil": -0.1}, "not within 0"),
        ({"temperature": 0}, "not within 0.1"),
    ],
)
def test_a_wrong_option_is_refused_with_a_hint(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm("fedgroups", options)
