"""A public set must be the same on all sides: a device that has another one is refused, and the others go on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mhfl_mq.errors import TaskError
from mhfl_mq.segments import Tier
from mhfl_mq.train.jobs import Jobs
from mhfl_mq.train.model import write_vector
from mhfl_mq.train.reports import Subject
from mhfl_mq.train.task import Examples
from tests.train.steps.federation import TASK

TIERS = (Tier("small", 0.25), Tier("large", 1.0))


def changed(folder: Path | None) -> Examples:
    """The public examples, but for the last bit of one number."""
    public = TASK.public_data(folder) if TASK.public_data is not None else None
    assert public is not None
    inputs = public.inputs.clone()
    inputs[3, 1] = torch.nextafter(inputs[3, 1], torch.tensor(9.0))
    return Examples(inputs, public.targets)


def subject(public: str = "", algorithm: str = "fedmd") -> Subject:
    return Subject.of(TIERS, algorithm, {"steps": 2.0, "batch": 8.0, "align_steps": 2.0}, public=public)


def ask(jobs: Jobs, job: str, about: Subject, folder: Path) -> object:
    """A device's job with these arguments and all that others need."""
    write_vector(folder / "base", np.zeros(80 * 3, np.float32))
    return jobs.run(
        job,
        {
            "subject": about.document(),
            "shard": "a",
            "tier": 0,
            "round": 1,
            "base": [str(folder / "base")],
            "out": str(folder / "out"),
            "options": {"steps": 2.0},
            "keep": "",
            "handicap": [1.0, 0],
            "seed": 0,
        },
    )


def digest_of(jobs: Jobs) -> str:
    told = jobs.run("describe", {"subject": subject().document(), "out": "", "seed": 0})["public"]
    assert isinstance(told, str)
    return told


def test_the_digest_is_of_every_bit_of_the_inputs_and_not_of_the_targets() -> None:
    same = replace(TASK, public_data=lambda folder: Examples(changed(folder).inputs, torch.ones(80)))
    digest = digest_of(Jobs(TASK, None))
    assert len(digest) == 64
    assert digest_of(Jobs(TASK, None)) == digest
    assert digest_of(Jobs(replace(TASK, public_data=changed), None)) != digest
    assert digest_of(Jobs(same, None)) == digest_of(Jobs(replace(TASK, public_data=changed), None))


@pytest.mark.parametrize("job", ["count", "probe", "train"])
def test_a_public_set_whose_digest_differs_is_refused_and_a_device_that_has_the_right_one_goes_on(
    job: str, tmp_path: Path
) -> None:
    digest = digest_of(Jobs(TASK, None))
    other = Jobs(replace(TASK, public_data=changed), None)
    with pytest.raises(TaskError, match=rf"the federation's have {digest}.*give this device the federation's"):
        ask(other, job, subject(digest), tmp_path)
    assert not (tmp_path / "out").exists()
    assert ask(Jobs(TASK, None), job, subject(digest), tmp_path)


def test_the_digest_is_looked_at_each_time_not_only_when_the_models_are_made(tmp_path: Path) -> None:
    jobs = Jobs(TASK, None)
    ask(jobs, "count", subject(digest_of(jobs)), tmp_path)
    with pytest.raises(TaskError, match="the public examples here"):
        ask(jobs, "count", subject("0" * 64), tmp_path)


def test_a_device_without_public_data_is_refused_and_algorithms_that_need_none_do_not_ask(tmp_path: Path) -> None:
    jobs = Jobs(replace(TASK, public_data=None), None)
    with pytest.raises(TaskError, match="it has no public data"):
        ask(jobs, "count", subject(), tmp_path)
    assert ask(jobs, "count", subject(algorithm="heterofl"), tmp_path)
