"""`mhfl policy simulate`: the calendar of rounds that a policy would open, with who takes part and how many bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from mhfl_mq.cli.options import json_option, policy_file
from mhfl_mq.cli.output import print_json, print_table
from mhfl_mq.cli.policies import read_installed_policy
from mhfl_mq.cli.times import iso, moment
from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import Participation, PerDevice, Policy
from mhfl_mq.policy.eligible import Fleet
from mhfl_mq.policy.facts import DeviceFacts
from mhfl_mq.policy.quantities import parse_duration, show_bytes, show_duration
from mhfl_mq.policy.schedule import next_opening, show_time, zone_of
from mhfl_mq.run.fleet import read_fleet, with_policy
from mhfl_mq.run.rehearsal import Planned, rehearse

__all__ = ["simulate_command"]

DAY_S: Final = 86400.0
_SHOWN: Final = 40  # rounds that are shown one by one; more are shown by the day
_SPANS: Final = 3  # spans of a day that are written out


@click.command("simulate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--days", type=click.IntRange(1, 400), default=7, show_default=True, help="How far to look.")
@click.option("--from", "start", default="", metavar="TIME", help="From this time of the policy's zone on, not now.")
@click.option(
    "--fleet", "folder", type=click.Path(path_type=Path), help="State folder of an aggregator, or its fleet.json."
)
@click.option(
    "--round", "lasting", default="", metavar="DURATION", help="How long a round takes.  [default: its deadline]"
)
@json_option
def simulate_command(file: Path, days: int, start: str, folder: Path | None, lasting: str, as_json: bool) -> None:
    """Show the rounds that a policy would open in the next days, without touching a device.

    FILE is a file, or the name of a policy that ships. With --fleet each round shows who would be invited, as if the
    devices stayed as they are and each delivered, and the bytes that they would send at most.
    """
    policy = read_installed_policy(policy_file(file))
    since = moment(start, policy)
    until = since + days * DAY_S
    round_s = _round(lasting, policy)
    if folder is None:
        fleet = None
        planned, complete = rehearse(*_imagined(policy), since, until, round_s)
    else:
        fleet = read_fleet(folder)
        fleet = replace(fleet, devices=tuple(with_policy(one, policy) for one in fleet.devices))
        lengths = [fleet.lengths.get(tier.name, 0) for tier in policy.tiers]
        planned, complete = rehearse(policy, fleet, lengths, since, until, round_s)
    if as_json:
        print_json({**_document(policy, fleet, planned, since, until), "complete": complete})
        return
    _show(policy, fleet, planned, since, until)
    if not complete:
        click.echo("\nthere may be more: the rehearsal ends here")


def _round(lasting: str, policy: Policy) -> float:
    deadline_s = policy.participation.deadline_s
    if not lasting:
        return deadline_s
    try:
        round_s = parse_duration(lasting)
    except ValueError as error:
        says, _, remedy = str(error).partition("; ")
        raise ConfigError(says, where="--round", remedy=remedy) from None
    if not 0 < round_s <= deadline_s:
        remedy = f"write more than 0 and at most {show_duration(deadline_s)}, the deadline"
        raise ConfigError(f"a round cannot take {lasting}", where="--round", remedy=remedy)
    return round_s


def _imagined(policy: Policy) -> tuple[Policy, Fleet, list[int]]:
    """One device that is enough for a round and meets every rule: what is left is the schedule."""
    part, schedule = policy.participation, policy.schedule
    free = replace(policy, participation=Participation(deadline_s=part.deadline_s))
    free = replace(free, schedule=replace(schedule, per_device=PerDevice()))
    return free, Fleet((DeviceFacts("any", {"tier": policy.tiers[0].name}),)), [1] * len(policy.tiers)


# ---- as JSON ----------------------------------------------------------------------------------------------------


def _document(
    policy: Policy, fleet: Fleet | None, planned: Sequence[Planned], since: float, until: float
) -> dict[str, Any]:
    return {
        "policy": policy.name,
        "digest": policy.digest,
        "zone": policy.schedule.timezone,
        "from": iso(since),
        "to": iso(until),
        "clock_changes": [iso(at) for at, _ in _changes(policy, since, until)],
        "rounds": [
            {
                "begin": iso(one.begin),
                "end": iso(one.end),
                **(
                    {}
                    if fleet is None
                    else {"devices": sorted(one.updates), "bytes_up": sum(one.updates.values()), "out": dict(one.out)}
                ),
            }
            for one in planned
        ],
    }


# ---- for people -------------------------------------------------------------------------------------------------


def _show(policy: Policy, fleet: Fleet | None, planned: Sequence[Planned], since: float, until: float) -> None:
    schedule = policy.schedule
    click.echo(f"{policy.name} ({policy.digest[:12]}), {show_time(since, schedule)} to {show_time(until, schedule)}")
    for at, words in _changes(policy, since, until):
        click.echo(f"the clocks change {show_time(at, schedule)}: {words}")
    if not planned:
        click.echo("no round would begin" + ("" if fleet is None else _why_none(fleet)))
        return
    if len(planned) <= _SHOWN:
        _by_round(policy, fleet, planned)
    else:
        _by_day(policy, fleet, planned, since, until)
    click.echo(f"\n{len(planned)} round{'s' if len(planned) > 1 else ''}")
    if fleet is not None:
        _by_device(fleet, planned)


def _why_none(fleet: Fleet) -> str:
    here = sum(one.present for one in fleet.devices)
    return f": {here} of {len(fleet.devices)} devices are here; `mhfl policy explain DEVICE` says what keeps one out"


def _by_round(policy: Policy, fleet: Fleet | None, planned: Sequence[Planned]) -> None:
    columns = ["begins", *([] if fleet is None else ["devices", "up", "kept out"])]
    rows: list[list[str | float | None]] = []
    for one in planned:
        row: list[str | float | None] = [_day_and_time(one.begin, policy)]
        if fleet is not None:
            out = ", ".join(f"{rule} {count}" for rule, count in one.out.items())
            row += [f"{len(one.updates)} of {len(fleet.devices)}", show_bytes(sum(one.updates.values())), out or "-"]
        rows.append(row)
    print_table("", columns, rows)


def _by_day(policy: Policy, fleet: Fleet | None, planned: Sequence[Planned], since: float, until: float) -> None:
    columns = ["day", "may begin", "rounds", "first", "last", *([] if fleet is None else ["devices each", "up"])]
    rows: list[list[str | float | None]] = []
    for begin, end in _days(policy, since, until):
        rounds = [one for one in planned if begin <= one.begin < end]
        times = (
            [_local(one.begin, policy).strftime("%H:%M") for one in (rounds[0], rounds[-1])] if rounds else [None] * 2
        )
        row: list[str | float | None] = [_local(begin, policy).strftime("%a %Y-%m-%d"), _spans(policy, begin, end)]
        row += [len(rounds), *times]
        if fleet is not None:
            each = sum(len(one.updates) for one in rounds) / len(rounds) if rounds else None
            row += [each, show_bytes(sum(sum(one.updates.values()) for one in rounds))]
        rows.append(row)
    print_table("", columns, rows)


def _by_device(fleet: Fleet, planned: Sequence[Planned]) -> None:
    rows: list[list[str | float | None]] = []
    for one in fleet.devices:
        sizes = [each.updates[one.device] for each in planned if one.device in each.updates]
        share = f"{len(sizes) / len(planned):.0%}"
        rows.append([one.device, str(one.facts.get("tier", "")), len(sizes), share, show_bytes(sum(sizes))])
    print_table("\nexpected, if all stay as they are", ["device", "tier", "rounds", "share", "up"], rows)


def _days(policy: Policy, since: float, until: float) -> Iterator[tuple[float, float]]:
    """The days of the policy's zone, the first and the last cut."""
    at = since
    while at < until:
        day = _local(at, policy)
        midnight = datetime(day.year, day.month, day.day, tzinfo=day.tzinfo) + timedelta(days=1)
        end = min(until, midnight.timestamp())
        yield at, end
        at = end


