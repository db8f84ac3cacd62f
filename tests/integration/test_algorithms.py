"""Every algorithm by its name in a policy file: two rounds over a real broker, of devices of different strength."""

import json
from pathlib import Path

import pytest

from mhfl_mq.families import algorithm_names
from mhfl_mq.run.training import TaskTrainer
from mhfl_mq.store.device import POINTER
from mhfl_mq.store.view import open_view
from mhfl_mq.testing.plant import Plant
from mhfl_mq.train.inprocess import LocalWorker
from tests.integration.learning import TASK, SmallTrainer, device_tiers, policy_text, run_federation, trainers_of

ROUNDS = 2


@pytest.mark.broker
@pytest.mark.parametrize("algorithm", algorithm_names())
async def test_it_runs_by_its_name_from_a_policy_file(algorithm: str, plant: Plant) -> None:
    worker = LocalWorker(TASK, None)
    devices = trainers_of(worker, one=TaskTrainer, two=TaskTrainer, three=SmallTrainer)
    text = policy_text(algorithm, quorum=len(devices), rounds=ROUNDS)
    ended = await run_federation(plant, text, devices, worker, wait_for=len(devices))
    assert "rounds" in ended
    tiers = device_tiers(algorithm)
    assert len(tiers) == (1 if algorithm == "fedavg" else 2)
    for name in devices:  # each knows which model its programs had better use, and has it
        pointer = json.loads((plant.folder / name / POINTER).read_text())
        assert pointer["use"] in tiers
        assert all(Path(file).is_file() for file in pointer["files"])
    largest = len(tiers) - 1
    with open_view(plant.state) as view:
        versions = [one.added for one in view.versions()]
        assert [one.round for one in versions] == [None, 1, 2]
        for number in (1, 2):
            counted = {one.device: one.tier for one in view.updates(number)}
            assert counted == {"one": largest, "two": largest, "three": 0}
    carried = {name.partition("/")[2] for name in versions[-1].metrics}
    assert carried >= set(tiers)
    assert all(0.0 <= value <= 1.0 for value in versions[-1].metrics.values())
