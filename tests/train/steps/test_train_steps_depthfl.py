"""DepthFL on devices: the loss, the ensemble, and a small federation."""

import numpy as np
import pytest
import torch
from torch import nn

from mhfl_mq.errors import TaskError
from mhfl_mq.families.sharing.depthfl import mutual_weight
from mhfl_mq.segments import Tier
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.steps import Job, method_of
from mhfl_mq.train.steps.depthfl import DepthFL, DepthStepper
from mhfl_mq.train.steps.exit_scores import exit_net
from tests.train.steps.block_federation import OPTIONS, Federation
from tests.train.steps.block_nets import (
    BOTH,
    CHANNELS,
    DEPTHS,
    Seen,
    conv,
    data,
    divergence,
    head,
    plan_of,
    steady,
    task_of,
)

PLAN = plan_of("depthfl")
DEVICES = {"a": 0, "b": 1, "c": 1, "d": 2, "e": 0}


def stepper_of(models: TaskModels, tier: int, round_number: int = 1, **numbers: float) -> DepthStepper:
    base = models.layout.take(models.initial(3), tier).copy()
    return DepthStepper(Job(models, tier, base, data("a"), OPTIONS, numbers, round_number))


@pytest.fixture(scope="module")
def models() -> TaskModels:
    return TaskModels(task_of(), DEPTHS, PLAN)


# ---- the loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tier", "round_number"), [(0, 4), (1, 4), (2, 4), (2, 30)])
def test_the_loss_is_every_exits_own_and_what_the_others_say(models: TaskModels, tier: int, round_number: int) -> None:
    stepper, batch = stepper_of(models, tier, round_number, ramp=8.0), data("b")
    scores = stepper.net.exits(batch.inputs)
    expected = torch.stack([nn.functional.cross_entropy(s, batch.targets) for s in scores]).sum()
    for i, learner in enumerate(scores):
        others = [divergence(other, learner) for j, other in enumerate(scores) if j != i]
        if others:
            expected = expected + mutual_weight(round_number, 8.0) * torch.stack(others).mean()
    torch.testing.assert_close(stepper.loss(batch), expected)


def test_a_teacher_gets_no_gradient_for_what_its_pupil_says(models: TaskModels) -> None:
    """Without the detached teacher the exits meet in the middle, and the best one is drawn to the worst."""
    stepper, batch = stepper_of(models, 1, 20, ramp=1.0), data("b")
    first, second = stepper.net.exits(batch.inputs)
    told = nn.functional.cross_entropy(second, batch.targets) + divergence(first.detach(), second)
    weight = exit_net(stepper.module).heads[1].get_parameter("2.weight")
    (expected,) = torch.autograd.grad(told, weight)
    (found,) = torch.autograd.grad(stepper.loss(batch), weight)
    torch.testing.assert_close(found, expected)


def test_the_smallest_tier_with_one_exit_trains_plainly(models: TaskModels) -> None:
    stepper, batch = stepper_of(models, 0, 20), data("b")
    torch.testing.assert_close(
        stepper.loss(batch), nn.functional.cross_entropy(stepper.module(batch.inputs), batch.targets)
    )


def test_scores_that_are_no_classes_cannot_teach_and_are_refused() -> None:
    def build(shape: TierShape) -> nn.Module:
        blocks = [conv(CHANNELS, CHANNELS) for _ in range(shape.depth)]
        return ExitNet(conv(2, CHANNELS), blocks, [nn.Sequential(head(CHANNELS), nn.Linear(3, 1)) for _ in blocks])

    models = TaskModels(task_of(build, loss=lambda outputs, targets: outputs.mean()), DEPTHS, PLAN)
    stepper = stepper_of(models, 1)
    with pytest.raises(TaskError, match=r"an exit gives \(60, 1\).*at least 2 classes"):
        stepper.loss(data("b"))


