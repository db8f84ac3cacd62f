"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from mhfl_mq.errors import ConfigError, LocalMisuse
from mhfl_mq.shipped import shipped

__all__ = [
    "DEFAULT_STATE",
    "Subcommands",
    "broker_option",
    "device_argument",
    "federation_options",
    "json_option",
    "policy_file",
    "state_option",
]

DEFAULT_STATE: Final = Path("mhfl-state")

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

broker_option = click.option(
    "--broker",
    envvar="MHFL_BROKER",
    required=True,
    help="mqtt://USER:PASSWORD@HOST:PORT, or mqtts, ws, wss; better in the variable MHFL_BROKER than here.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, with stable keys.")

state_option = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_STATE,
    show_default=True,
    envvar="MHFL_STATE",
    help="The aggregator's state folder.",
)


class Subcommands(click.Group):
    """A group whose help has the first sentence of each command, whole: click cuts it at the end of the line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands."""
        rows = [(name, _first_sentence(one.help or "")) for name, one in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_sentence(text: str) -> str:
    sentence, _, _ = " ".join(text.split("\n\n")[0].split()).partition(". ")
    return sentence.rstrip(".") + "."


def _task(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The name, or the nearest one: a wrong name is told at once, and not in the first round. Loads no torch."""
    from mhfl_mq.train.task import check_name

    check_name(value)
    return value


def _root(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from mhfl_mq.wire.topics import Topics

    return _checked(value, lambda: Topics("any", value))


def _federation(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from mhfl_mq.wire.topics import check_id

    return _checked(value, lambda: check_id(value, "--federation"))


def _device(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from mhfl_mq.wire.topics import check_id

    return _checked(value, lambda: check_id(value, "DEVICE"))


def _checked(value: str, check: Callable[[], object]) -> str:
    """The value, if it can be a part of a topic: a person wrote it, so it is no bug when it cannot."""
    try:
        check()
    except LocalMisuse as error:
        raise ConfigError(error.what, where=error.where, remedy=error.remedy) from None
    return value


device_argument = click.argument("device", callback=_device)


def federation_options(command: CommandT) -> CommandT:
    """Which federation, and which task."""
    for option in (
        click.option(
            "--task",
            default="wind",
            show_default=True,
            callback=_task,
            help="Installed task, or package.module:ATTRIBUTE.",
        ),
        click.option(
            "--root",
            default="mhfl",
            show_default=True,
            callback=_root,
            help="Root of the topic tree, one or two levels.",
        ),
        click.option(
            "--federation",
            default="federation",
            show_default=True,
            callback=_federation,
            help="Name of the federation.",
        ),
    ):
        command = option(command)
    return command


def policy_file(policy: Path | None) -> Path:
    """The file that `--policy` means: a file, or a shipped policy by its name; without it, the default one."""
    name = "default" if policy is None else str(policy)
    if policy is not None and policy.exists():
        return policy
    file = shipped("policies") / f"{name}.yaml"
    return Path(str(file)) if file.is_file() else Path(name)
