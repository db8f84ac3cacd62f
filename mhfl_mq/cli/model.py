"""`mhfl model`: list, show, roll back and export the versions of the model."""

import getpass
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from mhfl_mq.cli.options import Subcommands, json_option, state_option
from mhfl_mq.cli.output import print_json, print_table, say
from mhfl_mq.errors import MhflError, StoreError, StoreLocked
from mhfl_mq.protocol.records import VersionAdded
from mhfl_mq.run.clock import SystemClock
from mhfl_mq.run.rules import tier_metrics
from mhfl_mq.segments import Layout
from mhfl_mq.store.models import Models
from mhfl_mq.store.requests import ask_rollback
from mhfl_mq.store.saved import VersionSaved
from mhfl_mq.store.state import Store
from mhfl_mq.store.versions import export, find_rollback, plan_rollback
from mhfl_mq.store.view import MODELS, open_view

__all__ = ["command", "pause", "who"]

SHORT: Final = 12  # characters of a digest that people compare
LOOK_EVERY_S: Final = 0.2
WAIT_S: Final = 60.0
"""How long a rollback waits for a running aggregator: it looks once a second, and a merge may be under way."""


@click.group(cls=Subcommands)
def command() -> None:
    """List, show, roll back and export the versions of the model."""


@command.command("list")
@state_option
@json_option
def list_(state: Path, as_json: bool) -> None:
    """List all versions, oldest first; the last one is the head."""
    with open_view(state) as view:
        versions = view.versions()
    if as_json:
        print_json([_facts(one) for one in versions])
        return
    tiers = _tier_names(state, versions)
    print_table(
        "",
        ["version", "from", "origin", "round", "model", "added (UTC)", *tiers, "reason"],
        [_row(one, tiers) for one in versions],
    )


def _row(one: VersionSaved, tiers: list[str]) -> list[str | int | float | None]:
    added, accuracy = one.added, tier_metrics(one.added.metrics)
    shown = [added.version, added.parent, added.origin, added.round, added.model[:SHORT], one.at[:19].replace("T", " ")]
    return [*shown, *(accuracy.get(tier) for tier in tiers), added.reason or None]


def _tier_names(state: Path, versions: Sequence[VersionSaved]) -> list[str]:
    """The tiers of the head, smallest first; those of all metrics when its file is not to be had."""
    if versions:
        with suppress(MhflError):
            layout = Layout.from_document(Models(state / MODELS).open(versions[-1].added.model).layout)
            return [tier.name for tier in layout.tiers]
    return sorted({name for one in versions for name in tier_metrics(one.added.metrics)})


def _facts(one: VersionSaved) -> dict[str, Any]:
    """The stable keys of a version."""
    added = one.added
    return {
        "version": added.version,
        "parent": added.parent,
        "origin": added.origin,
        "round": added.round,
        "model": added.model,
        "layout": added.layout,
        "at": one.at,
        "metrics": dict(added.metrics),
        "reason": added.reason,
    }


@command.command()
@click.argument("version", type=click.IntRange(0))
@state_option
@json_option
def show(version: int, state: Path, as_json: bool) -> None:
    """Show one version: where it came from, its tiers, and how good it was."""
    with open_view(state) as view:
        view.version(version)  # raises, naming the versions that there are
        (one,) = (one for one in view.versions() if one.added.version == version)
    layout = Layout.from_document(Models(state / MODELS).open(one.added.model).layout)
    tiers = [
        {"name": tier.name, "width": tier.width, "depth": tier.depth, "parameters": length}
        for tier, length in zip(layout.tiers, layout.lengths, strict=True)
    ]
    if as_json:
        print_json({**_facts(one), "tiers": tiers})
        return
    for name, value in _facts(one).items():
        if name != "metrics":
            click.echo(f"{name:<8} {'-' if value in (None, '') else value}")
    click.echo()
    accuracy = tier_metrics(one.added.metrics)
    print_table(
        "",
        ["tier", "width", "blocks", "parameters", "metric"],
        [
            [tier.name, tier.width, str(tier.depth) if tier.depth else "all", length, accuracy.get(tier.name)]
            for tier, length in zip(layout.tiers, layout.lengths, strict=True)
        ],
    )


@command.command()
@click.argument("version", type=click.IntRange(0))
@click.option("--reason", required=True, help="Why, for those who read the ledger later.")
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=WAIT_S,
    show_default=True,
    help="Seconds to wait for a running aggregator.",
)
@state_option
@json_option
def rollback(version: int, reason: str, wait: float, state: Path, as_json: bool) -> None:
    """Make the weights of VERSION the head again.

    That is a new version, with a higher number, that points at the old weights: devices follow it as any other. A
    running aggregator is asked to do it, and does so within a second or when its merge is done.
    """
    with open_view(state) as view:
        plan_rollback(view, version, reason, who())  # says at once what cannot be done
    try:
        added = _roll_back_here(state, version, reason)
    except StoreLocked:
        added = _ask_aggregator(state, version, reason, wait)
    if as_json:
        print_json({"version": added.version, "to": version, "model": added.model, "reason": added.reason})
    else:
        click.echo(f"version {added.version} has the weights of version {version}; devices follow it")


def _roll_back_here(state: Path, version: int, reason: str) -> VersionAdded:
    """No aggregator runs: do it ourselves."""
    with Store(state, SystemClock().now) as store:
        added, entry = plan_rollback(store.view, version, reason, who())
        store.apply([added], [entry])
    return added


def _ask_aggregator(state: Path, version: int, reason: str, wait: float) -> VersionAdded:
    """An aggregator holds the folder: leave a request and wait until it is taken up."""
    with open_view(state) as view:
        before = view.versions()[-1].added.version
        request = ask_rollback(state, version, reason, who(), before)
        say("asked the aggregator that is running")
        deadline = time.monotonic() + wait
        while request.exists():
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"the aggregator has not taken up the rollback within {wait:g} s",
                    where=str(request),
                    remedy="it will when it comes to it; delete this file to take the request back",
                )
            pause(LOOK_EVERY_S)
        done = find_rollback(view, version, reason, before)
    if done is None:
        raise StoreError(
            "the aggregator did not roll back",
            where=str(state),
            remedy="see its log; `mhfl model list` shows what is the head now",
        )
    return done


def pause(seconds: float) -> None:
    """Wait a little for another process."""
    time.sleep(seconds)


def who() -> str:
    """The user's name for the ledger; a process without one (some containers) is nobody."""
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "unknown"


@command.command("export")
@click.argument("version", type=click.IntRange(0))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tier", required=True, help="Which tier's model.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@state_option
@json_option
def export_(version: int, file: Path, tier: str, force: bool, state: Path, as_json: bool) -> None:
    """Write one tier of a version to FILE as safetensors: named float32 tensors that other tools open."""
    if file.exists() and not force:
        raise click.UsageError(f"{file} is there already; name another file, or use --force")
    with open_view(state) as view:
        added = view.version(version)
    digest = export(Models(state / MODELS).open(added.model), tier, file)
    if as_json:
        print_json({"file": str(file), "sha256": digest, "version": version, "tier": tier, "model": added.model})
    else:
        click.echo(f"{file}: tier {tier} of version {version}, SHA-256 {digest}")
