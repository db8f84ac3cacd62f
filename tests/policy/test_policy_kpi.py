"""Key figures: what each is, over which rounds, and whether its target is met."""

import math
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.policy import Kpi
from mhfl_mq.policy.kpi import METRICS, History, Judged, RoundDone, VersionDone, judge, read_target, worst_tenth

NOW = 10_000.0
ROUNDS = (
    RoundDone(1000.0, 1100.0, 4, ((100, 10.0),)),
    RoundDone(8000.0, 8100.0, 2, ((200, 20.0), (400, 30.0))),
    RoundDone(9000.0, 9100.0, 2, ((600, 40.0),)),
)
VERSIONS = (
    VersionDone(900.0, {"small": 0.5, "large": 0.4}),
    VersionDone(8100.0, {"small": 0.8, "large": 0.95}),
    VersionDone(9100.0, {"small": 0.7, "large": 0.9}),
)
HISTORY = History(ROUNDS, VERSIONS, ("small",) * 3 + ("large",))


def one(metric: str, operator: str = ">=", target: float = 0.0, **more: Any) -> Judged:
    return judge([Kpi(metric, operator, target, **more)], HISTORY, NOW)[0]


@pytest.mark.parametrize(
    ("metric", "more", "actual"),
    [
        ("participation_rate", {}, 0.5),
        ("participation_rate", {"window_s": 2000.0}, 0.75),
        ("accuracy", {}, 0.75),  # of the head, though the version before was better
        ("accuracy_worst_tenth", {}, 0.7),
        ("bytes_per_device_round", {}, 325.0),
        ("bytes_per_device_round", {"window_s": 1000.0}, 600.0),
        ("training_per_device_round", {}, 25.0),
        ("energy_per_device_round", {"watts": 4.0}, 100.0),
        ("time_to_accuracy", {"of": 0.8}, 7200.0),  # 3 x 0.8 and 0.95
        ("time_to_accuracy", {"of": 0.99}, math.inf),
        ("time_to_accuracy", {"of": 0.1}, 0.0),
    ],
)
def test_a_figure_is_what_it_says_over_its_window(metric: str, more: dict[str, Any], actual: float) -> None:
    assert one(metric, **more).actual == pytest.approx(actual)


def test_a_target_is_met_or_missed_and_shown_with_its_unit() -> None:
    small = one("bytes_per_device_round", "<=", 325.0)
    assert (small.met, small.target, small.shown) == (True, "<= 325 B", "325 B")
    less = one("bytes_per_device_round", "<", 325.0)
    assert less.met is False
    late = one("time_to_accuracy", "<=", 1e9, of=0.99)
    assert (late.met, late.shown) == (False, "not reached")
    assert one("participation_rate", ">=", 0.5).shown == "50.0%"
    assert one("training_per_device_round", "<=", 30.0).target == "<= 30s"


@pytest.mark.parametrize("metric", METRICS)
def test_without_data_a_figure_is_neither_met_nor_missed(metric: str) -> None:
    (judged,) = judge([Kpi(metric, ">=", 0.0, of=0.5, watts=1.0)], History(), NOW)
    assert (judged.actual, judged.met, judged.shown) == (None, None, "no data")


def test_where_no_device_is_known_each_tier_counts_once() -> None:
    (judged,) = judge([Kpi("accuracy", ">=", 0.0)], History((), VERSIONS), NOW)
    assert judged.actual == pytest.approx(0.8)


def test_the_worst_tenth_is_of_one_device_at_least() -> None:
    assert worst_tenth([0.9, 0.1]) == 0.1
    assert worst_tenth([float(k) for k in range(30)]) == 1.0


@pytest.mark.parametrize(
    ("metric", "written", "read"),
    [
        ("participation_rate", ">= 0.8", (">=", 0.8)),
        ("bytes_per_device_round", "<=2MB", ("<=", 2e6)),
        ("time_to_accuracy", "< 1h30m", ("<", 5400.0)),
        ("energy_per_device_round", "<= 500", ("<=", 500.0)),
    ],
)
def test_a_target_is_read_in_the_unit_of_its_figure(metric: str, written: str, read: tuple[str, float]) -> None:
    assert read_target(metric, written) == read


@pytest.mark.parametrize(
    ("metric", "written"),
    [
        ("accuracy", "0.8"),
        ("accuracy", "== 0.8"),
        ("accuracy", ">= 80%"),
        ("time_to_accuracy", "<= 5"),
        ("accuracy", ""),
    ],
)
def test_what_is_no_target_says_what_to_write(metric: str, written: str) -> None:
    with pytest.raises(ValueError, match=f"not a target of {metric}.*; write e.g."):
        read_target(metric, written)


def test_the_table_of_figures_in_the_documents_is_that_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text("utf-8")
    for name, metric in METRICS.items():
        assert f"| `{name}` | {metric.says} |" in page
