"""`mhfl policy apply`: put a policy in the place of the one that a running aggregator goes by."""

import time
from pathlib import Path

import click

from mhfl_mq.cli.model import pause, who
from mhfl_mq.cli.options import json_option, policy_file, state_option
from mhfl_mq.cli.output import print_json, say
from mhfl_mq.cli.policies import read_installed_policy
from mhfl_mq.cli.signing import SUFFIX, read_bytes
from mhfl_mq.errors import ConfigError, PolicyError, StoreError
from mhfl_mq.run.aggregator import LOOK_EVERY_S
from mhfl_mq.run.clock import SystemClock
from mhfl_mq.run.status import is_running, read_board
from mhfl_mq.store.requests import answer_of, ask_policy
from mhfl_mq.store.view import open_view

__all__ = ["apply_command"]

WAIT_S = 30.0


@click.command("apply")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--reason", required=True, help="Why, for those who read the ledger later.")
@click.option(
    "--wait", type=click.FloatRange(0), default=WAIT_S, show_default=True, help="Seconds to wait for the aggregator."
)
@state_option
@json_option
def apply_command(file: Path, reason: str, wait: float, state: Path, as_json: bool) -> None:
    """Put a policy in the place of the one that a running aggregator goes by.

    It is in effect from the next round on, without a restart.

    A policy that `check` refuses, that too few people have signed (FILE.sig), that does not follow the running one's
    revision, or that changes what only a restart can change, is refused: the running one stays, and the ledger says so.
    """
    path = policy_file(file)
    policy = read_installed_policy(path)
    with open_view(state):
        pass  # says what is wrong with the folder
    if not is_running(read_board(state), SystemClock().now()):
        remedy = f"start it with --policy {file}"
        raise ConfigError("no aggregator is running here", where=str(state), remedy=remedy)
    signed = path.with_name(path.name + SUFFIX)
    request = ask_policy(
        state,
        {
            "text": read_bytes(path).decode("utf-8"),  # as it was signed: its line ends and its mark, too
            "signatures": read_bytes(signed).decode("ascii", "replace") if signed.exists() else "",
            "file": str(path),
            "reason": reason,
            "who": who(),
        },
    )
    fault = _answer(request, wait)
    if fault:
        first, *rest = fault.splitlines()
        raise PolicyError(first, where="", remedy=" ".join(line.strip() for line in rest))
    if as_json:
        print_json({"policy": policy.name, "digest": policy.digest, "reason": reason})
    else:
        say(f"applied {policy.name} ({policy.digest[:12]}): in effect from the next round on")


def _answer(request: Path, wait: float) -> str:
    """What became of it; empty: applied."""
    deadline = time.monotonic() + wait
    while (answer := answer_of(request)) is None:
        if time.monotonic() >= deadline:
            raise StoreError(
                f"the aggregator has not taken up the policy within {wait:g} s",
                where=str(request),
                remedy="it will when it comes to it; delete this file to take the request back",
            )
        pause(LOOK_EVERY_S)
    return answer
