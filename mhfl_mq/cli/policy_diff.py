"""`mhfl policy diff`: what a new policy changes, in the file, for the fleet, and in the calendar."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from mhfl_mq.cli.options import json_option, policy_file
from mhfl_mq.cli.output import print_json
from mhfl_mq.cli.policies import read_installed_policy
from mhfl_mq.cli.policy_simulate import DAY_S
from mhfl_mq.cli.times import iso, moment
from mhfl_mq.policy import Policy
from mhfl_mq.policy.compare import Change, changes
from mhfl_mq.policy.eligible import Eligibility, Fleet
from mhfl_mq.policy.findings import printable
from mhfl_mq.policy.quantities import show_bytes
from mhfl_mq.policy.tree import plain, read_tree
from mhfl_mq.run.fleet import read_fleet, with_policy
from mhfl_mq.run.rehearsal import rehearse

__all__ = ["diff_command"]

DAYS: Final = 7
"""How far the calendars are compared."""


@click.command("diff")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--fleet", "folder", type=click.Path(path_type=Path), help="State folder of an aggregator, or its fleet.json."
)
@click.option("--at", "time", default="", metavar="TIME", help="At this time of the policy's zone, not now.")
@json_option
def diff_command(old: Path, new: Path, folder: Path | None, time: str, as_json: bool) -> None:
    """Say what changes between the policies OLD and NEW.

    With --fleet also which devices would leave or join by the rules about devices, and by which rule; and how many
    rounds and bytes the next 7 days would have. Each is a file, or the name of a policy that ships.
    """
    files = [policy_file(old), policy_file(new)]
    before, after = (read_installed_policy(file) for file in files)
    written = changes(*(_values(file) for file in files))
    now = moment(time, after)
    fleet = None if folder is None else read_fleet(folder)
    moved = [] if fleet is None else _moved(fleet, before, after, now)
    weeks = [] if fleet is None else [_week(fleet, policy, now) for policy in (before, after)]
    counts = [] if fleet is None else [_allowed(fleet, policy, now) for policy in (before, after)]
    if as_json:
        print_json(
            {
                "old": before.digest,
                "new": after.digest,
                "at": iso(now),
                "changes": [{"key": one.path, "old": one.old, "new": one.new} for one in written],
                "devices": counts,
                "moved": [{"device": name, "was": was, "is": becomes} for name, was, becomes in moved],
                "week": [{"rounds": rounds, "bytes_up": size} for rounds, size in weeks],
            }
        )
        return
    _show(before, after, written)
    if fleet is not None:
        click.echo(f"\ndevices that may be invited: {counts[0]} -> {counts[1]} of {len(fleet.devices)}")
        for name, was, becomes in moved:
            click.echo(f"  {name} {_words(was, becomes)}")
        (rounds, size), (rounds_after, size_after) = weeks
        click.echo(
            f"rounds in {DAYS} days: {rounds} -> {rounds_after}; up {show_bytes(size)} -> {show_bytes(size_after)}"
        )


def _values(file: Path) -> Any:
    root = read_tree(file.read_text("utf-8-sig"), lambda *_: None)
    return {} if root is None else plain(root)


def _show(before: Policy, after: Policy, written: Sequence[Change]) -> None:
    if before.digest == after.digest:
        click.echo("the same policy" + (", written otherwise" if written else ""))
    for one in written:
        click.echo(printable(str(one)))


def _words(was: str, becomes: str) -> str:
    if not becomes:
        return f"joins (was kept out by {was})"
    return f"leaves: {becomes}" if not was else f"stays out: {becomes} (was {was})"


def _against(fleet: Fleet, policy: Policy, now: float) -> dict[str, str]:
    """The rule that keeps each device out under a policy; empty: it may be invited."""
    rules, tiers = Eligibility(policy), {tier.name for tier in policy.tiers}
    found = {}
    for device in fleet.devices:
        rule = rules.against(with_policy(device, policy), fleet.rounds, now)
        found[device.device] = rule if device.facts.get("tier") in tiers else f"no tier {device.facts.get('tier')}"
    return found


def _allowed(fleet: Fleet, policy: Policy, now: float) -> int:
    return sum(not rule for rule in _against(fleet, policy, now).values())


def _moved(fleet: Fleet, before: Policy, after: Policy, now: float) -> list[tuple[str, str, str]]:
    """The devices whose rule changes, with the rules."""
    was, becomes = _against(fleet, before, now), _against(fleet, after, now)
    return [(name, was[name], becomes[name]) for name in was if was[name] != becomes[name]]


def _week(fleet: Fleet, policy: Policy, now: float) -> tuple[int, int]:
    """Rounds and bytes up of the next days, each round as long as its deadline, all devices here."""
    devices = tuple(replace(with_policy(one, policy), present=True) for one in fleet.devices)
    lengths = [fleet.lengths.get(tier.name, 0) for tier in policy.tiers]
    deadline_s = policy.participation.deadline_s
    everybody = replace(fleet, devices=devices)
    planned, _ = rehearse(policy, everybody, lengths, now, now + DAYS * DAY_S, deadline_s)
    return len(planned), sum(sum(one.updates.values()) for one in planned)
