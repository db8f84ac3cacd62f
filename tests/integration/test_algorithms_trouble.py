"""What befalls single devices of a learning federation: dead sensors, another public set, a restart between rounds."""

import asyncio
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mhfl_mq.run.training import TaskTrainer
from mhfl_mq.store.view import open_view, verify_folder
from mhfl_mq.testing.plant import Plant
from mhfl_mq.train.inprocess import LocalWorker
from mhfl_mq.train.task import Examples
from mhfl_mq.wire.messages import Capability, Survey
from tests.integration.learning import BROKEN, TASK, SmallTrainer, policy_text, run_federation, trainers_of

pytestmark = [pytest.mark.broker]

Arrays = dict[str, npt.NDArray[np.float32]]


def assert_counted(plant: Plant, rounds: int, *devices: str) -> None:
    """Every round was committed, of exactly these devices' updates, and the ledger is whole."""
    with open_view(plant.state) as view:
        made = [one.closed.outcome for one in view.rounds() if one.closed is not None]
        assert made == ["committed"] * rounds
        for number in range(1, rounds + 1):
            assert sorted(one.device for one in view.updates(number)) == sorted(devices)
    verify_folder(plant.state)


@pytest.mark.parametrize("algorithm", ["heterofl", "fedproto"])
async def test_a_device_whose_loss_is_no_number_says_so_and_the_rounds_go_on(
    algorithm: str, plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    worker = LocalWorker(TASK, None)
    devices = trainers_of(worker, one=TaskTrainer, two=SmallTrainer, broken=TaskTrainer)
    assert BROKEN in devices
    await run_federation(plant, policy_text(algorithm, quorum=2, rounds=2), devices, worker, wait_for=3)
    assert_counted(plant, 2, "one", "two")
    declined = plant.entries("update.decline")
    assert [(one["round"], one["device"], one["code"]) for one in declined] == [
        (1, BROKEN, "train"),
        (2, BROKEN, "train"),  # it is asked again: data may mend
    ]
    why = "the loss is nan at step 1 of 4"
    assert all(why in one["reason"] for one in declined), declined
    assert why in caplog.text  # the device's own log tells it too
    assert not plant.entries("update.refuse")


async def test_a_device_with_another_public_set_hears_of_both_and_takes_no_part(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    tried = asyncio.Event()

    class Stranger(TaskTrainer):
        async def probe(self, survey: Survey, session: int) -> Capability:
            try:
                return await super().probe(survey, session)
            finally:
                tried.set()

    class AfterIt(SmallTrainer):
        """The rounds must not be over before the stranger was asked."""

        async def probe(self, survey: Survey, session: int) -> Capability:
            await tried.wait()
            return await super().probe(survey, session)

    public = Examples(torch.zeros(40, 4), torch.zeros(40, dtype=torch.int64))
    elsewhere = LocalWorker(replace(TASK, public_data=lambda _folder: public), None)
    worker = LocalWorker(TASK, None)
    devices = {**trainers_of(worker, one=AfterIt, two=TaskTrainer), **trainers_of(elsewhere, stranger=Stranger)}
    await run_federation(plant, policy_text("dsfl", quorum=2, rounds=2), devices, worker, wait_for=2)
    assert_counted(plant, 2, "one", "two")
    assert "this device cannot measure the task" in caplog.text
    assert "the public examples here have the SHA-256" in caplog.text
    assert "give this device the federation's public set" in caplog.text
    with open_view(plant.state) as view:
        assert {one.device for one in view.devices()} == {"one", "two"}
    for opened in plant.entries("round.open"):
        assert sorted(device for device, _ in opened["cohort"]) == ["one", "two"]


def kept_of(plant: Plant, device: str, number: int) -> Arrays:
    """What a device kept of a round."""
    with np.load(plant.folder / device / "kept" / f"kept-{number}.npz", allow_pickle=False) as opened:
        return {name: opened[name] for name in opened.files if not name.startswith("@")}


def furthest(one: Arrays, other: Arrays) -> float:
    """The largest difference of two heads."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


async def run_fedper(plant: Plant, policy: str) -> None:
    """All of it anew, on the folders that there are: nothing is remembered but what they hold."""
    worker = LocalWorker(TASK, None)
    devices = trainers_of(worker, one=TaskTrainer, two=TaskTrainer, three=SmallTrainer)
    await run_federation(plant, policy, devices, worker, wait_for=len(devices))


async def test_what_never_leaves_a_device_goes_on_from_the_round_before_its_restart(plant: Plant) -> None:
    devices = ("one", "two", "three")
    await run_fedper(plant, policy_text("fedper", quorum=3, rounds=2))
    before = {name: [kept_of(plant, name, number) for number in (1, 2)] for name in devices}
    # One step so small that a head shows where it began.
    await run_fedper(plant, policy_text("fedper", quorum=3, rounds=3, steps=1, rate=1e-6))
    assert_counted(plant, 3, *devices)
    for name, (first, second) in before.items():
        third = kept_of(plant, name, 3)
        moved = furthest(first, second)
        assert moved > 1e-3, name
        assert 0.0 < furthest(second, third) < moved / 100, name
    assert furthest(before["one"][1], before["two"][1]) > 1e-3  # of the same tier, and each has its own
