"""What the width family's tiers cost, and their first versions, as the training child is asked for them."""

from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.families import make_algorithm
from mhfl_mq.train.jobs import Jobs
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.probe import probe_tier
from mhfl_mq.train.reports import Subject
from mhfl_mq.train.steps import method_of
from tests.train.steps.width_family import SAMPLE, TIERS, Federation, data, task_of

CASES = {
    "heterofl": {"masked": 1},
    "fedrolex": {},
    "slimmable": {},
    "fjord": {"distil": 1},
    "fiarse": {},
}


@pytest.mark.parametrize("name", CASES)
def test_every_tier_is_probed_as_it_is_trained(name: str) -> None:
    here = Federation(name, CASES[name])
    clock = iter(range(10_000))
    costs = [
        probe_tier(
            method_of(name),
            here.models,
            tier,
            data(1),
            TrainOptions(batch=8),
            numbers=here.algorithm.numbers,
            clock=lambda: float(next(clock)),
        )
        for tier in range(len(TIERS))
    ]
    assert all(cost.step_s == 1.0 and cost.peak_bytes > SAMPLE.nbytes for cost in costs)
    assert name == "fiarse" or costs[0].peak_bytes < costs[2].peak_bytes  # it saves no memory


@pytest.mark.parametrize("name", CASES)
def test_a_first_version_of_a_seed_is_what_the_algorithm_begins_with(name: str, tmp_path: Path) -> None:
    options = {key: float(value) for key, value in make_algorithm(name, CASES[name]).numbers.items()}
    subject = Subject.of(TIERS, name, options).document()
    Jobs(task_of(), None).run("describe", {"subject": subject, "out": str(tmp_path / "first"), "seed": 1})
    np.testing.assert_array_equal(np.fromfile(tmp_path / "first", "<f4"), Federation(name, CASES[name]).first())
