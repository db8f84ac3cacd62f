"""What a tier costs, measured in this process."""

from collections.abc import Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.segments import Tier
from mhfl_mq.train import probe
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.loop import train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import Handicap, TrainOptions
from mhfl_mq.train.probe import probe_tier
from mhfl_mq.train.steps import Job, Stepper, method_of
from mhfl_mq.train.steps.fedepth import BlockStepper, FeDepth
from mhfl_mq.train.steps.plain import Plain, PlainStepper
from mhfl_mq.train.task import Examples, load_task
from tests.train.steps.block_nets import conv, head, plan_of, task_of
from tests.train.steps.block_nets import data as series
from tests.train.steps.federation import federate

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


# ---- steps that differ ----------------------------------------------------------------------------------------


class Work:
    """A clock that goes on by a second with every step of an optimizer."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self) -> float:
        return float(self.steps)

    def count(self, *_: object) -> None:
        self.steps += 1


@pytest.fixture
def work() -> Iterator[Work]:
    clock = Work()
    handle = register_optimizer_step_post_hook(clock.count)
    yield clock
    handle.remove()


def cost_of(name: str, numbers: Mapping[str, float], work: Work, *, steps: int = 20, tier: int = 0) -> probe.Cost:
    here = federate(name, numbers, training=TrainOptions(steps=steps, batch=16))
    data, options = here.models.task.device_data("a", None), here.options
    return probe_tier(method_of(name), here.models, tier, data, options, numbers=here.algorithm.numbers, clock=work)


@pytest.mark.parametrize("name", ["fedmd", "dsfl"])
@pytest.mark.parametrize(("aligned", "steps", "usual"), [(0, 20, 1.0), (20, 20, 2.0), (20, 1, 21.0), (7, 28, 1.25)])
def test_alignment_is_spread_over_the_steps_of_a_round(
    name: str, aligned: int, steps: int, usual: float, work: Work
) -> None:
    cost = cost_of(name, {"align_steps": float(aligned)}, work, steps=steps)
    assert cost.step_s == pytest.approx(usual)


@pytest.mark.parametrize("name", ["fedmd", "dsfl"])
def test_what_a_probe_tells_is_what_the_rounds_show(name: str, work: Work) -> None:
    here = federate(name, {"align_steps": 30}, rounds=1)
    told = cost_of(name, {"align_steps": 30}, work).step_s
    job = here.job("a")
    shown = train_round(method_of(name), job, clock=work).metrics["step_s"]
    assert shown == pytest.approx(told)


@pytest.mark.parametrize("name", ["fedmd", "dsfl"])
def test_a_first_round_without_alignment_says_nothing_of_the_usual_step(name: str) -> None:
    assert "step_s" not in federate(name).train("a").metrics


def test_steps_one_after_the_other_need_the_memory_of_the_largest_and_not_of_all(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_resident", lambda field, reset_peak=False: 0)
    none, one, many = (cost_of("fedmd", {"align_steps": k}, work).peak_bytes for k in (0.0, 1.0, 30.0))
    assert one == many < none + 4096  # a minibatch of public examples and their rows


class Wide(PlainStepper):
    """The sixth step of a cycle, the last kind that its method says there is, is of five times the examples."""

    kinds = 5

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.taken = 0

    def loss(self, batch: Examples) -> Tensor:
        times = 5 if self.taken == 5 else 1
        loss = super().loss(Examples(batch.inputs.repeat(times, 1), batch.targets.repeat(times)))
        self.taken += 1
        return loss


class Widening(Plain):
    def begin(self, job: Job) -> Stepper:
        return Wide(job)


def test_the_last_kind_of_step_is_seen(models: TaskModels, data: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_resident", lambda field, reset_peak=False: 0)
    usual, wide = (probe_tier(method, models, 2, data, OPTIONS).peak_bytes for method in (Plain(), Widening()))
    assert wide > usual + 4 * 16 * 16 * 4


def six(shape: object) -> nn.Module:
    """Six blocks of which the fifth is the largest by far."""
    large = nn.Sequential(nn.Conv1d(8, 64, 3, padding=1), nn.Conv1d(64, 64, 3, padding=1), nn.Conv1d(64, 8, 1))
    blocks = [conv(8, 8) for _ in range(6)]
    blocks[4] = large
    return ExitNet(conv(2, 8), blocks, [head(8)])


class Followed(FeDepth):
    """FeDepth whose groups are noted as they learn."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []

    def begin(self, job: Job) -> Stepper:
        groups: list[int] = []
        self.rounds.append(groups)

        class Noted(BlockStepper):
            def step(self, batch: Examples) -> float:
                loss = super().step(batch)
                groups.append(self.group)
                return loss

        return Noted(job)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_every_group_of_blocks_is_measured(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_resident", lambda field, reset_peak=False: 0)
    monkeypatch.setattr(probe, "BUDGET_S", 0.0)
    tiers = (Tier("one at a time", 1.0, 1), Tier("all"))
    models = TaskModels(task_of(six), tiers, plan_of("fedepth"))
    method, options = Followed(), TrainOptions(steps=steps, batch=30)
    cost = probe_tier(method, models, 0, series("a"), options)
    whole = [seen for seen in method.rounds if len(seen) > 1]
    assert whole == [[0, 0, 1, 2, 3, 4, 5]] * 3  # one is counted, two are timed
    large = 4 * sum(array.numel() for array in models.build(0).module.get_submodule("blocks.4").parameters())
    assert cost.peak_bytes > 4 * models.layout.total + 2 * large


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_the_usual_step_of_groups_is_their_mean_whatever_a_round_has_of_them(steps: int) -> None:
    tiers = (Tier("one at a time", 1.0, 1), Tier("all"))
    models = TaskModels(task_of(six), tiers, plan_of("fedepth"))
    clock = Ticks()

    class Slow(BlockStepper):
        def step(self, batch: Examples) -> float:
            loss = super().step(batch)
            clock.now += self.group
            return loss

    class Slowly(FeDepth):
        def begin(self, job: Job) -> Stepper:
            return Slow(job)

    cost = probe_tier(Slowly(), models, 0, series("a"), TrainOptions(steps=steps, batch=30), clock=clock)
    assert cost.step_s == pytest.approx(0.1 + 2.5)


def test_a_rehearsal_that_takes_long_is_timed_once(models: TaskModels, data: Examples) -> None:
    """A first one is counted; so a probe ends after about two."""
    seen = []

    class Minutes(Ticks):
        def __call__(self) -> float:
            seen.append(self.now)
            self.now += 10.0
            return self.now

    assert probe_tier(Plain(), models, 0, data, OPTIONS, clock=Minutes()).step_s == pytest.approx(10.0)
    assert len(seen) == 2 * 5
