"""Rows of classes: sums that say how many have a class, and nothing of who."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import make_algorithm
from mhfl_mq.families.sharing.rows import head_arrays
from mhfl_mq.segments import Accumulator, Arrays, Axis, Bounds, Layout, Packer, Parameter, Tier, Vector

CLASSES, FEATURES = 3, (1, 2, 4)
BODY = (Parameter("body.bias", (Axis(4, group="g"),)),)
HEAD = (Parameter("head.weight", (Axis(CLASSES), Axis(4, group="g"))), Parameter("head.bias", (Axis(CLASSES),)))
TIERS = tuple(Tier(name, n / 4) for name, n in zip("abc", FEATURES, strict=True))
ROWS = tuple(Parameter(f"~rows{k}:head", (Axis(CLASSES),), since=k) for k in range(3))
LAYOUT = Layout(TIERS, {"g": FEATURES}, (*ROWS, *BODY, *HEAD))
MASKED = make_algorithm("heterofl", {"masked": 1})


def update(tier: int, classes: set[int], luck: np.random.Generator) -> tuple[Vector, dict[str, Vector]]:
    """What a device of these classes sends, and its arrays."""
    has = np.array([c in classes for c in range(CLASSES)])
    arrays: dict[str, Vector] = {}
    for name, shape in LAYOUT.shapes(tier).items():
        arrays[name] = luck.integers(-8, 9, shape).astype(np.float32)
        if name.startswith("head"):
            arrays[name][~has] = 0
        elif name.startswith("~"):
            arrays[name] = has.astype(np.float32)
    return Packer(LAYOUT, tier).gather(arrays), arrays


def merged(updates: list[tuple[int, Vector, float]], head: Vector, name: str = "heterofl") -> dict[str, Vector]:
    total = Accumulator(LAYOUT.holdings, Bounds(8, 100.0, 100.0))
    for tier, vector, weight in updates:
        total.fold(vector, tier, weight)
    new = np.empty_like(head)
    make_algorithm(name, {"masked": 1}).finalize(total, LAYOUT, head, new)
    return full(new)


def full(flat: Vector) -> dict[str, Vector]:
    arrays: Arrays = {name: np.empty(shape, np.float32) for name, shape in LAYOUT.shapes(2).items()}
    Packer(LAYOUT, 2).scatter(flat, arrays)
    return dict(arrays)


def first() -> Vector:
    arrays = {
        name: np.full(shape, 0.0 if name[0] == "~" else 1.0, np.float32) for name, shape in LAYOUT.shapes(2).items()
    }
    return Packer(LAYOUT, 2).gather(arrays)


@settings(max_examples=50)
@given(
    present=st.lists(
        st.tuples(st.integers(0, 2), st.sets(st.integers(0, CLASSES - 1)), st.integers(1, 100)), max_size=6
    ),
    seed=st.integers(0, 99),
)
def test_each_row_is_the_mean_over_those_who_hold_its_columns_and_have_its_class(
    present: list[tuple[int, set[int], int]], seed: int
) -> None:
    """By hand, coordinate by coordinate; a class that nobody has divides by nothing and keeps the head's row."""
    luck = np.random.default_rng(seed)
    sent = [(tier, classes, float(weight), *update(tier, classes, luck)) for tier, classes, weight in present]
    new = merged([(tier, vector, weight) for tier, _, weight, vector, _ in sent], first())
    for c in range(CLASSES):
        for column in range(4):
            who = [(w, a) for tier, classes, w, _, a in sent if c in classes and column < FEATURES[tier]]
            mean = sum(w * float(a["head.weight"][c, column]) for w, a in who) / sum(w for w, _ in who) if who else 0.0
            assert new["head.weight"][c, column] == np.float32(1.0 + mean)
        those = [(w, a) for _, classes, w, _, a in sent if c in classes]
        mean = sum(w * float(a["head.bias"][c]) for w, a in those) / sum(w for w, _ in those) if those else 0.0
        assert new["head.bias"][c] == np.float32(1.0 + mean)
    for column in range(4):  # all else is as ever
        who = [(w, a) for tier, _, w, _, a in sent if column < FEATURES[tier]]
        mean = sum(w * float(a["body.bias"][column]) for w, a in who) / sum(w for w, _ in who) if who else 0.0
        assert new["body.bias"][column] == np.float32(1.0 + mean)
    assert not any(array.any() for name, array in new.items() if name.startswith("~"))


def test_trap_t8_classes_that_are_absent_everywhere_divide_by_nothing() -> None:
    luck = np.random.default_rng(0)
    updates = [(tier, update(tier, set(), luck)[0], 1.0) for tier in range(3)]
    with np.errstate(all="raise"):
        new = merged(updates, first())
    np.testing.assert_array_equal(new["head.weight"], np.ones((CLASSES, 4)))
    assert (new["body.bias"] != 1).any()


def test_trap_t7_a_device_that_has_the_class_and_moved_nothing_counts() -> None:
    one = dict(full(first()))
    one["head.weight"] = np.full((CLASSES, 4), 2.0, np.float32)
    still = {name: np.zeros_like(array) for name, array in one.items()}
    for arrays in (one, still):
        arrays.update({f"~rows{k}:head": np.ones(CLASSES, np.float32) for k in range(3)})
    packer = Packer(LAYOUT, 2)
    new = merged([(2, packer.gather(one), 1.0), (2, packer.gather(still), 1.0)], first())
    np.testing.assert_array_equal(new["head.weight"], np.full((CLASSES, 4), 2.0))


def test_the_servers_rate_scales_the_rows_too_and_a_file_becomes_what_an_array_does(tmp_path: Path) -> None:
    algorithm = make_algorithm("heterofl", {"masked": 1, "server_rate": 0.5})
    total = Accumulator(LAYOUT.holdings, Bounds(2, 1.0, 100.0))
    vector, arrays = update(2, {1}, np.random.default_rng(3))
    total.fold(vector, 2, 1.0)
    head, new = first(), np.empty(LAYOUT.total, np.float32)
    algorithm.finalize(total, LAYOUT, head, new)
    head.tofile(tmp_path / "head")
    algorithm.finalize(total, LAYOUT, tmp_path / "head", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == new.tobytes()
    expected = np.ones((CLASSES, 4), np.float32) + arrays["head.weight"] / 2
    np.testing.assert_array_equal(full(new)["head.weight"], expected)


def test_the_layout_alone_says_which_arrays_have_rows() -> None:
    assert [p.name for p in head_arrays(Layout.from_document(LAYOUT.document())).values()] == [
        "head.weight",
        "head.bias",
    ]
    assert not head_arrays(Layout(TIERS, {"g": FEATURES}, (*BODY, *HEAD)))


@pytest.mark.parametrize("name", ["heterofl", "fedrolex", "slimmable"])
def test_the_plan_follows_from_the_option(name: str) -> None:
    assert not make_algorithm(name).plan.rows
    assert make_algorithm(name, {"masked": 1}).plan.rows
    assert "rows travel beside" in make_algorithm(name, {"masked": 1}).plan.against_compacting
    assert make_algorithm(name, {"masked": 1}).plan.rolls == (name == "fedrolex")
    with pytest.raises(ConfigError, match="masked: 2 is not within 0 to 1"):
        make_algorithm(name, {"masked": 2})
