"""A device behind a slow line sends int8: the model is what it would have been, whenever the device is killed."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.policy import Communication, Policy
from mhfl_mq.protocol.effects import SavedDevice
from mhfl_mq.protocol.records import UpdateCounted
from mhfl_mq.run.aggregator import AggregatorHost
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, run_aggregator, run_device
from mhfl_mq.run.ports import TrainResult
from mhfl_mq.segments import Vector
from mhfl_mq.store.device import DeviceStore
from mhfl_mq.store.models import Models
from mhfl_mq.store.residual import ResidualFile
from mhfl_mq.store.view import LEDGER, MODELS, open_view
from mhfl_mq.testing.light import EXAMPLES, FEDERATION, TASK, LightFoundation, LightTrainer, light_policy
from mhfl_mq.testing.lossy import LossyBroker, SlowLine
from mhfl_mq.testing.sim_time import SimClock
from mhfl_mq.transport.memory import MemoryTransport
from mhfl_mq.wire.messages import Offer, Survey

LENGTHS = (50_000, 200_000)  # 0.8 MB: more than one chunk, or a link shows nothing
RAW = 4 * LENGTHS[-1]
SLOW = 100_000.0  # bytes per second: 8 s for a raw update, 2 s for one of int8
ADAPTIVE = Communication(adaptive=True, transfer_s=2.5)
PLAIN = Communication()
ROUNDS = 6


def step(device: str, number: int, length: int) -> Vector:
    """What a device learns in a round: it follows from its name and the round."""
    seed = [number, *device.encode()]
    return np.random.default_rng(seed).standard_normal(length, np.float32)


class Steps(LightTrainer):
    """Trains to `step`."""

    async def train(
        self, survey: Survey, offer: Offer, segments: Sequence[Path], began: Callable[[], None]
    ) -> TrainResult:
        out = self._scratch / f"{self._device}-{offer.round}-{next(self._numbers)}.f32"
        step(self._device, offer.round, survey.tiers[offer.tier].length).tofile(out)
        return TrainResult(out, float(EXAMPLES), {"loss": 0.5})


class Killed(Exception):
    """The device's process ended here."""


def policy_of(communication: Communication) -> Policy:
    policy = light_policy(LENGTHS, quorum=2, interval_s=20.0, deadline_s=200.0)
    return replace(policy, communication=communication)


async def federation(folder: Path, communication: Communication, rounds: int = ROUNDS) -> tuple[Vector, int]:
    """Run ada, and bob behind a slow line; who is killed comes back at once. The model, and how often it was."""
    broker, clock = LossyBroker(SlowLine({"bob": SLOW})), SimClock(asyncio.get_running_loop())
    hosts: dict[str, AggregatorHost | DeviceHost] = {}
    kills = 0

    async def device(name: str) -> None:
        nonlocal kills
        while True:
            try:
                await run_device(
                    DeviceSetup(folder / name, name, FEDERATION, TASK),
                    MemoryTransport(broker),
                    lambda scratch: Steps(name, 1, scratch),
                    clock=clock,
                    luck=random.Random(name),
                    started=lambda host: hosts.update({name: host}),
                )
            except Killed:
                kills += 1
            else:
                return

    tasks = [asyncio.create_task(device(name)) for name in ("ada", "bob")]
    async with asyncio.timeout(3600):
        await run_aggregator(
            AggregatorSetup(folder / "state", FEDERATION, TASK, max_rounds=rounds),
            policy_of(communication),
            MemoryTransport(broker),
            LightFoundation(LENGTHS),
            clock=clock,
            luck=random.Random(1),
        )
        for host in hosts.values():
            host.stop()
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()
    with open_view(folder / "state") as view:
        assert [one.closed.outcome for one in view.rounds() if one.closed is not None] == ["committed"] * rounds
        model = Models(folder / "state" / MODELS).open(view.versions()[-1].added.model)
        return model.read(0, LENGTHS[-1]), kills


def counted(folder: Path, device: str) -> list[UpdateCounted]:
    """A device's updates, round by round."""
    with open_view(folder / "state") as view:
        found = [update for number in range(1, ROUNDS + 1) for update in view.updates(number)]
    return [update for update in found if update.device == device]


