"""`mhfl device`: takes part in a federation with this machine's data."""

import asyncio
import re
from contextlib import ExitStack
from pathlib import Path

import click

from mhfl_mq.cli.options import broker_option, device_argument, federation_options
from mhfl_mq.cli.signals import stop_in_good_order
from mhfl_mq.errors import ConfigError
from mhfl_mq.wire.bounds import MAX_TEXTS

__all__ = ["command"]


@click.command("device")
@device_argument
@broker_option
@federation_options
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("mhfl-device"),
    show_default=True,
    help="The device's own folder; made when missing.",
)
@click.option("--shard", default="", help="Which part of the data is this device's, in the task's own words.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Folder of the device's data.")
@click.option("--nice", type=click.IntRange(0, 19), default=10, show_default=True, help="Niceness of the training.")
@click.option(
    "--slowdown", type=click.FloatRange(min=1.0), default=1.0, help="Play a machine that is so many times slower."
)
@click.option(
    "--memory-mb", type=click.FloatRange(min=0.0), default=0.0, help="Play a machine with so little memory; 0: not."
)
@click.option(
    "--site",
    type=click.Path(path_type=Path),
    help="This device's own rules (device.toml): it keeps to them whatever the aggregator asks.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="WORD",
    help="A word that this device says of itself, for the policy's rules; may be given again.",
)
@click.option(
    "--idle",
    type=click.FloatRange(min=0.0),
    default=60.0,
    show_default=True,
    help="Seconds until idle training is unloaded.",
)
def command(
    device: str,
    broker: str,
    federation: str,
    root: str,
    task: str,
    state: Path,
    shard: str,
    data: Path | None,
    nice: int,
    slowdown: float,
    memory_mb: float,
    site: Path | None,
    labels: tuple[str, ...],
    idle: float,
) -> None:
    """Take part in a federation as DEVICE, until stopped (Ctrl-C; twice to force).

    The data stay here: only the difference of the model's weights is sent. Kill this process at any moment and start
    it again with the same folder: a finished update is sent again, not trained again.
    """
    from mhfl_mq.run.clock import SystemClock, seeded_luck
    from mhfl_mq.run.launch import DeviceSetup, run_device
    from mhfl_mq.run.site import SiteFile, read_site
    from mhfl_mq.run.training import TaskTrainer
    from mhfl_mq.train.options import Handicap
    from mhfl_mq.transport.backoff import Backoff
    from mhfl_mq.transport.mqtt import MqttTransport

    rules = SiteFile() if site is None else read_site(site)
    luck = seeded_luck()
    handicap = Handicap(slowdown, round(memory_mb * 1e6))

    def trainer(scratch: Path) -> TaskTrainer:
        return TaskTrainer(task, scratch, shard=shard, data=data, handicap=handicap, nice=nice, idle_s=idle)

    async def run() -> str:
        return await run_device(
            DeviceSetup(state, device, federation, task, root, labels=_checked(labels), site=rules),
            MqttTransport(broker, backoff=Backoff(luck.random)),
            trainer,
            clock=SystemClock(),
            luck=luck,
            started=lambda host: stop_in_good_order(stack, host.stop),
        )

    with ExitStack() as stack:
        click.echo(f"device {device} ended: {asyncio.run(run())}")


def _checked(labels: tuple[str, ...]) -> tuple[str, ...]:
    for one in labels:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", one):
            raise ConfigError(f"{one!r} is no label", where="--label", remedy="1 to 64 of A-Z a-z 0-9 _ -")
    if len(labels) > MAX_TEXTS:
        raise ConfigError(f"{len(labels)} labels", where="--label", remedy=f"give at most {MAX_TEXTS}")
    return labels