def _spans(policy: Policy, begin: float, end: float) -> str:
    """When windows and blackouts allow a round to begin."""
    free = replace(policy.schedule, cron="")
    found: list[tuple[float, float]] = []
    at = begin
    while at < end and len(found) <= _SPANS:
        span = next_opening(free, policy.participation.deadline_s, at)
        if span is None or span[0] >= end:
            break
        found.append((span[0], min(span[1], end)))
        at = found[-1][1]
    if found == [(begin, end)]:
        return "all day"
    shown = [f"{_local(a, policy):%H:%M}-{_local(b, policy):%H:%M}" for a, b in found[:_SPANS]]
    return ", ".join(shown) + (", ..." if len(found) > _SPANS else "") if shown else "never"


def _changes(policy: Policy, since: float, until: float) -> Iterator[tuple[float, str]]:
    """When the clocks of the policy's zone change, to the minute, and what they do."""
    before = _local(since, policy).utcoffset()
    for minute in range(int(since // 60) + 1, int(until // 60) + 1):
        if minute % 15:
            continue
        offset = _local(minute * 60.0, policy).utcoffset()
        if offset != before and offset is not None and before is not None:
            change = (offset - before).total_seconds()
            yield minute * 60.0, f"they are {'advanced' if change > 0 else 'put back'} by {show_duration(abs(change))}"
        before = offset


def _local(at: float, policy: Policy) -> datetime:
    return datetime.fromtimestamp(at, UTC).astimezone(zone_of(policy.schedule.timezone))


def _day_and_time(at: float, policy: Policy) -> str:
    return f"{_local(at, policy):%a} {show_time(at, policy.schedule)}"
