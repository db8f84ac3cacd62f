"""`mhfl demo`: the whole system on one machine, on real data, with processes killed on the way."""

from pathlib import Path

import click

from mhfl_mq.cli.demo.command import run_demo

__all__ = ["command"]


@click.command("demo")
@click.option("--devices", type=click.IntRange(3, 64), default=6, show_default=True, help="How many devices.")
@click.option("--rounds", type=click.IntRange(min=1), help="How many rounds; without it, until training flattens out.")
@click.option("--broker", help="URL of a broker to use, instead of starting one.")
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of other data.")
@click.option("--policy", type=click.Path(path_type=Path), help="Policy file, or the name of a shipped one.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the first weights and the batches.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Where logs, state and plot go.  [demo-run]"
)
@click.option("--kills/--no-kills", default=True, show_default=True, help="Kill processes on the way.")
def command(
    devices: int,
    rounds: int | None,
    broker: str | None,
    data: Path | None,
    policy: Path | None,
    seed: int,
    json_file: Path | None,
    folder: Path | None,
    kills: bool,
) -> None:
    """Train one model on devices of three strengths over a real MQTT broker, and compare it with both baselines.

    Starts a broker, an aggregator and the devices as separate processes, on a real wind farm's data; kills some of
    them with kill -9 on the way.
    """
    run_demo(
        devices=devices,
        rounds=rounds,
        broker=broker,
        data=data,
        policy=policy,
        seed=seed,
        json_file=json_file,
        folder=folder or Path("demo-run"),
        kills=kills,
    )
