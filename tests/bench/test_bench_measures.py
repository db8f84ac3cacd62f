"""The measures of a run, on numbers that can be checked by hand."""

import math

import pytest

from mhfl_mq.bench.fleet import Device
from mhfl_mq.bench.measures import (
    DeviceFacts,
    Point,
    energy_j,
    last_mean,
    mean_over_tiers,
    stability,
    time_to,
    worst_tenth,
)
from mhfl_mq.bench.profiles import profiles


def curve(*values: float) -> list[Point]:
    return [Point(k + 1, 10.0 * (k + 1), {"small": value, "large": value}) for k, value in enumerate(values)]


def test_the_score_is_the_mean_of_the_last_rounds_and_not_the_best() -> None:
    assert last_mean(curve(0.99, 0.5, 0.7), 2) == {"small": pytest.approx(0.6), "large": pytest.approx(0.6)}
    assert last_mean([], 5) == {}
    late = [Point(1, 1.0, {"small": 0.5}), Point(2, 2.0, {"small": 0.7, "large": 0.9})]
    assert last_mean(late, 2) == {"small": pytest.approx(0.6), "large": pytest.approx(0.9)}


def test_tiers_that_no_device_carries_are_not_in_the_mean() -> None:
    assert mean_over_tiers({"small": 0.8, "large": 0.1}, ["small"]) == 0.8
    assert math.isnan(mean_over_tiers({"small": 0.8}, []))


def test_a_target_is_reached_by_three_rounds_and_not_by_a_lucky_one() -> None:
    assert time_to(curve(0.1, 0.9, 0.1, 0.1), ["small"], 0.8) is None
    assert time_to(curve(0.1, 0.8, 0.8, 0.8), ["small", "large"], 0.8) == 40.0
    assert time_to(curve(0.9, 0.9), ["small"], 0.8) is None


def test_stability_is_about_all_devices_and_about_the_worst_of_them() -> None:
    found = stability([0.2, 0.4, 0.6])
    assert found["mean"] == pytest.approx(0.4)
    assert found["variance"] == pytest.approx(0.08 / 3)
    assert found["worst_tenth"] == 0.2
    assert worst_tenth([k / 20 for k in range(20)]) == pytest.approx(0.025)
    assert stability([]) == {"mean": None, "variance": None, "worst_tenth": None}


def test_energy_is_what_the_watts_of_work_radio_and_rest_come_to() -> None:
    pi = profiles()["raspberry"]
    facts = DeviceFacts(Device("d0", "0", pi), "small", compute_s=10.0, transfer_s=5.0)
    expected = pi.active_w * 10 + pi.radio_w * 5 + pi.idle_w * 85
    assert energy_j(facts, 100.0) == pytest.approx(expected)
    assert facts.document(100.0)["energy_j_estimate"] == pytest.approx(expected)
