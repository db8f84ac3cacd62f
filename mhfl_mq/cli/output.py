"""Data on stdout: tables, JSON, and progress with the time left. rich where there is a terminal and rich is there.

Data goes to stdout and talk to stderr, so that a pipe gets data alone. Without a terminal, tables are plain aligned
text and progress is a line now and then.
"""

import importlib.util
import json
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self, TextIO

import click

__all__ = ["Progress", "fancy", "print_json", "print_table", "say", "show_left", "table_lines"]

LINE_EVERY_S: Final = 5.0
"""Between two lines of progress without a terminal: a log of an hour stays readable."""

Cell = str | int | float | None


def fancy(stream: TextIO) -> bool:
    """Whether to draw: a terminal, and rich is installed."""
    return stream.isatty() and importlib.util.find_spec("rich") is not None


def say(text: str) -> None:
    """Talk, on stderr."""
    click.echo(text, err=True)


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Data for scripts, on stdout; keys are stable (docs/cli.md)."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str))


# ---- tables ---------------------------------------------------------------------------------------------------


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table on stdout; numbers stand right, None is a dash. The title may be empty."""
    if fancy(sys.stdout):
        _rich_table(title, columns, rows)
        return
    for line in ([title] if title else []) + table_lines(columns, rows):
        click.echo(line)


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """A table as aligned text, East Asian characters two cells wide."""
    cells = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(map(_cells, column)) for column in zip(columns, *cells, strict=True)]
    right = [_is_right(rows, index) for index in range(len(columns))]
    heads = [columns, ["-" * width for width in widths]]
    return [
        "  ".join(
            _padded(text, width, to_right) for text, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [*heads, *cells]
    ]


def _rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if _is_right(rows, index) else "left")
    for row in rows:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    Console(file=sys.stdout).print(table)


def _is_right(rows: Sequence[Sequence[Cell]], index: int) -> bool:
    values = [row[index] for row in rows if row[index] is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _cells(text: str) -> int:
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _padded(text: str, width: int, to_right: bool) -> str:
    blanks = " " * (width - _cells(text))
    return blanks + text if to_right else text + blanks


# ---- progress -------------------------------------------------------------------------------------------------


class Progress:
    """Long work on stderr: how far it is and how much time is left. Use it as a context manager.

    A bar on a terminal, else a line at once, then one every few seconds, and one at the end. `total` None: nobody
    knows the end.
    """

    def __init__(
        self,
        label: str,
        total: float | None,
        *,
        now: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ) -> None:
        self._label = label
        self._total = total
        self._now = now
        self._stream = sys.stderr if stream is None else stream
        self._started = now()
        self._written: float | None = None
        self._bars: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if fancy(self._stream):
            self._bars = _bars(self._stream)
            self._task = self._bars.add_task(self._label, total=self._total)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, done: float, total: float | None = None) -> None:
        """So much is done; `total` corrects what was known of the end."""
        self._total = self._total if total is None else total
        if self._bars is not None:
            self._bars.update(self._task, completed=done, total=self._total)
            return
        now = self._now()
        finished = self._total is not None and done >= self._total
        if self._written is None or now - self._written >= LINE_EVERY_S or finished:
            self._written = now
            of = "" if self._total is None else f" of {self._total:g}"
            left = "" if finished else show_left(done, self._total, now - self._started)
            self._line(f"{self._label}: {done:g}{of}{left and ', '}{left}")

    def tell(self, text: str) -> None:
        """A line of talk, above the bar."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def show_left(done: float, total: float | None, elapsed_s: float) -> str:
    """How much time is left, by how fast it went so far; empty when that cannot be said."""
    if total is None or done <= 0 or done > total:
        return ""
    minutes, seconds = divmod(round(elapsed_s * (total - done) / done), 60)
    return f"about {minutes}m {seconds:02d}s left" if minutes else f"about {seconds}s left"


def _bars(stream: TextIO) -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=Console(file=stream),
    )
