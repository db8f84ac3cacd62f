"""ScaleFL on devices: the loss, what a tier answers, and a small federation of widths and depths."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mhfl_mq.errors import LayoutError, TaskError
from mhfl_mq.segments import Tier
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.steps import Job, method_of
from mhfl_mq.train.steps.exit_scores import exit_net
from mhfl_mq.train.steps.scalefl import ScaleFL, ScaleStepper
from tests.train.steps.block_federation import OPTIONS, Federation
from tests.train.steps.block_nets import BOTH, CHANNELS, Seen, data, divergence, head, plan_of, steady, task_of

PLAN = plan_of("scalefl")
DEVICES = {"a": 0, "b": 1, "c": 1, "d": 2, "e": 0}


def stepper_of(models: TaskModels, tier: int, round_number: int = 1, **numbers: float) -> ScaleStepper:
    base = models.layout.take(models.initial(3), tier).copy()
    return ScaleStepper(Job(models, tier, base, data("a"), OPTIONS, numbers, round_number))


@pytest.fixture(scope="module")
def models() -> TaskModels:
    return TaskModels(task_of(), BOTH, PLAN)


# ---- the loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", [0, 1, 2])
@pytest.mark.parametrize("round_number", [5, 6])
def test_later_exits_count_more_and_the_last_teaches_from_its_round_on(
    models: TaskModels, tier: int, round_number: int
) -> None:
    stepper, batch = stepper_of(models, tier, round_number, distil_after=5.0, distil=0.4, temperature=2.0), data("b")
    scores = stepper.net.exits(batch.inputs)
    expected = torch.zeros(())
    for j, one in enumerate(scores):
        own = nn.functional.cross_entropy(one, batch.targets)
        if j < len(scores) - 1 and round_number == 6:
            own = own + 0.4 * 2.0**2 * divergence(scores[-1] / 2.0, one / 2.0)
        expected = expected + (j + 1) * own
    count = len(scores)
    torch.testing.assert_close(stepper.loss(batch), expected / (count * (count + 1) / 2))


def test_a_rehearsal_teaches_from_the_first_step(models: TaskModels) -> None:
    """What is measured is what a step costs in the end."""
    job = stepper_of(models, 2, distil_after=5.0, distil=0.4).job
    late = ScaleStepper(replace(job, round_number=6)).loss(data("b"))
    torch.testing.assert_close(ScaleStepper(replace(job, rehearsal=True)).loss(data("b")), late)


def test_the_exit_that_teaches_gets_no_gradient_for_it(models: TaskModels) -> None:
    batch = data("b")
    with_it = stepper_of(models, 1, 20, distil=5.0)
    without = stepper_of(models, 1, 20, distil=0.0)
    found = []
    for stepper in (with_it, without):
        weight = stepper.net.heads[1].get_parameter("2.weight")
        found.append(torch.autograd.grad(stepper.loss(batch), weight)[0])
    torch.testing.assert_close(*found)
    heads = [stepper.net.heads[0].get_parameter("2.weight") for stepper in (with_it, without)]
    grads = [
        torch.autograd.grad(stepper.loss(batch), weight)[0]
        for stepper, weight in zip((with_it, without), heads, strict=True)
    ]
    assert not torch.allclose(grads[0], grads[1])


# ---- what a tier is, and what it answers ----------------------------------------------------------------------


@pytest.mark.parametrize("tier", [0, 1])
def test_a_narrow_and_shallow_tiers_exits_are_the_full_models_with_all_else_masked(
    models: TaskModels, tier: int
) -> None:
    length, inputs = models.layout.lengths[tier], data("a").inputs
    masked = models.initial(5)
    masked[:length] += 0.1 * np.random.default_rng(0).normal(size=length).astype(np.float32)
    masked[length:] = 0
    small, full = models.build(tier), models.build(2)
    small.put(masked[:length].copy())
    full.put(masked)
    with torch.no_grad():
        mine, theirs = exit_net(small.module).exits(inputs), exit_net(full.module).exits(inputs)
    assert len(mine) == BOTH[tier].depth
    for here, there in zip(mine, theirs, strict=False):
        torch.testing.assert_close(here, there)


def test_a_tier_answers_with_its_last_exit() -> None:
    seen = Seen()
    models = TaskModels(task_of(metric=seen), BOTH, PLAN)
    for tier in range(3):
        vector = models.layout.take(models.initial(3), tier).copy()
        ScaleFL().score(models, tier, vector, data("c"))
        stepper = stepper_of(models, tier)
        stepper.score(data("c"))
        for outputs in seen.outputs[-2:]:
            torch.testing.assert_close(outputs, stepper.net.exits(data("c").inputs)[-1])


# ---- refused --------------------------------------------------------------------------------------------------


def test_running_statistics_of_unlike_widths_are_refused() -> None:
    """The released code averages them over all tiers."""

    def build(shape: TierShape) -> nn.Module:
        size = int(CHANNELS * shape.width)
        blocks = [
            nn.Sequential(nn.Conv1d(2 if i == 0 else size, size, 3, padding=1), nn.BatchNorm1d(size))
            for i in range(shape.depth)
        ]
        return ExitNet(nn.Identity(), blocks, [head(size) for _ in blocks])

    with pytest.raises(LayoutError, match=r"blocks\.0\.1: BatchNorm1d with running statistics.*use GroupNorm"):
        TaskModels(task_of(build), BOTH, PLAN)


def test_a_tier_that_is_wider_and_shallower_than_one_before_is_refused() -> None:
    """A tier holds all of the one before it, in both directions."""
    with pytest.raises(LayoutError, match=r"tier 'deep' has it, but the larger tier 'wide' has not"):
        TaskModels(task_of(), (Tier("deep", 0.5, 3), Tier("wide", 1.0, 2)), PLAN)


def test_a_model_without_exits_is_refused() -> None:
    with pytest.raises(TaskError, match="has no exit after each block"):
        TaskModels(task_of(lambda shape: steady(TierShape(shape.width, shape.depth))), BOTH, PLAN)


# ---- together -------------------------------------------------------------------------------------------------


def test_a_federation_learns_in_every_tier() -> None:
    federation = Federation(task_of(), BOTH, "scalefl", DEVICES, {"distil_after": 2, "distil": 0.3})
    before = federation.scores()
    for _ in range(10):
        federation.round()
    after = federation.scores()
    assert all(late > max(0.8, early + 0.15) for early, late in zip(before, after, strict=True)), (before, after)


def test_the_order_changes_nothing_and_absent_tiers_keep_what_only_they_hold() -> None:
    federation = Federation(task_of(), BOTH, "scalefl", DEVICES)
    updates = {shard: federation.update(shard, 1) for shard in ("a", "b", "c")}
    new = federation.merged(updates)
    assert new.tobytes() == federation.merged(dict(reversed(updates.items()))).tobytes()
    shared = federation.models.layout.lengths[1]
    assert new[shared:].tobytes() == federation.flat[shared:].tobytes()


def test_the_method_is_found_by_name() -> None:
    assert isinstance(method_of("scalefl"), ScaleFL)
