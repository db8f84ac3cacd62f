"""FedMD and DS-FL at the aggregator: what becomes of the devices' tables."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Evaluated, make_algorithm
from mhfl_mq.families.distillation.dsfl import sharpened
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Parameter, Tier, Vector

LAYOUT = Layout((Tier("small"), Tier("large")), {}, (Parameter("~logits", (Axis(2), Axis(3))),), whole=True)
HEAD = np.full(6, 7.0, np.float32)
TABLES = (
    np.array([1, 2, 3, -4, 5, 6], np.float32),
    np.array([3, 0, -3, 4, 1, 2], np.float32),
    np.array([2, 1, 0, 0, 0, 1], np.float32),
)


def total_of(tables: tuple[Vector, ...], weights: tuple[float, ...] = ()) -> Accumulator:
    total = Accumulator(LAYOUT.holdings, Bounds(4, 8.0, 10.0))
    for k, table in enumerate(tables):
        total.fold(table, k % 2, weights[k] if weights else 1.0)
    return total


def test_fedmds_consensus_is_the_mean_of_the_logits_and_not_added_to_the_last_one() -> None:
    new = np.empty(6, np.float32)
    make_algorithm("fedmd").finalize(total_of(TABLES), LAYOUT, HEAD, new)
    np.testing.assert_allclose(new, np.mean(TABLES, axis=0), rtol=1e-6)


def test_dsfls_consensus_is_the_mean_sharpened_by_a_softmax_at_its_temperature() -> None:
    tables = tuple(np.abs(t) / np.abs(t).reshape(2, 3).sum(axis=1).repeat(3) for t in TABLES)
    new = np.empty(6, np.float32)
    make_algorithm("dsfl", {"temperature": 0.5}).finalize(total_of(tables), LAYOUT, HEAD, new)
    raised = np.exp(np.mean(tables, axis=0).reshape(2, 3) / 0.5)
    np.testing.assert_allclose(new.reshape(2, 3), raised / raised.sum(axis=1)[:, None], rtol=1e-5)


def test_sharpening_lowers_the_entropy_and_keeps_the_order() -> None:
    mean = np.array([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33]])

    def entropy(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(-(p * np.log(p)).sum(axis=1))

    sharp = sharpened(mean, 0.1)
    np.testing.assert_allclose(sharp.sum(axis=1), 1.0)
    assert (entropy(sharp) < entropy(mean)).all()
    assert (np.argsort(sharp, axis=1)[:, -1] == 0).all()
    assert np.isfinite(sharpened(np.array([[1.0, 0.0, 0.0]]), 0.01)).all()


@pytest.mark.parametrize("name", ["fedmd", "dsfl"])
def test_the_order_of_the_updates_and_where_they_lie_change_no_bit(name: str, tmp_path: Path) -> None:
    algorithm = make_algorithm(name)
    first, again = np.empty(6, np.float32), np.empty(6, np.float32)
    algorithm.finalize(total_of(TABLES, (1.0, 3.0, 2.0)), LAYOUT, HEAD, first)
    algorithm.finalize(total_of(TABLES[::-1], (2.0, 3.0, 1.0)), LAYOUT, HEAD, again)
    assert first.tobytes() == again.tobytes()
    HEAD.tofile(tmp_path / "head")
    algorithm.finalize(total_of(TABLES, (1.0, 3.0, 2.0)), LAYOUT, tmp_path / "head", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == first.tobytes()


@pytest.mark.parametrize("name", ["fedmd", "dsfl"])
def test_without_any_update_the_consensus_stays(name: str) -> None:
    new = np.empty(6, np.float32)
    make_algorithm(name).finalize(total_of(()), LAYOUT, HEAD, new)
    assert new.tobytes() == HEAD.tobytes()


@pytest.mark.parametrize("name", ["fedmd", "dsfl"])
def test_models_stay_on_the_devices_and_sums_are_enough(name: str) -> None:
    algorithm = make_algorithm(name)
    assert algorithm.about.linear
    assert algorithm.plan.public
    assert algorithm.evaluated is Evaluated.DEVICES
    assert algorithm.device_options({"steps": 3.0})["align_steps"] == 20


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("dsfl", {"temperatur": 0.1}, "did you mean 'temperature'"),
        ("dsfl", {"temperature": 0}, "not within 0.01 to 10"),
        ("fedmd", {"align_steps": 1.5}, "not a whole number"),
        ("fedmd", {"temperature": 0.1}, "fedmd has no option 'temperature'"),
    ],
)
def test_a_wrong_option_is_refused(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm(name, options)
