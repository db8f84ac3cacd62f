"""Tables and progress, with and without a terminal."""

import io
import sys

import pytest

from mhfl_mq.cli.output import Progress, fancy, print_table, show_left, table_lines


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_a_plain_table_is_aligned_with_numbers_on_the_right_and_wide_characters_counted() -> None:
    lines = table_lines(["name", "devices", "accuracy"], [["小", 12, 0.76543], ["large", 3, None]])
    assert lines == [
        "name   devices  accuracy",
        "-----  -------  --------",
        "小          12    0.7654",
        "large        3         -",
    ]


def test_a_table_without_rows_shows_its_heads() -> None:
    assert table_lines(["a", "bc"], []) == ["a  bc", "-  --"]


def test_a_table_goes_to_stdout_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("tiers", ["a"], [["x"]])
    assert capsys.readouterr().out == "tiers\na\n-\nx\n"


def test_on_a_terminal_a_table_is_drawn_and_its_cells_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    print_table("tiers", ["name", "n"], [["[red]small", 3]])
    assert "[red]small" in screen.getvalue()
    assert "tiers" in screen.getvalue()


def test_without_rich_a_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert not fancy(Terminal())
    assert not fancy(io.StringIO())


def test_progress_without_a_terminal_is_a_line_now_and_then_with_the_time_left() -> None:
    log, clock = io.StringIO(), Hand()
    with Progress("rounds", 10, now=clock, stream=log) as shown:
        for done in range(1, 11):
            clock.time += 2.0
            shown.update(done)
        shown.tell("done")
    assert log.getvalue().splitlines() == [
        "rounds: 1 of 10, about 18s left",
        "rounds: 4 of 10, about 12s left",
        "rounds: 7 of 10, about 6s left",
        "rounds: 10 of 10",
        "done",
    ]


def test_progress_without_an_end_says_how_far_it_is_until_the_end_is_known() -> None:
    log, clock = io.StringIO(), Hand()
    with Progress("rounds", None, now=clock, stream=log) as shown:
        shown.update(3)
        clock.time = 60.0
        shown.update(6, 12)
    assert log.getvalue().splitlines() == ["rounds: 3", "rounds: 6 of 12, about 1m 00s left"]


@pytest.mark.parametrize(
    ("done", "total", "text"), [(0, 5, ""), (6, 5, ""), (1, None, ""), (1, 3, "about 2m 00s left")]
)
def test_the_time_left_is_said_when_it_can_be(done: float, total: float | None, text: str) -> None:
    assert show_left(done, total, 60.0) == text


def test_on_a_terminal_progress_is_a_bar_with_talk_above_it() -> None:
    screen = Terminal()
    with Progress("rounds [1]", 4, stream=screen) as bar:
        bar.update(2)
        bar.tell("[bold]killed device-2")
        bar.update(4, 4)
    drawn = screen.getvalue()
    assert "[bold]killed device-2" in drawn
    assert "rounds [1]" in drawn
    assert "4/4" in drawn
