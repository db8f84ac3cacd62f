"""What a tier costs, measured in this process."""

from collections.abc import Sequence

import pytest
import torch

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.segments import Tier
from mhfl_mq.train import probe
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import Handicap, TrainOptions
from mhfl_mq.train.probe import probe_tier
from mhfl_mq.train.steps.plain import Plain
from mhfl_mq.train.task import Examples, load_task

OPTIONS = TrainOptions(batch=16)


@pytest.fixture
def models(toy: str, tiers: Sequence[Tier]) -> TaskModels:
    return TaskModels(load_task(toy), tiers)


@pytest.fixture
def data(models: TaskModels) -> Examples:
    return models.task.device_data("a", None)


class Ticks:
    """A clock that goes on by 0.1 s whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def test_the_step_time_is_the_clocks_times_the_slowdown(models: TaskModels, data: Examples) -> None:
    assert probe_tier(Plain(), models, 0, data, OPTIONS, clock=Ticks()).step_s == pytest.approx(0.1)
    slow = probe_tier(Plain(), models, 0, data, OPTIONS, clock=Ticks(), handicap=Handicap(slowdown=8.0))
    assert slow.step_s == pytest.approx(0.8)


def test_counted_memory_is_weights_gradients_momentum_activations_and_the_batch(
    models: TaskModels, data: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_resident", lambda field, reset_peak=False: 0)
    weights = 4 * (4 * 16 + 16 + 16 * 3 + 3)
    batch = 16 * (4 * 4 + 8)
    # Kept for the backward pass: the inputs, the hidden layer after its ReLU, log-probabilities, targets, their mean's
    # weight; of these the inputs and targets are the batch itself (counted again: autograd's copy of the reference).
    hidden = 16 * 16 * 4
    cost = probe_tier(Plain(), models, 2, data, TrainOptions(batch=16, momentum=0.9))
    assert cost.peak_bytes >= 3 * weights + batch + hidden
    assert cost.peak_bytes <= 3 * weights + 2 * batch + 2 * hidden + 1024
    adam = probe_tier(Plain(), models, 2, data, TrainOptions(batch=16, adam=1.0))
    assert adam.peak_bytes > cost.peak_bytes  # two moments instead of one


def test_a_larger_batch_needs_more_memory(models: TaskModels, data: Examples) -> None:
    few, many = (probe_tier(Plain(), models, 2, data, TrainOptions(batch=size)) for size in (8, 80))
    assert few.peak_bytes < many.peak_bytes


def test_resident_growth_is_believed_when_it_is_more_than_noise(
    models: TaskModels, data: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = {"VmRSS": 0, "VmHWM": 10 * probe.RESIDENT_NOISE}
    monkeypatch.setattr(probe, "_resident", lambda field, reset_peak=False: grown[field])
    assert probe_tier(Plain(), models, 0, data, OPTIONS).peak_bytes == 10 * probe.RESIDENT_NOISE
    grown["VmHWM"] = probe.RESIDENT_NOISE
    assert probe_tier(Plain(), models, 0, data, OPTIONS).peak_bytes < probe.RESIDENT_NOISE


def test_the_resident_size_is_read_from_the_system() -> None:
    before = probe._resident("VmRSS", reset_peak=True)
    assert before > 10 * 2**20
    block = torch.ones(64 * 2**20 // 4)
    assert probe._resident("VmHWM") - before > 60 * 2**20
    del block
    assert probe._resident("VmNothing") == 0


def test_a_system_that_does_not_tell_leaves_the_counted_bytes(
    models: TaskModels, data: Examples, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(probe, "_STATUS", tmp_path_factory.mktemp("proc") / "status")
    assert 0 < probe_tier(Plain(), models, 0, data, OPTIONS).peak_bytes < 2**20


def test_a_tier_beyond_the_memory_or_with_an_error_does_not_run_here(models: TaskModels, data: Examples) -> None:
    with pytest.raises(TrainingFailed, match=r"tier 'large': training needs \d+ bytes, this device has 1000"):
        probe_tier(Plain(), models, 2, data, OPTIONS, handicap=Handicap(memory_bytes=1000))
    wrong = Examples(torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(TrainingFailed, match="tier 'small': RuntimeError: mat1 and mat2"):
        probe_tier(Plain(), models, 0, wrong, OPTIONS)
