"""`mhfl status`: rounds, devices, tiers, bytes and accuracy of a federation, once or live."""

import datetime
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from mhfl_mq.cli.options import json_option, state_option
from mhfl_mq.cli.output import print_json, print_table
from mhfl_mq.errors import StoreError
from mhfl_mq.run.rules import tier_metrics
from mhfl_mq.run.status import read_board
from mhfl_mq.segments import Layout
from mhfl_mq.store.models import Models
from mhfl_mq.store.view import MODELS, View, open_view

__all__ = ["command", "snapshot"]

LAST_ROUNDS = 10
WHY_LETTERS = 60
STALE_S = 5.0
"""A board older than this is a stopped aggregator's: it writes one every second."""


@click.command("status")
@state_option
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@click.option("--rounds", "last", type=click.IntRange(1, 1000), default=LAST_ROUNDS, help="How many rounds to show.")
@json_option
def command(state: Path, watch: bool, last: int, as_json: bool) -> None:
    """Show what a federation is doing and what came out so far, from the aggregator's state folder.

    May be run beside a running aggregator, or after it.
    """
    while True:
        facts = snapshot(state, last)
        if watch and not as_json:
            click.clear()
        if as_json:
            print_json(facts)
        else:
            show(facts)
        if not watch:
            return
        time.sleep(1.0)


def snapshot(state: Path, last: int) -> dict[str, Any]:
    """Everything that the command shows; raises `StoreError` for a folder without state."""
    board = read_board(state)
    with open_view(state) as view:
        head = view.restore().head
        if head is None:
            raise StoreError("there is no model yet", where=str(state), remedy="start the aggregator first")
        layout = Layout.from_document(Models(state / MODELS).open(head.model).layout)
        names = [tier.name for tier in layout.tiers]
        return {
            "running": _running(board),
            "state": board.get("state", "unknown"),
            "round": board.get("round"),
            "head": {"version": head.version, "model": head.model, "origin": head.origin},
            "tiers": _tiers(view, names, tier_metrics(head.metrics), layout.lengths),
            "devices": _devices(view, names, set(board.get("present", []))),
            "rounds": _rounds(view, last),
            "participation": _participation(view),
            "bytes": board.get("bytes", {}),
            "seconds": board.get("seconds", {}),
        }


def _running(board: dict[str, Any]) -> bool:
    try:
        written = datetime.datetime.fromisoformat(board["at"])
    except (KeyError, TypeError, ValueError):
        return False
    age = datetime.datetime.now(datetime.UTC) - written
    return age.total_seconds() < STALE_S


def _tiers(view: View, names: list[str], metrics: dict[str, float], lengths: tuple[int, ...]) -> dict[str, Any]:
    held = Counter(device.tier for device in view.devices())
    return {
        name: {
            "parameters": lengths[k],
            "devices": held[k],
            "accuracy": metrics.get(name),
        }
        for k, name in enumerate(names)
    }


def _devices(view: View, names: list[str], present: set[str]) -> list[dict[str, Any]]:
    counted = view.restore().rounds_counted
    return [
        {
            "device": one.device,
            "present": one.device in present,
            "tier": None if one.tier is None else names[one.tier],
            "rounds": counted.get(one.device, 0),
            "examples": one.examples,
            "why": one.reason,
        }
        for one in view.devices()
    ]


def _rounds(view: View, last: int) -> list[dict[str, Any]]:
    by_round = {one.added.round: one.added for one in view.versions()}
    return [
        {
            "round": one.opened.round,
            "opened": one.opened_at,
            "invited": len(one.opened.cohort),
            "counted": one.counted,
            "outcome": "open" if one.closed is None else one.closed.outcome,
            "reason": "" if one.closed is None else one.closed.reason,
            "accuracy": tier_metrics(by_round[one.opened.round].metrics) if one.opened.round in by_round else {},
        }
        for one in view.rounds(last)
    ]


def _participation(view: View) -> float | None:
    """The share of invited updates that were counted, over all rounds that have ended."""
    ended = [one for one in view.rounds(last=1_000_000) if one.closed is not None]
    invited = sum(len(one.opened.cohort) for one in ended)
    return sum(one.counted for one in ended) / invited if invited else None


def show(facts: dict[str, Any]) -> None:
    """The snapshot as tables."""
    here = sum(device["present"] for device in facts["devices"])
    now = f"running, {facts['state']}" if facts["running"] else "not running"
    click.echo(f"aggregator: {now}; head: version {facts['head']['version']} ({facts['head']['origin']})")
    share = facts["participation"]
    click.echo(
        f"devices: {here} of {len(facts['devices'])} here; participation {'-' if share is None else f'{share:.1%}'}"
    )
    print_table(
        "\ntiers",
        ["tier", "parameters", "devices", "accuracy"],
        [[name, tier["parameters"], tier["devices"], tier["accuracy"]] for name, tier in facts["tiers"].items()],
    )
    print_table(
        "\ndevices",
        ["device", "here", "tier", "rounds", "examples", "why this tier"],
        [
            [
                one["device"],
                "yes" if one["present"] else "no",
                one["tier"],
                one["rounds"],
                one["examples"],
                _short(one["why"]),
            ]
            for one in facts["devices"]
        ],
    )
    names = list(facts["tiers"])
    print_table(
        "\nrounds",
        ["round", "opened", "counted", "outcome", *names],
        [
            [
                one["round"],
                one["opened"],
                f"{one['counted']} of {one['invited']}",
                one["outcome"],
                *(one["accuracy"].get(name) for name in names),
            ]
            for one in facts["rounds"]
        ],
    )
    if facts["bytes"]:
        moved = ", ".join(f"{name} {value:,}" for name, value in facts["bytes"].items())
        click.echo(f"\nbytes: {moved}")


def _short(text: str) -> str:
    """Enough of a reason for a table; `--json` has all of it."""
    return text if len(text) <= WHY_LETTERS else text[: WHY_LETTERS - 1] + "…"


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"