def owed(folder: Path, *devices: str) -> Vector:
    """What the last updates of these devices lost. What those before them lost, later ones made up for."""
    total = np.zeros(LENGTHS[-1], np.float32)
    for device in devices or ("ada", "bob"):
        kept = ResidualFile(folder / device).load(1, counted_layout(folder), ROUNDS)
        total += 0.0 if kept is None else kept
    return total


def counted_layout(folder: Path) -> str:
    with open_view(folder / "state") as view:
        return view.versions()[-1].added.layout


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Vector:
    """The model without any compacting."""
    expected = np.zeros(LENGTHS[-1])
    for number in range(1, ROUNDS + 1):
        expected += sum(step(name, number, LENGTHS[-1]).astype(np.float64) for name in ("ada", "bob")) / 2
    return expected.astype(np.float32)


def test_a_device_behind_a_slow_line_sends_int8_and_the_model_is_the_same(
    virtual: asyncio.Runner, tmp_path: Path, plain: Vector
) -> None:
    for name, communication in (("plain", PLAIN), ("adaptive", ADAPTIVE)):
        (tmp_path / name).mkdir()
        model, _ = virtual.run(federation(tmp_path / name, communication))
        if communication == PLAIN:
            assert np.allclose(model, plain, atol=1e-5)
            assert {one.size for one in counted(tmp_path / name, "bob")} == {RAW}
            continue
        assert np.abs(model - plain).max() <= 10 / 250 / 2  # half of a value's error: two devices, steps below 10
        assert np.allclose(model + owed(tmp_path / name) / 2, plain, atol=1e-5)
        ada, bob = (counted(tmp_path / name, device) for device in ("ada", "bob"))
        assert {one.size for one in ada} == {RAW}
        assert [one.metrics["error"] for one in ada] == [0.0] * ROUNDS
        assert (bob[0].size, bob[0].metrics["error"]) == (RAW, 0.0)  # its link was not measured yet
        for one in bob[2:]:
            assert one.size < 0.26 * RAW
            assert one.metrics["saved_bytes"] == RAW - one.size
            assert 0.001 < one.metrics["error"] < 0.02
            assert 0.1 < one.metrics["change"] < 2.0
        ledger = (tmp_path / name / "state" / LEDGER).read_text()
        assert '"uploads":{"bob":"int8; float16: 401 kB a round are 4' in ledger
        assert '"saved_bytes":' in ledger.replace(" ", "")


@pytest.mark.parametrize(
    "point",
    ["before it is kept", "after it is kept", "before it is saved", "after it is saved", "before the receipt", "after"],
)
def test_a_kill_anywhere_between_training_and_receipt_neither_loses_nor_doubles(
    virtual: asyncio.Runner, tmp_path: Path, plain: Vector, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()

    def here(where: str) -> None:
        seen[where] += 1
        if where == point and seen[where] in (3, 5):
            raise Killed

    keep, save = ResidualFile.save, DeviceStore.save

    def kept(file: ResidualFile, number: int, *rest: object) -> None:
        here("before it is kept")
        keep(file, number, *rest)  # type: ignore[arg-type]
        here("after it is kept")

    def saved(store: DeviceStore, state: SavedDevice) -> None:
        if store.folder.name != "bob":
            save(store, state)
            return
        word = {True: "it is saved", False: ""}[state.update is not None]
        ends = state.offer is None and state.counted > 0 and state.counted == state.last_round
        if word:
            here(f"before {word}")
        if ends:
            here("before the receipt")
        save(store, state)
        if word:
            here(f"after {word}")
        if ends:
            here("after")

    monkeypatch.setattr(ResidualFile, "save", kept)
    monkeypatch.setattr(DeviceStore, "save", saved)
    model, kills = virtual.run(federation(tmp_path, replace(ADAPTIVE, transfer_s=0.5)))  # only a tenth of each step
    assert kills == 2
    assert np.abs(owed(tmp_path, "bob")).max() > 1.0
    assert np.allclose(model + owed(tmp_path) / 2, plain, atol=1e-5)
    assert len(counted(tmp_path, "bob")) == ROUNDS
