"""Data on stdout: tables, JSON, and progress with the time left. rich where there is a terminal and rich is there.

Data goes to stdout and talk to stderr, so that a pipe gets data alone. Without a terminal, tables are plain aligned
text and progress is a line now and then.
"""

import importlib.util
import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TextIO

import click

__all__ = ["Progress", "fancy", "print_json", "print_table", "progress", "say", "show_left", "table_lines"]

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


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, title: str = "") -> None:
    """A table on stdout; numbers stand right, None is a dash."""
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


class Progress(Protocol):
    """Long work, as it goes on."""

    def update(self, done: float, text: str = "") -> None:
        """So much of the total is done; `text` says how it looks."""
        ...

    def tell(self, text: str) -> None:
        """A line of talk; on a terminal it stands above the bar."""
        ...


@contextmanager
def progress(
    label: str, total: float | None, *, now: Callable[[], float] = time.monotonic, stream: TextIO | None = None
) -> Iterator[Progress]:
    """Show on stderr how far long work is and how much time is left; `total` None: nobody knows the end."""
    out = sys.stderr if stream is None else stream
    if not fancy(out):
        yield Lines(label, total, now, out)
        return
    with _bars(out) as bars:
        yield Bar(bars, bars.add_task(label, total=total, text=""))


class Lines:
    """Progress without a terminal: a line at once, then one every few seconds, and one at the end."""

    def __init__(self, label: str, total: float | None, now: Callable[[], float], stream: TextIO) -> None:
        self._label = label
        self._total = total
        self._now = now
        self._stream = stream
        self._started = now()
        self._written: float | None = None

    def update(self, done: float, text: str = "") -> None:
        """See `Progress`."""
        now = self._now()
        finished = self._total is not None and done >= self._total
        if self._written is not None and now - self._written < LINE_EVERY_S and not finished:
            return
        self._written = now
        of = "" if self._total is None else f" of {self._total:g}"
        left = "" if finished else show_left(done, self._total, now - self._started)
        self.tell(", ".join(part for part in (f"{self._label}: {done:g}{of}", text, left) if part))

    def tell(self, text: str) -> None:
        """See `Progress`."""
        print(text, file=self._stream, flush=True)


class Bar:
    """Progress on a terminal."""

    def __init__(self, bars: Any, task: Any) -> None:
        self._bars = bars
        self._task = task

    def update(self, done: float, text: str = "") -> None:
        """See `Progress`."""
        self._bars.update(self._task, completed=done, text=text)

    def tell(self, text: str) -> None:
        """See `Progress`."""
        self._bars.console.print(text, markup=False, highlight=False)


def show_left(done: float, total: float | None, elapsed_s: float) -> str:
    """How much time is left, by how fast it went so far; empty when that cannot be said."""
    if total is None or done <= 0 or done > total:
        return ""
    minutes, seconds = divmod(round(elapsed_s * (total - done) / done), 60)
    return f"about {minutes}m {seconds:02d}s left" if minutes else f"about {seconds}s left"


def _bars(stream: TextIO) -> Any:
    from rich import progress as drawn
    from rich.console import Console

    return drawn.Progress(
        drawn.SpinnerColumn(),
        drawn.TextColumn("{task.description}", markup=False),
        drawn.BarColumn(),
        drawn.MofNCompleteColumn(),
        drawn.TimeElapsedColumn(),
        drawn.TextColumn("left"),
        drawn.TimeRemainingColumn(),
        drawn.TextColumn("{task.fields[text]}", markup=False),
        console=Console(file=stream),
    )
