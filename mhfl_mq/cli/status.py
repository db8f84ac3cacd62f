"""`mhfl status`: rounds, devices, tiers, bytes and accuracy of a federation, once or live."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mhfl_mq.cli.options import json_option, state_option
from mhfl_mq.cli.output import print_json, print_table
from mhfl_mq.errors import StoreError
from mhfl_mq.policy.quantities import show_bytes
from mhfl_mq.protocol.entries import COMPACTING
from mhfl_mq.protocol.states import FederationState
from mhfl_mq.run.clock import SystemClock
from mhfl_mq.run.rules import tier_metrics
from mhfl_mq.run.status import is_running, read_board
from mhfl_mq.segments import Layout
from mhfl_mq.store.models import Models
from mhfl_mq.store.view import MODELS, View, open_view

__all__ = ["command", "snapshot"]

LAST_ROUNDS = 10
WHY_LETTERS = 60
STOPPED = FederationState.STOPPED.value


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
    running = is_running(board, SystemClock().now())
    present = set(board.get("present") or []) if running else None
    with open_view(state) as view:
        head = view.restore().head
        if head is None:
            raise StoreError("there is no model yet", where=str(state), remedy="start the aggregator first")
        layout = Layout.from_document(Models(state / MODELS).open(head.model).layout)
        names = [tier.name for tier in layout.tiers]
        return {
            "running": running,
            "connected": running and board.get("connected", True),
            "state": board["state"] if running or board.get("state") == STOPPED else "unknown",
            "round": board.get("round") if running else None,
            "head": {"version": head.version, "model": head.model, "origin": head.origin},
            "algorithm": board.get("algorithm"),
            "kpi": board.get("kpi", []),
            "schedule": board.get("schedule") if running else None,
            "tiers": _tiers(view, names, tier_metrics(head.metrics), layout.lengths),
            "devices": _devices(view, names, present, board.get("out", {}) if running else {}),
            "rounds": _rounds(view, last),
            "participation": _participation(view),
            "bytes": board.get("bytes", {}),
            "kills": board.get("kills", 0) + (bool(board) and not running and board.get("state") != STOPPED),
            "seconds": board.get("seconds", {}),
        }


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


def _devices(view: View, names: list[str], present: set[str] | None, out: Mapping[str, str]) -> list[dict[str, Any]]:
    saved = view.restore()
    counted = saved.rounds_counted
    said = {one.device: _compacting(one.metrics) for one in saved.latest}
    return [
        {
            "device": one.device,
            "present": None if present is None else one.device in present,
            "tier": None if one.tier is None else names[one.tier],
            "rounds": counted.get(one.device, 0),
            "examples": one.examples,
            "compacting": said.get(one.device, {}),
            "why": one.reason,
            "out": out.get(one.device, ""),
        }
        for one in view.devices()
    ]


def _compacting(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a device says of its last counted update: its size over its model's, what it lost, bytes saved."""
    return {name: metrics[name] for name in COMPACTING if name in metrics}


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
    link = "" if facts["connected"] else ", NO CONNECTION TO THE BROKER"
    now = f"running, {facts['state']}{link}" if facts["running"] else _GONE[facts["state"]]
    click.echo(f"aggregator: {now}; head: version {facts['head']['version']} ({facts['head']['origin']})")
    if algorithm := facts["algorithm"]:
        click.echo(f"algorithm: {algorithm['name']}" + (f" ({algorithm['why']})" if algorithm["why"] else ""))
    if (schedule := facts["schedule"]) and not schedule["open"]:
        click.echo(f"no round now: {schedule['why']}")
    for one in facts["kpi"]:
        if one["met"] is False:
            click.echo(f"MISSED: {one['metric']} is {one['shown']}, the target is {one['target']}")
    share = facts["participation"]
    here = sum(device["present"] or 0 for device in facts["devices"])
    there = f"{here} of {len(facts['devices'])} here" if facts["running"] else f"{len(facts['devices'])} known"
    click.echo(f"devices: {there}; participation {'-' if share is None else f'{share:.1%}'}")
    names = list(facts["tiers"])
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
                _HERE[one["present"]],
                one["tier"],
                one["rounds"],
                one["examples"],
                _short(_deciding(one["why"], names, one["tier"])),
            ]
            for one in facts["devices"]
        ],
    )
    out = [one for one in facts["devices"] if one["out"]]
    if out:
        print_table("\nnot invited", ["device", "rule"], [[one["device"], one["out"]] for one in out])
    compacting = [one for one in facts["devices"] if one["compacting"]]
    if compacting:
        print_table(
            "\nlast updates",
            ["device", "change", "error", "saved"],
            [
                [one["device"], *(_part(one["compacting"].get(name)) for name in ("change", "error")), _saved(one)]
                for one in compacting
            ],
        )
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
        up, down, unicast = (show_bytes(facts["bytes"].get(way, 0)) for way in ("up", "down", "down_if_unicast"))
        spared = facts["bytes"].get("up_saved", 0)
        up += f" ({show_bytes(spared)} saved by compacting)" if spared else ""
        click.echo(f"\nbytes: up {up}, down {down}; {unicast} down if sent to each device{_missed(facts['kills'])}")


def _part(share: float | None) -> str | None:
    return None if share is None else f"{share:.3%}"


def _saved(device: Mapping[str, Any]) -> str | None:
    saved = device["compacting"].get("saved_bytes")
    return None if saved is None else show_bytes(max(0, round(saved)))


def _missed(kills: int) -> str:
    if not kills:
        return ""
    return f" (without the last second before {'a kill' if kills == 1 else f'each of {kills} kills'})"


def _deciding(why: str, names: list[str], tier: str | None) -> str:
    """The rule that keeps a device from a larger tier; when none does, the first of its own tier."""
    rules = why.split("; ")
    given = names.index(tier) if tier in names else -1
    at = {name: index for index, name in enumerate(names)}
    places = [at.get(rule.partition(".")[0], -1) for rule in rules]
    larger = [rule for rule, place in zip(rules, places, strict=True) if place > given]
    own = [rule for rule, place in zip(rules, places, strict=True) if place == given]
    return (larger or own or rules)[0]


def _short(text: str) -> str:
    """Enough of a reason for a table; `--json` has all of it."""
    return text if len(text) <= WHY_LETTERS else text[: WHY_LETTERS - 1] + "…"


_GONE = {STOPPED: "stopped", "unknown": "not running, and it was not stopped in good order"}
_HERE = {True: "yes", False: "no", None: None}