def test_a_model_without_exits_is_refused_when_the_layout_is_made() -> None:
    plain = task_of(lambda shape: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with pytest.raises(TaskError, match=r"task 'blocks': .*has no exit after each block; build it as a .*ExitNet"):
        TaskModels(plain, DEPTHS, PLAN)
    one_head = task_of(lambda shape: steady(TierShape(shape.width, shape.depth)))
    with pytest.raises(TaskError, match="has no exit after each block"):
        TaskModels(one_head, DEPTHS, PLAN)


# ---- what a tier is, and what it answers ----------------------------------------------------------------------


@pytest.mark.parametrize("tiers", [DEPTHS, BOTH], ids=["depths", "widths too"])
@pytest.mark.parametrize("tier", [0, 1])
def test_a_shallow_tiers_exits_are_the_full_models_with_all_else_masked(tiers: tuple[Tier, ...], tier: int) -> None:
    models = TaskModels(task_of(), tiers, PLAN)
    length, inputs = models.layout.lengths[tier], data("a").inputs
    masked = models.initial(5)
    masked[:length] += 0.1 * np.random.default_rng(0).normal(size=length).astype(np.float32)
    masked[length:] = 0
    small, full = models.build(tier), models.build(2)
    small.put(models.layout.take(masked, tier).copy())
    full.put(masked)
    with torch.no_grad():
        mine, theirs = exit_net(small.module).exits(inputs), exit_net(full.module).exits(inputs)
    for here, there in zip(mine, theirs, strict=False):
        torch.testing.assert_close(here, there)
    assert len(mine) == tiers[tier].depth


def test_a_tier_answers_with_the_mean_of_its_exits_scores_on_the_device_and_at_the_aggregator() -> None:
    seen = Seen()
    mine = TaskModels(task_of(metric=seen), DEPTHS, PLAN)
    examples = data("c")
    for tier in range(3):
        vector = mine.layout.take(mine.initial(3), tier).copy()
        DepthFL().score(mine, tier, vector, examples)
        stepper_of(mine, tier).score(examples)
        model = mine.build(tier)
        model.put(vector)
        with torch.no_grad():
            exits = exit_net(model.module).exits(examples.inputs)
        for outputs in seen.outputs[-2:]:
            torch.testing.assert_close(outputs, sum(exits[1:], exits[0]) / len(exits))


def test_a_deep_tier_that_is_worse_than_a_shallow_one_is_told_as_it_is() -> None:
    """The ensemble does not hide that a larger model has become worse: each tier's score is of its own exits."""
    federation = Federation(task_of(), DEPTHS, "depthfl", {"a": 0, "b": 0, "c": 1})
    for _ in range(6):
        federation.round()
    before = federation.scores()
    start, stop = federation.models.layout.where("heads.2.2.bias")
    federation.flat[start:stop] = [-900.0, 0.0, 900.0]  # the deepest exit always says the last class
    after = federation.scores()
    assert after[:2] == before[:2]
    assert after[2] < before[2] - 0.2
    assert after[2] < after[0]


# ---- together -------------------------------------------------------------------------------------------------


def test_a_federation_learns_in_every_tier() -> None:
    federation = Federation(task_of(), DEPTHS, "depthfl", DEVICES, {"ramp": 4.0})
    before = federation.scores()
    for _ in range(8):
        federation.round()
    after = federation.scores()
    assert all(late > 0.75 > early + 0.2 for early, late in zip(before, after, strict=True)), (before, after)


def test_the_order_in_which_updates_come_changes_nothing() -> None:
    federation = Federation(task_of(), DEPTHS, "depthfl", DEVICES)
    updates = {shard: federation.update(shard, 1) for shard in DEVICES}
    backwards = dict(reversed(updates.items()))
    assert federation.merged(updates).tobytes() == federation.merged(backwards).tobytes()


def test_a_round_without_the_deepest_tier_leaves_its_last_block_and_exit_as_they_are() -> None:
    federation = Federation(task_of(), DEPTHS, "depthfl", DEVICES)
    before, shared = federation.flat.copy(), federation.models.layout.lengths[1]
    federation.round(["a", "b", "c"])
    assert federation.flat[shared:].tobytes() == before[shared:].tobytes()
    assert not np.array_equal(federation.flat[:shared], before[:shared])


def test_the_method_is_found_by_name() -> None:
    assert isinstance(method_of("depthfl"), DepthFL)
