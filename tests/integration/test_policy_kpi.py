"""Key figures of a running federation: judged as rounds end, in the ledger when they miss, shown by commands."""

import json
from pathlib import Path

import pytest

from mhfl_mq.testing.plant import Plant

pytestmark = [pytest.mark.broker]

LIGHT = Path(__file__).with_name("light.yaml").read_text()
KPI = """\
  kpi:
    - {metric: bytes_per_device_round, target: "<= 1kB"}
    - {metric: participation_rate, target: ">= 0.5", window: 1h}
    - {metric: time_to_accuracy, of: 0.5, target: "<= 1h"}
"""


def test_a_figure_that_misses_its_target_is_in_the_ledger_and_in_the_commands(plant: Plant) -> None:
    """An update of the small tier has 1,200 bytes."""
    policy = plant.folder / "pilot.yaml"
    policy.write_text(LIGHT + KPI)
    assert plant.mhfl("policy", "check", policy).code == 0
    plant.aggregator(policy=policy)
    plant.device("d1", 0)
    missed = plant.await_entry("kpi.miss", metric="bytes_per_device_round")
    assert missed == {"metric": "bytes_per_device_round", "target": "<= 1 kB", "actual": "1.2 kB"}
    assert "bytes_per_device_round is 1.2 kB, the target is <= 1 kB" in plant.processes.log("aggregator")
    shown = plant.mhfl("kpi", "--policy", policy, "--state", plant.state, "--json")
    assert shown.code == 0, shown
    found = {one["metric"]: one for one in json.loads(shown.out)}
    assert found["bytes_per_device_round"]["met"] is False
    assert found["bytes_per_device_round"]["actual"] == 1200.0
    assert found["participation_rate"]["met"] is True
    assert found["time_to_accuracy"]["met"] is True
    plant.processes.until(
        lambda: "MISSED: bytes_per_device_round" in plant.mhfl("status", "--state", plant.state).out, "it in the status"
    )
    plant.processes.stop()
    table = plant.mhfl("kpi", "--policy", policy, "--state", plant.state).out
    assert "2 of 3 met" in table
    plant.verify()


def test_a_policy_without_figures_and_a_folder_without_a_policy_are_told(plant: Plant) -> None:
    plant.aggregator("--rounds", 1)
    plant.device("d1", 0)
    assert plant.processes.ended("aggregator") == 0
    plant.processes.stop()
    done = plant.mhfl("kpi", "--policy", "default", "--state", plant.state)
    assert (done.code, "names no key figures" in done.err) == (3, True)
    done = plant.mhfl("kpi", "--state", plant.state)
    assert (done.code, "no policy was applied here" in done.err) == (3, True)
