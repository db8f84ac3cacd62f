"""Local training: repeatable, learning, guarded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse, TaskError, TrainingFailed
from mhfl_mq.segments import Tier
from mhfl_mq.train.loop import Trained, batches, train_round, usual_step
from mhfl_mq.train.model import TaskModels, TierModel, read_vector, write_vector
from mhfl_mq.train.options import Handicap, TrainOptions
from mhfl_mq.train.steps import Finished, Job, Stepper
from mhfl_mq.train.steps.plain import Plain, PlainStepper
from mhfl_mq.train.task import Examples, load_task

QUICK = TrainOptions(steps=30, batch=16, rate=0.1)


class Watched(Plain):
    """Plain training whose model can be looked at."""

    model: TierModel

    def begin(self, job: Job) -> Stepper:
        stepper = PlainStepper(job)
        self.model = stepper.model
        return stepper


@pytest.fixture
def models(toy: str, tiers: Sequence[Tier]) -> TaskModels:
    return TaskModels(load_task(toy), tiers)


def trained(
    models: TaskModels, tier: int, options: TrainOptions = QUICK, *, number: int = 1, shard: str = "a"
) -> Trained:
    base = models.initial(5)[: models.layout.lengths[tier]].copy()
    data = models.task.device_data(shard, None)
    return train_round(Plain(), Job(models, tier, base, data, options, {}, number, (1,)))


def test_training_learns_and_reports_what_it_did(models: TaskModels) -> None:
    result = trained(models, 1)
    assert result.update.dtype == np.float32
    assert result.update.size == models.layout.lengths[1]
    assert result.weight == 90
    assert result.metrics["loss_last"] < result.metrics["loss_first"]
    assert (result.metrics["steps"], result.metrics["examples"]) == (30, 90)
    assert 0 < result.metrics["seconds"] < 60


@pytest.mark.parametrize("options", [QUICK, TrainOptions(steps=10, adam=1.0, rate=0.01, clip=0.0)])
def test_the_same_seed_gives_the_same_delta_bit_for_bit(models: TaskModels, options: TrainOptions) -> None:
    first, again = trained(models, 2, options), trained(models, 2, options)
    assert first.update.tobytes() == again.update.tobytes()


def test_another_round_draws_other_minibatches(models: TaskModels) -> None:
    assert not np.array_equal(trained(models, 0, number=1).update, trained(models, 0, number=2).update)


def test_base_plus_delta_is_the_trained_model(models: TaskModels) -> None:
    base = models.initial(5)[: models.layout.lengths[0]].copy()
    kept = base.copy()
    method = Watched()
    result = train_round(method, Job(models, 0, base, models.task.device_data("a", None), QUICK, {}, 1))
    np.testing.assert_allclose(base + result.update, method.model.take(), atol=1e-7)
    np.testing.assert_array_equal(base, kept)


def test_values_that_are_not_finite_end_training_with_the_step(models: TaskModels) -> None:
    with pytest.raises(TrainingFailed, match="the loss is nan at step 1 of 30"):
        trained(models, 0, shard="nan")


def test_a_device_without_examples_says_so(models: TaskModels) -> None:
    with pytest.raises(TrainingFailed, match="no examples"):
        trained(models, 0, shard="empty")


def test_a_handicapped_device_really_takes_longer(models: TaskModels) -> None:
    ticks = iter(range(1000))
    slept: list[float] = []
    base = models.initial(5)[: models.layout.lengths[0]].copy()
    train_round(
        Plain(),
        Job(models, 0, base, models.task.device_data("a", None), TrainOptions(steps=4), {}, 1),
        handicap=Handicap(slowdown=5.0),
        clock=lambda: float(next(ticks)),
        sleep=slept.append,
    )
    assert slept == [4.0] * 4  # a step took one tick of the clock, and sleeps four


class Clock:
    """A clock that stands, but for what is added."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(PlainStepper):
    """Steps that take so many seconds of the clock, and a round that is usual or not."""

    def __init__(self, job: Job, clock: Clock, seconds: Sequence[float], *, usual: bool) -> None:
        super().__init__(job)
        self.clock, self.seconds, self.usual = clock, iter(seconds), usual

    def step(self, batch: Examples) -> float:
        self.clock.now += next(self.seconds)
        return super().step(batch)

    def finish(self) -> Finished:
        return replace(super().finish(), usual=self.usual)


class Timing(Plain):
    def __init__(self, clock: Clock, seconds: Sequence[float], *, usual: bool = True) -> None:
        self.clock, self.seconds, self.usual = clock, seconds, usual

    def begin(self, job: Job) -> Stepper:
        return Timed(job, self.clock, self.seconds, usual=self.usual)


