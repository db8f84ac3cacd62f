"""`mhfl simulate`: whole federations with faults, each replayed from its seed, without a network."""

from dataclasses import asdict

import click

from mhfl_mq.cli.options import json_option
from mhfl_mq.cli.output import Progress, print_json, print_table, say
from mhfl_mq.testing.faults import PLANS
from mhfl_mq.testing.sim import DEVICES, Outcome, simulate

__all__ = ["command"]


@click.command()
@click.option("--seed", type=click.IntRange(0), help="Run this seed (default: 0).")
@click.option("--seeds", metavar="A..B", help="Run the seeds from A to B, both included.")
@click.option("--plan", type=click.Choice(tuple(PLANS)), default="mixed", show_default=True, help="What goes wrong.")
@click.option("--devices", type=click.IntRange(3, 100), default=DEVICES, show_default=True, help="How many devices.")
@click.option("--apart", is_flag=True, help="Tiers that have segments of their own, instead of nested ones.")
@click.option("--trace", is_flag=True, help="Show everything that happens, with its virtual time.")
@json_option
def command(
    seed: int | None, seeds: str | None, plan: str, devices: int, apart: bool, trace: bool, as_json: bool
) -> int:
    """Run whole federations under faults in virtual time; each seed always gives the same run.

    The real machines, codec, hosts and stores run over a broker in memory, while links break, messages are lost,
    doubled and damaged, and processes and the broker die. What must always hold is checked all the time. Exit code 1
    when it did not, with the command that replays the first failure.
    """
    numbers = _numbers(seed, seeds)
    outcomes: list[Outcome] = []
    with Progress("simulating", len(numbers)) as progress:
        for done, number in enumerate(numbers, start=1):
            outcome = simulate(number, plan, devices=devices, trace=trace, apart=apart)
            outcomes.append(outcome)
            if trace and not as_json:
                click.echo("\n".join(outcome.trace))
            if outcome.error:
                say(f"seed {number} failed: {outcome.error}")
                say(f"replay: {outcome.replay}")
            if len(numbers) > 1:
                progress.update(done)
    failed = [one for one in outcomes if one.error]
    if as_json:
        print_json({"ok": not failed, "runs": [_document(one, trace) for one in outcomes]})
    else:
        _show(outcomes)
    return 1 if failed else 0


def _numbers(seed: int | None, seeds: str | None) -> range:
    if seeds is None:
        first = seed or 0
        return range(first, first + 1)
    if seed is not None:
        raise click.UsageError("give --seed or --seeds, not both")
    first_text, dots, last_text = seeds.partition("..")
    if not (dots and first_text.isdecimal() and last_text.isdecimal() and int(first_text) <= int(last_text)):
        raise click.BadParameter("write it as 0..99", param_hint="--seeds")
    return range(int(first_text), int(last_text) + 1)


def _document(one: Outcome, trace: bool) -> dict[str, object]:
    document = {**asdict(one), "seen": dict(sorted(one.seen.items())), "replay": one.replay}
    if not trace:
        del document["trace"]
    return document


def _show(outcomes: list[Outcome]) -> None:
    total = sum((one.seen for one in outcomes), start=type(outcomes[0].seen)())
    print_table("what happened", ("what", "times"), sorted(total.items()))
    hours = sum(one.seconds for one in outcomes) / 3600
    rounds, commits = sum(one.rounds for one in outcomes), sum(one.commits for one in outcomes)
    failed = sum(bool(one.error) for one in outcomes)
    click.echo(
        f"{len(outcomes)} seeds, {failed} failed; {rounds} rounds, {commits} committed, {hours:.1f} virtual hours"
        + (f"; digest {outcomes[0].digest}" if len(outcomes) == 1 else "")
    )
