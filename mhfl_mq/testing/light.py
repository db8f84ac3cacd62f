"""Light federations: real processes, broker, store and machines, with arithmetic in the place of training.

For benchmarks, for tests that kill processes, and for hundreds of devices in one process. No torch. A light device's
update is made of whole numbers that follow from its name and the round, so that every sum can be checked.

    python -m mhfl_mq.testing.light aggregator --broker URL --folder DIR --lengths 1000,4000 --rounds 10
    python -m mhfl_mq.testing.light devices --broker URL --folder DIR --count 30 --tiers 2
"""

import asyncio
import itertools
import signal
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from mhfl_mq.errors import MhflError
from mhfl_mq.policy import Algorithm, Budget, Limits, Participation, Policy, Quorum, Schedule, Tier
from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.effects import DeviceEffect
from mhfl_mq.protocol.events import DeviceEvent, Heard
from mhfl_mq.run.clock import SystemClock, seeded_luck
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, Parts, run_aggregator, run_device
from mhfl_mq.run.ports import Founded, TrainResult
from mhfl_mq.segments import Axis, Layout, Parameter, Span
from mhfl_mq.segments import Tier as LayoutTier
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.mqtt import MqttTransport
from mhfl_mq.wire.messages import Capability, Offer, ProbeResult, Receipt, Survey, Verdict

__all__ = [
    "EXAMPLES",
    "FEDERATION",
    "TASK",
    "LightFoundation",
    "LightTrainer",
    "light_layout",
    "light_policy",
    "light_update",
    "receipted",
]

TASK = "light"
FEDERATION = "light"
EXAMPLES = 100
"""What every light device says that it has."""
RECEIPTS = "receipts"
"""A file in a device's folder: the rounds of which the aggregator told it that its update is counted."""
STEP_S = 0.001
"""What a light device says that a step of the smallest tier takes; each tier doubles it."""


def light_layout(lengths: Sequence[int], names: Sequence[str] = ()) -> Layout:
    """A layout of one sliced vector: tier k is its first `lengths[k]` coordinates, and is called `tier<k>`."""
    called = names or [f"tier{k}" for k in range(len(lengths))]
    tiers = tuple(LayoutTier(name, width=length / lengths[-1]) for name, length in zip(called, lengths, strict=True))
    axis = Axis(lengths[-1], group="units")
    return Layout(tiers, {"units": tuple(lengths)}, (Parameter("vector", (axis,)),))


def light_policy(lengths: Sequence[int], *, quorum: int, deadline_s: float = 30.0, interval_s: float = 0.0) -> Policy:
    """A policy for light devices: a device of strength s carries the largest tier whose step takes at most s."""
    tiers = tuple(
        Tier(f"tier{k}", width=length / lengths[-1], budget=Budget(step_s=STEP_S * 2**k))
        for k, length in enumerate(lengths)
    )
    return Policy(
        name="light",
        tiers=tiers,
        algorithm=Algorithm("heterofl", "uniform", {"steps": 1, "batch": 1}),
        participation=Participation(quorum=Quorum(min=quorum), deadline_s=deadline_s),
        schedule=Schedule(interval_s=interval_s),
        limits=Limits(update_bytes=2**30, concurrent_uploads=4),
    )


