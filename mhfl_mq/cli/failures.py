"""What a person sees when a command fails, and the exit code that a script sees."""

import os
import sys
import traceback
from contextlib import suppress
from typing import Final

import click

from mhfl_mq.errors import ConfigError, MhflError

__all__ = ["BUG", "INTERRUPTED", "PIPE_CLOSED", "exit_code_of", "missing_extra", "show_error"]

BUG: Final = 70
"""An exception that nobody expected (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED: Final = 130
"""Ctrl-C: 128 and the signal's number, as shells have it."""
PIPE_CLOSED: Final = 141
"""The reader of our output went away, as in `mhfl ledger show | head`."""

_EXTRAS: Final = {
    "pydantic": "server",
    "yaml": "server",
    "rich": "server",
    "safetensors": "server",
    "torch": "train",
    "opacus": "train",
    "matplotlib": "bench",
    "psutil": "bench",
}


def exit_code_of(error: BaseException, *, debug: bool = False, interrupted: bool = False) -> int:
    """Tell a person on stderr what went wrong, and return the exit code.

    `interrupted`: there was a Ctrl-C before, and what nobody expected came of it.
    """
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        case KeyboardInterrupt() | click.Abort():
            click.echo("stopped", err=True)
            return INTERRUPTED
        case BrokenPipeError():
            _drop_stdout()
            return PIPE_CLOSED
        case click.ClickException():
            error.show()
            return error.exit_code
    if debug:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if interrupted and not isinstance(error, MhflError):
        click.echo("stopped", err=True)
        return INTERRUPTED
    if isinstance(error, ModuleNotFoundError) and (missing := missing_extra(error)) is not None:
        error = missing
    if isinstance(error, MhflError):
        show_error(error)
        return error.exit_code
    _show_bug(error)
    return BUG


def show_error(error: MhflError) -> None:
    """What was wrong, where, and what to do, each on a line of its own."""
    click.echo(f"{click.style('error', fg='red', bold=True)}: {error.what}", err=True)
    if error.where:
        click.echo(f"  where: {error.where}", err=True)
    if error.remedy:
        click.echo(f"  what to do: {error.remedy}", err=True)


def missing_extra(error: ModuleNotFoundError) -> ConfigError | None:
    """A module that is not there because an extra was not installed, as an error that says so."""
    name = (error.name or "").split(".")[0]
    extra = _EXTRAS.get(name)
    if extra is None:
        return None
    return ConfigError(
        f"this command needs {name}, which is not installed",
        where=sys.executable,
        remedy=f'install it: pip install "mhfl-mq[{extra}]"',
    )


def _show_bug(error: BaseException) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    says = str(error).strip() or "no message"
    remedy = "this is a bug of mhfl: run the command again as `mhfl --debug ...` and report what it prints"
    show_error(MhflError(f"unexpected {type(error).__name__}: {says}", where=place, remedy=remedy))


def _drop_stdout() -> None:
    """Nobody reads it any more: what Python flushes at its end must go somewhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
