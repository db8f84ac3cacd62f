"""`mhfl policy explain`: why a device may be invited now or not, rule by rule, and when its next chance is."""

from pathlib import Path
from typing import Any

import click

from mhfl_mq.cli.options import device_argument, json_option, policy_file, state_option
from mhfl_mq.cli.output import print_json
from mhfl_mq.cli.policies import read_installed_policy
from mhfl_mq.cli.times import iso, moment
from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import Reason
from mhfl_mq.policy.eligible import explain
from mhfl_mq.policy.findings import nearest, printable
from mhfl_mq.policy.lines import rule_lines
from mhfl_mq.policy.schedule import show_time
from mhfl_mq.run.fleet import read_fleet, with_policy
from mhfl_mq.store.policies import applied_policy

__all__ = ["explain_command"]


@click.command("explain")
@device_argument
@click.option(
    "--policy",
    "file",
    type=click.Path(path_type=Path),
    help="Policy file; left out: the one that was applied last, else the default.",
)
@state_option
@click.option(
    "--at",
    "time",
    default="",
    metavar="TIME",
    help="At this time, e.g. 2026-11-24T22:00, in the policy's zone.  [default: now]",
)
@json_option
def explain_command(device: str, file: Path | None, state: Path, time: str, as_json: bool) -> None:
    """Say whether DEVICE may be invited to a round now, by each rule, and when its next chance is.

    The facts are those of the aggregator of the state folder, running or not. Nothing is changed: try a policy file
    before it is used.
    """
    path = policy_file(file) if file is not None else applied_policy(state) or policy_file(None)
    policy = read_installed_policy(path)
    now = moment(time, policy)
    fleet = read_fleet(state)
    found = next((one for one in fleet.devices if one.device == device), None)
    if found is None:
        near = nearest(device, [one.device for one in fleet.devices])
        remedy = f"did you mean {near}?" if near else "`mhfl status` shows the devices; it must be there, with a tier"
        raise ConfigError(f"the aggregator knows no device {device} that is there", where=str(state), remedy=remedy)
    decision = explain(policy, fleet, with_policy(found, policy), now)
    answer = decision.answer
    lines = rule_lines(path)
    if as_json:
        print_json(
            {
                "device": device,
                "policy": policy.name,
                "digest": policy.digest,
                "at": iso(now),
                "in": answer.now,
                "next": None if answer.now or answer.changes_at is None else iso(answer.changes_at),
                "rules": [_rule(one, lines) for one in decision.reasons],
            }
        )
        return
    which = f"policy {policy.name} ({policy.digest[:12]}), {show_time(now, policy.schedule)}"
    click.echo(f"{device} is {'IN' if answer.now else 'OUT'}: {which}")
    width = max((len(one.rule) for one in decision.reasons), default=0)
    for one in decision.reasons:
        click.echo(f"  {'ok' if one.holds else 'NO'}  {one.rule:<{width}}  {printable(one.says)}")
    if not decision.reasons:
        click.echo("  no rule keeps anybody out")
    if not answer.now:
        chance = "not by waiting alone" if answer.changes_at is None else show_time(answer.changes_at, policy.schedule)
        against = [f"{path}:{lines[one.rule]}" for one in decision.reasons if not one.holds and one.rule in lines]
        click.echo(f"  next chance: {chance}" + (f"    change this: {', '.join(against)}" if against else ""))


def _rule(reason: Reason, lines: dict[str, int]) -> dict[str, Any]:
    return {"rule": reason.rule, "holds": reason.holds, "says": reason.says, "line": lines.get(reason.rule)}