def light_update(device: str, number: int, length: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The update of a device in a round: one whole number from 1 to 8 in every coordinate."""
    return np.full(length, 1 + zlib.crc32(f"{device} {number}".encode()) % 8, np.float32)


class LightFoundation:
    """A model of zeros, measured by its mean."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = tuple(lengths)

    async def found(self, policy: Policy, folder: Path | None) -> Founded:
        """The layout of the lengths, and zeros."""
        if folder is None:
            return Founded(self._layout(policy))
        out = folder / "first-weights.f32"
        with out.open("wb") as file:
            file.truncate(4 * self._lengths[-1])
        return Founded(self._layout(policy), flat=out)

    async def evaluate(self, policy: Policy, flat: Path) -> Mapping[str, float]:
        """The first coordinate of every tier's last segment, so that a large model costs nothing here."""
        layout = self._layout(policy)
        found = {}
        with flat.open("rb") as file:
            for tier, held in zip(layout.tiers, layout.holds, strict=True):
                file.seek(4 * layout.segment_bounds[held[-1]][0])
                found[f"first/{tier.name}"] = float(np.frombuffer(file.read(4), "<f4")[0])
        return found

    async def conclude(
        self, policy: Policy, *, head: Span, merged: Path, updates: Sequence[tuple[Path, int, float]], round_number: int
    ) -> None:
        """The mean is the new version."""

    def _layout(self, policy: Policy) -> Layout:
        return light_layout(self._lengths, [tier.name for tier in policy.tiers])

    async def close(self) -> None:
        """Nothing to end."""


class LightTrainer:
    """Arithmetic in the place of training. `strength` is the largest tier that the device can carry."""

    def __init__(
        self, device: str, strength: int, scratch: Path, train_s: float = 0.0, *, prepared: bool = False
    ) -> None:
        """With `prepared` every update is the same file of random numbers, made at the first: for benchmarks."""
        self._device = device
        self._prepared = prepared
        self._strength = strength
        self._scratch = scratch
        self._train_s = train_s
        self._numbers = itertools.count()

    async def check(self) -> None:
        """There is nothing to load."""

    async def probe(self, survey: Survey, session: int) -> Capability:
        """Says a step time that lets the policy of `light_policy` find the strength."""
        step_s = STEP_S / 2**self._strength
        probes = tuple(ProbeResult(tier.name, step_s * 4**k, 1) for k, tier in enumerate(survey.tiers))
        layout = light_layout([tier.length for tier in survey.tiers], [tier.name for tier in survey.tiers])
        return Capability(session, layout.digest, EXAMPLES, 0.0, probes)

    async def train(
        self, survey: Survey, offer: Offer, segments: Sequence[Path], began: Callable[[], None]
    ) -> TrainResult:
        """Write the update that follows from name and round."""
        began()
        if self._train_s:
            await asyncio.sleep(self._train_s)
        out = self._scratch / f"{self._device}-{offer.round}-{next(self._numbers)}.f32"
        length = survey.tiers[offer.tier].length
        if self._prepared:
            once = self._scratch / f"{self._device}-prepared-{length}.f32"
            if not once.exists():
                luck = np.random.default_rng(zlib.crc32(self._device.encode()))
                luck.standard_normal(length, np.float32).tofile(once)
            out.hardlink_to(once)
        else:
            light_update(self._device, offer.round, length).tofile(out)
        return TrainResult(out, float(EXAMPLES), {"seconds": self._train_s})

    async def close(self) -> None:
        """Nothing to end."""


class _Witness(DeviceMachine):
    """The real machine; it writes down what the aggregator promises before anything else becomes of it."""

    receipts: Path

    def handle(self, event: DeviceEvent) -> list[DeviceEffect]:
        match event:
            case Heard(_, Receipt(number, Verdict.COUNTED | Verdict.DUPLICATE)):
                with self.receipts.open("a") as file:  # closed, so with the operating system: it survives kill -9
                    file.write(f"{number}\n")
        return super().handle(event)


def receipted(folder: Path) -> list[int]:
    """The rounds of the receipts that a device of `--receipts` got, over all its lives; one may stand there twice."""
    path = folder / RECEIPTS
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def _transport(url: str) -> MqttTransport:
    return MqttTransport(url, backoff=Backoff(seeded_luck().random, first_s=0.2, cap_s=2.0))


def _stop_on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, stop)


@click.group()
def main() -> None:
    """Light federations, for benchmarks and tests."""


@main.command()
@click.option("--broker", required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--lengths", required=True, help="coordinates of each tier's prefix, e.g. 1000,4000")
@click.option("--rounds", type=int, default=None)
@click.option("--quorum", type=int, default=1)
@click.option("--deadline", type=float, default=30.0)
@click.option("--interval", type=float, default=0.0)
def aggregator(
    broker: str, folder: Path, lengths: str, rounds: int | None, quorum: int, deadline: float, interval: float
) -> None:
    """Run a light aggregator."""
    sizes = [int(one) for one in lengths.split(",")]
    policy = light_policy(sizes, quorum=quorum, deadline_s=deadline, interval_s=interval)
    setup = AggregatorSetup(folder, FEDERATION, TASK, max_rounds=rounds, keepalive_s=5)

    async def run() -> str:
        return await run_aggregator(
            setup,
            policy,
            _transport(broker),
            LightFoundation(sizes),
            clock=SystemClock(),
            luck=seeded_luck(),
            started=lambda host: _stop_on_signals(host.stop),
        )

    click.echo(asyncio.run(run()))


@main.command()
@click.option("--broker", required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--count", type=int, default=1)
@click.option("--first", type=int, default=0, help="number of the first device")
@click.option("--tiers", type=int, default=1)
@click.option("--train", "train_s", type=float, default=0.0, help="seconds that a training takes")
@click.option("--prepared", is_flag=True, help="every update is one prepared file: training is not what is measured")
@click.option("--receipts", is_flag=True, help="each device writes down which of its updates are said to be counted")
def devices(
    broker: str, folder: Path, count: int, first: int, tiers: int, train_s: float, prepared: bool, receipts: bool
) -> None:
    """Run light devices in one process, tiers in turn."""

    async def run() -> None:
        hosts: list[DeviceHost] = []

        async def one(number: int) -> None:
            name = f"light-{number:03}"

            def witness(*args: Any, **options: Any) -> DeviceMachine:
                machine = _Witness(*args, **options)
                machine.receipts = folder / name / RECEIPTS
                return machine

            await run_device(
                DeviceSetup(folder / name, name, FEDERATION, TASK, keepalive_s=5),
                _transport(broker),
                lambda scratch: LightTrainer(name, number % tiers, scratch, train_s, prepared=prepared),
                clock=SystemClock(),
                luck=seeded_luck(),
                started=hosts.append,
                parts=Parts(device=witness if receipts else DeviceMachine, facts=lambda _labels: None),
            )

        def stop() -> None:
            for host in hosts:
                host.stop()

        _stop_on_signals(stop)
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + count):
                group.create_task(one(number))

    asyncio.run(run())


if __name__ == "__main__":
    try:
        main()
    except MhflError as error:
        raise SystemExit(f"error: {error}") from None
