"""`mhfl aggregator`: runs the rounds of one federation."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import click

from mhfl_mq.cli.options import broker_option, federation_options, policy_file, state_option
from mhfl_mq.cli.output import say
from mhfl_mq.cli.signals import stop_in_good_order

__all__ = ["command"]


@click.command("aggregator")
@broker_option
@federation_options
@click.option(
    "--policy", type=click.Path(path_type=Path), help="Policy file, or the name of a shipped one.  [default: default]"
)
@state_option
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help="Rounds of the federation in all, those of earlier lives of this folder included (wins over the policy).",
)
@click.option(
    "--wait-for", type=click.IntRange(min=1), metavar="N", help="Open the first round when N devices are here."
)
@click.option(
    "--signers", type=click.Path(path_type=Path), help="Who may sign policies: an allowed_signers file, as SSH has it."
)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Folder of the task's data.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Draws first weights and batches.",
)
def command(
    broker: str,
    federation: str,
    root: str,
    task: str,
    policy: Path | None,
    state: Path,
    rounds: int | None,
    wait_for: int | None,
    signers: Path | None,
    data: Path | None,
    seed: int,
) -> None:
    """Run the rounds of one federation until stopped (Ctrl-C; twice to force).

    Everything durable lies in the state folder: kill this process at any moment and start it again with the same
    folder, and it goes on where it was. Without --policy it goes on with the policy that was applied last
    (`mhfl policy apply`).
    """
    from mhfl_mq.cli.policies import read_installed_policy, read_installed_text, required_at_start
    from mhfl_mq.cli.signing import SUFFIX, read_bytes
    from mhfl_mq.run.applying import required_signers
    from mhfl_mq.run.clock import SystemClock, seeded_luck
    from mhfl_mq.run.launch import AggregatorSetup, run_aggregator
    from mhfl_mq.run.rules import choice_of
    from mhfl_mq.run.training import TaskFoundation
    from mhfl_mq.store.policies import applied_policy
    from mhfl_mq.transport.backoff import Backoff
    from mhfl_mq.transport.mqtt import MqttTransport

    file = policy_file(policy) if policy is not None else applied_policy(state) or policy_file(None)
    rules = read_installed_policy(file)
    required = required_at_start(rules, file, applied_policy(state))
    signed = file.with_name(file.name + SUFFIX)
    signatures = read_bytes(signed).decode("ascii", "replace") if signed.exists() else ""
    required_signers(read_bytes(file), signatures, required, signers, SystemClock().now(), str(file))
    choice = choice_of(rules)
    if choice is not None:
        say(f"algorithm auto: {choice.algorithm}, because {choice.why}")
    luck = seeded_luck()

    async def run() -> str:
        return await run_aggregator(
            AggregatorSetup(state, federation, task, root, rounds, seed=seed, wait_for=wait_for or 0, signers=signers),
            rules,
            MqttTransport(broker, backoff=Backoff(luck.random)),
            TaskFoundation(task, data=data, seed=seed),
            clock=SystemClock(),
            luck=luck,
            started=lambda host: stop_in_good_order(stack, host.stop),
            read_policy=read_installed_text,
        )

    with ExitStack() as stack:
        click.echo(f"aggregator ended: {asyncio.run(run())}")
