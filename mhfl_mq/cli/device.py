"""`mhfl device`: takes part in a federation with this machine's data."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import click

from mhfl_mq.cli.options import broker_option, device_argument, federation_options
from mhfl_mq.cli.signals import stop_in_good_order

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
    idle: float,
) -> None:
    """Take part in a federation as DEVICE, until stopped (Ctrl-C; twice to force).

    The data stay here: only the difference of the model's weights is sent. Kill this process at any moment and start
    it again with the same folder: a finished update is sent again, not trained again.
    """
    from mhfl_mq.run.clock import SystemClock, seeded_luck
    from mhfl_mq.run.launch import DeviceSetup, run_device
    from mhfl_mq.run.training import TaskTrainer
    from mhfl_mq.train.options import Handicap
    from mhfl_mq.transport.backoff import Backoff
    from mhfl_mq.transport.mqtt import MqttTransport

    luck = seeded_luck()
    handicap = Handicap(slowdown, round(memory_mb * 1e6))

    def trainer(scratch: Path) -> TaskTrainer:
        return TaskTrainer(task, scratch, shard=shard, data=data, handicap=handicap, nice=nice, idle_s=idle)

    async def run() -> str:
        return await run_device(
            DeviceSetup(state, device, federation, task, root),
            MqttTransport(broker, backoff=Backoff(luck.random)),
            trainer,
            clock=SystemClock(),
            luck=luck,
            started=lambda host: stop_in_good_order(stack, host.stop),
        )

    with ExitStack() as stack:
        click.echo(f"device {device} ended: {asyncio.run(run())}")
