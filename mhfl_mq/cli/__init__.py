"""The command line: `mhfl COMMAND`. A command's module is imported when it is used, and not before.

So `mhfl --help` answers at once and loads neither torch nor numpy nor pydantic, and a device needs no more installed
than what it runs. Each module `mhfl_mq.cli.<name>` has one click command, `command`.
"""

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click
from click.shell_completion import shell_complete

from mhfl_mq import __version__
from mhfl_mq.cli.failures import exit_code_of
from mhfl_mq.cli.signals import second_interrupt_forces

__all__ = ["COMMANDS", "main", "mhfl"]

COMMANDS: Final = {
    "demo": "A whole federation on this machine: broker, aggregator and devices of three tiers.",
    "broker": "Start a real MQTT broker on this machine, for trying things out.",
    "aggregator": "Run rounds: invite devices, merge what they send, publish the model.",
    "device": "Join a federation, train on this machine's data, send updates.",
    "bench": "Compare the algorithms with each other and with the baselines, on a simulated plant.",
    "simulate": "Replay a federation with faults from a seed, without a network.",
    "status": "Rounds, devices, tiers, bytes and accuracy of a federation, live.",
    "kpi": "Key figures of a federation against the targets of its policy.",
    "policy": "Check, test, simulate, explain, sign and apply policies.",
    "algorithms": "The methods that a policy can name: family, what travels, the paper.",
    "model": "List, show, roll back and export the versions of the model.",
    "ledger": "Verify the audit record, or read it.",
    "doctor": "Look for what would keep a federation from running here.",
    "init": "Write a policy file to start from.",
}
"""Every command with its line in the help, in the order in which a newcomer meets them."""

EPILOG: Final = """
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 a file or an option; 4 a policy; 5 a model that has no tiers;
6 a task or its training; 7 the broker; 8 the state folder; 9 the ledger; 10, 12 a peer; 70 a bug; 130 Ctrl-C.
docs/cli.md says more.
"""

COMPLETION: Final = "_MHFL_COMPLETE"
"""Set by a shell that completes a command line (`_MHFL_COMPLETE=bash_source mhfl` prints the script)."""

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


class Commands(click.Group):
    """The group that knows its commands by name and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(f"mhfl_mq.cli.{cmd_name}"), "command", None)
        return found if isinstance(found, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest command for a wrong one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"there is no command '{args[0]}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mhfl")
@click.option("-v", "--verbose", is_flag=True, help="Say what is going on, on stderr.")
@click.option("--debug", is_flag=True, help="As -v, with every detail, and with tracebacks of errors (MHFL_DEBUG=1).")
def mhfl(verbose: bool, debug: bool) -> None:
    """Federated learning of models of mixed size, over the MQTT broker that a plant already has."""
    level = logging.DEBUG if debug or _debug_wanted() else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format=LOG_FORMAT, stream=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit with its code; `arguments` are those of the process when left out."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with second_interrupt_forces() as interrupted:
        try:
            code = _run(list(words))  # click empties the list
            sys.stdout.flush()
        except BaseException as error:
            debug = _debug_wanted() or _asks_debug(words)
            code = exit_code_of(error, debug=debug, interrupted=interrupted())
    sys.exit(code)


def _run(words: list[str]) -> int:
    """As click's own `main`, which would turn a closed pipe and Ctrl-C into codes of its own."""
    completion = os.environ.get(COMPLETION)
    if completion:
        return shell_complete(mhfl, {}, "mhfl", COMPLETION, completion)
    with mhfl.make_context("mhfl", words) as context:
        result = mhfl.invoke(context)
    return result if type(result) is int else 0


def _debug_wanted() -> bool:
    return os.environ.get("MHFL_DEBUG", "") not in ("", "0")


def _asks_debug(words: Sequence[str]) -> bool:
    """Whether --debug stands before the command: its parse may be what failed."""
    for word in words:
        if word == "--debug":
            return True
        if not word.startswith("-"):
            break
    return False
