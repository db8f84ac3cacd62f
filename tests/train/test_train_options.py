"""The numbers of an offer become options, or are refused."""

import math

import pytest

from mhfl_mq.errors import TaskError
from mhfl_mq.train.options import Handicap, TrainOptions


def test_options_are_read_and_foreign_numbers_are_left_to_others() -> None:
    options = TrainOptions.from_numbers({"steps": 7.0, "rate": 0.5, "server_rate": 0.1})
    assert options == TrainOptions(steps=7, rate=0.5)
    assert type(options.steps) is int


@pytest.mark.parametrize(
    "numbers",
    [
        {"steps": 0.0},
        {"steps": 2.5},
        {"batch": 0.0},
        {"rate": -1.0},
        {"rate": math.nan},
        {"momentum": 1.0},
        {"seed": -1.0},
    ],
)
def test_a_number_that_cannot_be_used_is_refused_by_name(numbers: dict[str, float]) -> None:
    with pytest.raises(TaskError, match=f"training options: {next(iter(numbers))} is "):
        TrainOptions.from_numbers(numbers)


def test_the_rate_falls_from_round_to_round_down_to_its_floor() -> None:
    options = TrainOptions(rate=0.2, decay=0.5, rate_floor=0.25)
    assert [options.rate_in(number) for number in (0, 1, 2, 3, 4, 100)] == [0.2, 0.2, 0.1, 0.05, 0.05, 0.05]


def test_a_handicap_cannot_make_a_device_faster() -> None:
    with pytest.raises(TaskError, match=r"slowdown of 0.5"):
        Handicap(slowdown=0.5)
    with pytest.raises(TaskError, match="memory of -1"):
        Handicap(memory_bytes=-1)
