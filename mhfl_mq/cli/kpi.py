"""`mhfl kpi`: key figures of a federation against the targets of its policy."""

from pathlib import Path

import click

from mhfl_mq.cli.options import json_option, policy_file, state_option
from mhfl_mq.cli.output import print_json, print_table
from mhfl_mq.cli.policies import read_installed_policy
from mhfl_mq.errors import ConfigError
from mhfl_mq.policy.kpi import Judged, judge
from mhfl_mq.policy.quantities import show_duration
from mhfl_mq.run.clock import SystemClock
from mhfl_mq.run.kpi import history_of, kpi_document
from mhfl_mq.store.policies import applied_policy
from mhfl_mq.store.view import open_view

__all__ = ["command"]

_MET = {True: "met", False: "MISSED", None: "-"}


@click.command("kpi")
@click.option(
    "--policy", "file", type=click.Path(path_type=Path), help="Policy file with targets; else the applied one."
)
@state_option
@json_option
def command(file: Path | None, state: Path, as_json: bool) -> None:
    """Show the key figures that a policy names, against their targets, from the aggregator's state folder.

    May be run beside a running aggregator, or after it.
    """
    path = policy_file(file) if file is not None else applied_policy(state)
    if path is None:
        raise ConfigError("no policy was applied here", where=str(state), remedy="name one with --policy")
    policy = read_installed_policy(path)
    if not policy.kpi:
        raise ConfigError("the policy names no key figures", where=str(path), remedy="add spec.kpi (docs/policy.md)")
    with open_view(state) as view:
        history = history_of(view, [tier.name for tier in policy.tiers])
    judged = judge(policy.kpi, history, SystemClock().now().timestamp())
    if as_json:
        print_json(kpi_document(judged))
        return
    print_table("", ["figure", "target", "over", "now", ""], [_row(one) for one in judged])
    met = sum(one.met is True for one in judged)
    click.echo(f"\n{met} of {len(judged)} met, over {len(history.rounds)} rounds")


def _row(one: Judged) -> list[str | float | None]:
    window = "all time" if one.kpi.window_s is None else show_duration(one.kpi.window_s)
    return [one.kpi.metric, one.target, window, one.shown, _MET[one.met]]
