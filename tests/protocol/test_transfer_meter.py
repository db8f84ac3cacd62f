"""The speed of a link, by the chunks that came in: the median of what flowed, and nothing of what did not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.protocol.transfer_meter import KEPT, Meter

CHUNK = 64 * 1024


def flow(meter: Meter, chunks: int, every_s: float, start: float = 0.0, size: int = CHUNK) -> float:
    """Let so many chunks come, so far apart; returns when the last one came."""
    for number in range(chunks):
        meter.took(size, start + number * every_s)
    return start + (chunks - 1) * every_s


def transfer(meter: Meter, every_s: float, start: float = 0.0) -> None:
    flow(meter, 5, every_s, start)
    meter.rest()


def test_a_meter_knows_nothing_before_something_came() -> None:
    meter = Meter()
    meter.rest()
    assert meter.bytes_s == 0.0


@given(st.integers(2, 60), st.floats(1e-3, 100.0), st.integers(CHUNK, 2**22))
def test_an_even_flow_is_measured_as_what_it_is(chunks: int, every_s: float, size: int) -> None:
    meter = Meter()
    flow(meter, chunks, every_s, size=size)
    meter.rest()
    assert meter.bytes_s == pytest.approx(size / every_s, rel=1e-6)


def test_what_is_too_small_or_came_at_one_instant_says_nothing_about_the_link() -> None:
    meter = Meter()
    flow(meter, 5, 0.1, size=1000)
    meter.rest()
    flow(meter, 1, 0.1)
    meter.rest()
    flow(meter, 5, 0.0)
    meter.rest()
    assert meter.bytes_s == 0.0


def test_a_transfer_that_never_ends_is_measured_all_the_same() -> None:
    meter = Meter()
    flow(meter, 12, 1.0)
    assert meter.bytes_s == pytest.approx(CHUNK)


def test_a_link_on_which_even_ten_seconds_bring_little_is_measured_once_enough_came() -> None:
    meter = Meter()
    flow(meter, 20, 1.0, size=4096)
    assert meter.bytes_s == pytest.approx(4096)


def test_the_pause_between_two_transfers_is_no_flow() -> None:
    meter = Meter()
    transfer(meter, 0.5)
    transfer(meter, 0.5, start=1000.0)
    assert meter.bytes_s == pytest.approx(CHUNK / 0.5)


def test_a_lost_chunk_that_was_asked_for_again_is_no_flow() -> None:
    meter = Meter()
    end = flow(meter, 5, 0.1)
    flow(meter, 5, 0.1, start=end + 3.0)
    meter.rest()
    assert meter.bytes_s == pytest.approx(CHUNK / 0.1)


def test_the_figure_is_the_median_so_two_bad_moments_do_not_change_it() -> None:
    meter = Meter()
    for number, every_s in enumerate((0.5, 50.0, 0.5, 0.001, 0.5)):
        transfer(meter, every_s, start=1000.0 * number)
    assert meter.bytes_s == pytest.approx(CHUNK / 0.5)


def test_a_link_that_changed_for_good_is_known_after_a_few_transfers() -> None:
    meter = Meter(before=CHUNK / 0.5)
    for number in range(KEPT):
        transfer(meter, 5.0, start=1000.0 * number)
    assert meter.bytes_s == pytest.approx(CHUNK / 5.0)


def test_the_figure_of_an_earlier_life_counts_as_one_sample() -> None:
    meter = Meter(before=1000.0)
    assert meter.bytes_s == 1000.0
    transfer(meter, 0.5)
    assert meter.bytes_s == pytest.approx((1000.0 + CHUNK / 0.5) / 2)