def timed(models: TaskModels, seconds: Sequence[float], *, usual: bool = True, slowdown: float = 1.0) -> Trained:
    clock, base = Clock(), models.initial(5)[: models.layout.lengths[0]].copy()
    options = TrainOptions(steps=len(seconds), batch=16)
    job = Job(models, 0, base, models.task.device_data("a", None), options, {}, 1)
    method, handicap = Timing(clock, seconds, usual=usual), Handicap(slowdown=slowdown)
    return train_round(method, job, clock=clock, sleep=lambda seconds: None, handicap=handicap)


def test_the_usual_step_has_its_share_of_what_is_done_once_a_round(models: TaskModels) -> None:
    assert timed(models, [21.0] + [1.0] * 19).metrics["step_s"] == pytest.approx(2.0)
    assert timed(models, [21.0] + [1.0] * 19, slowdown=3.0).metrics["step_s"] == pytest.approx(6.0)


def test_a_round_that_cannot_tell_the_usual_step_says_nothing_of_it(models: TaskModels) -> None:
    """One of one or two steps, or one that was not as others are."""
    for few in (1, 2):
        assert "step_s" not in timed(models, [50.0] * few).metrics
    assert "step_s" in timed(models, [1.0] * 3).metrics
    assert "step_s" not in timed(models, [1.0] * 4, usual=False).metrics


@given(st.integers(3, 60), st.data())
def test_one_hiccup_is_no_usual_step(steps: int, data: st.DataObject) -> None:
    taken = [1.0] * steps
    taken[data.draw(st.integers(1, steps - 1))] = data.draw(st.floats(1.0, 1e6))
    assert usual_step(taken) == 1.0


def test_steps_of_several_kinds_count_by_their_mean() -> None:
    assert usual_step([1.0, 1.0, 2.0, 2.0, 6.0, 6.0, 3.0, 3.0]) == pytest.approx(3.0)
    assert usual_step([6.0, 6.0, 1.0, 1.0]) == pytest.approx(3.5)


@given(count=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 99))
def test_minibatches_are_full_and_no_example_comes_twice_in_a_pass(count: int, size: int, seed: int) -> None:
    chosen = batches(count, size, np.random.default_rng(seed))
    full = min(size, count)
    for _ in range(3):
        once = Counter(int(i) for _ in range(count // full) for i in next(chosen))
        assert once.total() == count // full * full
        assert max(once.values()) == 1
        assert set(once) <= set(range(count))


def test_the_initial_model_follows_from_its_seed_and_smaller_tiers_are_its_prefixes(models: TaskModels) -> None:
    flat = models.initial(3)
    assert flat.tobytes() == models.initial(3).tobytes()
    assert not np.array_equal(flat, models.initial(4))
    small = models.build(0)
    small.put(flat[: models.layout.lengths[0]].copy())
    np.testing.assert_array_equal(small.take(), flat[: models.layout.lengths[0]])


def test_a_tier_that_is_not_there_is_a_misuse_and_a_model_that_cannot_be_built_a_task_error(models: TaskModels) -> None:
    with pytest.raises(LocalMisuse, match="tier 3: there are 3"):
        models.build(3)
    broken = TaskModels(load_task("toy_task:TASK"), models.tiers)
    object.__setattr__(broken.task, "model", lambda shape: 1 / 0)
    try:
        with pytest.raises(TaskError, match="cannot be built: ZeroDivisionError"):
            broken.build(0)
    finally:
        object.__setattr__(broken.task, "model", __import__("toy_task").model)


def test_vectors_are_read_over_several_files_up_to_the_length(tmp_path: Path) -> None:
    parts = [tmp_path / "0", tmp_path / "1", tmp_path / "2"]
    for path, values in zip(parts, ([1, 2], [3, 4, 5], [6]), strict=True):
        write_vector(path, np.array(values, np.float32))
    np.testing.assert_array_equal(read_vector(parts, 4), np.array([1, 2, 3, 4], np.float32))
    with pytest.raises(TrainingFailed, match="ends after 6 of 7 coordinates"):
        read_vector(parts, 7)
    with pytest.raises(TrainingFailed, match="No such file"):
        read_vector([tmp_path / "none"], 1)


def test_a_vector_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(TrainingFailed, match="cannot be written"):
        write_vector(tmp_path / "taken", np.zeros(3, np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_training_does_not_depend_on_the_global_random_state(models: TaskModels) -> None:
    torch.manual_seed(1)
    first = trained(models, 0)
    torch.manual_seed(2)
    assert trained(models, 0).update.tobytes() == first.update.tobytes()


def test_examples_carry_their_count(models: TaskModels) -> None:
    assert len(Examples(torch.zeros(4, 1), torch.zeros(4))) == 4
