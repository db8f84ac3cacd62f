"""`mhfl broker`: a real broker on this machine, for trying things out."""

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import click

from mhfl_mq.cli.options import json_option
from mhfl_mq.cli.output import print_json, say
from mhfl_mq.cli.signals import stop_in_good_order
from mhfl_mq.errors import TransportError
from mhfl_mq.transport.embedded import EmbeddedBroker

__all__ = ["command"]

LOOK_EVERY_S = 1.0
"""How often we look whether the broker still runs."""


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("mhfl-broker"),
    show_default=True,
    help="Where the broker keeps its state and its passwords.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Of 127.0.0.1; left out: a free one.")
@click.option("--prefer", type=click.Choice(["mosquitto", "nats"]), help="Left out: mosquitto where it is, else nats.")
@json_option
def command(folder: Path, port: int | None, prefer: Literal["mosquitto", "nats"] | None, as_json: bool) -> None:
    """Start a real MQTT broker on 127.0.0.1 and keep it running until Ctrl-C.

    It is mosquitto where that is installed, else nats-server from the extra `broker`. The addresses that are printed
    hold passwords; they stand in the folder too, and stay the same there.
    """
    with EmbeddedBroker.start(folder, prefer=prefer, port=port) as broker, ExitStack() as stack:
        asyncio.run(_run(broker, stack, as_json))


async def _run(broker: EmbeddedBroker, stack: ExitStack, as_json: bool) -> None:
    stopped = asyncio.Event()
    stop_in_good_order(stack, stopped.set)  # first: who reads the address may stop us at once
    _show(_facts(broker), as_json)
    await _watch(broker, stopped)


async def _watch(broker: EmbeddedBroker, stopped: asyncio.Event) -> None:
    """Return when we are asked to stop; raise when the broker has ended by itself."""
    while not stopped.is_set():
        if not broker.alive:
            raise TransportError(f"{broker.name} has ended", where=str(broker.log_file), remedy="see that log")
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), LOOK_EVERY_S)


def _facts(broker: EmbeddedBroker) -> dict[str, Any]:
    return {
        "name": broker.name,
        "version": broker.version,
        "pid": broker.pid,
        "port": broker.port,
        "folder": str(broker.folder),
        "aggregator": broker.url_for("aggregator"),
        "device": broker.url_for("device"),
    }


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    say(f"{facts['name']} {facts['version']}, state in {facts['folder']}; Ctrl-C stops it")
    click.echo(f"MHFL_BROKER='{facts['aggregator']}'   # for the aggregator")
    click.echo(f"MHFL_BROKER='{facts['device']}'   # for devices")
