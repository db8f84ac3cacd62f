"""`mhfl algorithms`: the methods that a policy can name."""

from typing import Any

import click

from mhfl_mq.cli.options import json_option
from mhfl_mq.cli.output import print_json, print_table
from mhfl_mq.families import AUTO, algorithm_class, algorithm_names

__all__ = ["command"]


@click.command()
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the algorithms: family, what travels, whether the sum is enough, and the paper.

    With NAME: that one alone, with its options. A policy names one under `spec.algorithm.name`, or says `auto`.
    """
    if name is not None:
        _show(name, as_json)
        return
    abouts = [algorithm_class(one).ABOUT for one in algorithm_names()]
    if as_json:
        print_json([_record(one.name) for one in abouts])
        return
    print_table(
        "",
        ["name", "family", "what travels", "linear", "paper"],
        [[one.name, one.family.value, one.travels, "yes" if one.linear else "no", one.paper] for one in abouts],
    )
    click.echo(
        f"\nlinear: the sum of all updates is enough, so secure aggregation can serve it.\n"
        f"`{AUTO}` picks one by what the policy's budgets bind; `mhfl algorithms NAME` shows an algorithm's options."
    )


def _show(name: str, as_json: bool) -> None:
    if as_json:
        print_json(_record(name))
        return
    cls = algorithm_class(name)
    about = cls.ABOUT
    click.echo(about.title)
    for label, value in (
        ("family", about.family.value),
        ("travels", about.travels),
        ("linear", "yes" if about.linear else "no: each update is looked at by itself"),
        ("weighting", cls.WEIGHTING.value),
        ("scored by", "the aggregator" if cls.EVALUATED.value == "aggregator" else "each device, on its own model"),
        ("paper", about.paper),
    ):
        click.echo(f"{label:<10} {value}")
    if cls.NUMBERS:
        click.echo()
        print_table(
            "",
            ["option", "default", "least", "most", "what it says"],
            [[key, one.default, one.low, one.high, one.says] for key, one in cls.NUMBERS.items()],
        )


def _record(name: str) -> dict[str, Any]:
    cls = algorithm_class(name)
    about = cls.ABOUT
    return {
        "name": about.name,
        "title": about.title,
        "family": about.family.value,
        "travels": about.travels,
        "linear": about.linear,
        "weighting": cls.WEIGHTING.value,
        "evaluated": cls.EVALUATED.value,
        "paper": about.paper,
        "options": {
            key: {"default": one.default, "low": one.low, "high": one.high, "says": one.says}
            for key, one in cls.NUMBERS.items()
        },
    }
