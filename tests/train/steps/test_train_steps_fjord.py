"""FjORD on the device: a tier for each minibatch. (The golden check holds whole rounds against the paper's rule.)"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.segments import Tier
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import Job
from mhfl_mq.train.steps.fjord import FjORDStepper, soft_cross_entropy
from mhfl_mq.train.task import Examples
from tests.train.steps.width_family import (
    Federation,
    assert_order_does_not_matter,
    assert_untouched_coordinates_keep_their_value,
    data,
    task_of,
)


class Counted(FjORDStepper):
    """Says which tiers were trained."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.drawn: list[int] = []
        call = self._models.call

        def told(tier: int, inputs: Tensor) -> Tensor:
            self.drawn.append(tier)
            return call(tier, inputs)

        self._models.call = told  # type: ignore[method-assign]


def stepper(federation: Federation, tier: int, number: int = 1, distil: float = 0.0) -> Counted:
    base = federation.models.layout.take(federation.first(), tier).copy()
    training = federation.training
    return Counted(Job(federation.models, tier, base, data(3), training, {"distil": distil}, number))


def draws(federation: Federation, tier: int, number: int = 1, steps: int = 60) -> list[int]:
    found = stepper(federation, tier, number)
    for _ in range(steps):
        found.step(data(3, 8))
    return found.drawn


def test_every_tier_up_to_the_devices_own_is_drawn_alike_and_repeatably() -> None:
    federation = Federation("fjord")
    drawn = draws(federation, 2)
    assert drawn == draws(federation, 2)
    assert drawn != draws(federation, 2, number=2)
    assert np.bincount(drawn, minlength=3).min() > 60 / 3 / 2
    assert set(draws(federation, 1)) == {0, 1}
    assert set(draws(federation, 0)) == {0}


@pytest.mark.parametrize("tier", [0, 1, 2])
def test_in_a_rehearsal_every_tier_has_its_turn_after_the_first_step(tier: int) -> None:
    federation = Federation("fjord")
    base = federation.models.layout.take(federation.first(), tier).copy()
    found = Counted(Job(federation.models, tier, base, data(3), federation.training, {}, 1, rehearsal=True))
    for _ in range(1 + found.kinds):
        found.step(data(3, 8))
    assert found.drawn == [0, *range(tier + 1)]


@pytest.mark.parametrize(("tier", "steps", "tells"), [(0, 3, True), (1, 7, False), (1, 8, True), (2, 11, False)])
def test_a_round_of_few_draws_says_nothing_of_the_usual_step(tier: int, steps: int, tells: bool) -> None:
    federation = Federation("fjord")
    base = federation.models.layout.take(federation.first(), tier).copy()
    job = Job(federation.models, tier, base, data(3), TrainOptions(steps=steps, batch=8), {}, 1)
    assert FjORDStepper(job).finish().usual is tells


def test_a_soft_target_that_is_certain_is_the_cross_entropy() -> None:
    scores, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    sure = nn.functional.one_hot(targets, 3).float()
    torch.testing.assert_close(soft_cross_entropy(scores, sure), nn.functional.cross_entropy(scores, targets))


def test_the_widest_model_is_the_teacher_and_does_not_learn_from_who_it_teaches() -> None:
    federation = Federation("fjord", {"distil": 1})
    found = stepper(federation, 2, distil=1.0)
    batch = data(3, 8)
    while True:
        before = len(found.drawn)
        loss = found.loss(batch)
        if found.drawn[before] < 2:
            break
    widest = found.module(batch.inputs)
    alone = nn.functional.cross_entropy(widest, batch.targets)
    taught = soft_cross_entropy(found._models.call(found.drawn[before], batch.inputs), widest.softmax(1).detach())
    torch.testing.assert_close(loss, alone + taught)
    outer = found.module.get_parameter("2.weight")  # what only the widest has learns from the labels alone
    (both,) = torch.autograd.grad(loss, [outer])
    (labels,) = torch.autograd.grad(alone, [outer])
    torch.testing.assert_close(both[8:], labels[8:])


class Blocks(nn.Module):
    def __init__(self, shape: TierShape) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Linear(4, 4) for _ in range(shape.depth or 2)))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.relu(self.body(x)))
        return scores


@pytest.mark.parametrize("adam", [0.0, 1.0])
def test_a_block_that_a_minibatch_leaves_out_still_moves_by_its_momentum(adam: float) -> None:
    tiers = (Tier("one", 1.0, 1), Tier("two", 1.0, 2))
    training = TrainOptions(steps=1, batch=8, rate=0.01, momentum=0.9, adam=adam)
    federation = Federation("fjord", {}, task_of(Blocks), tiers, [(1, data(1))], training)
    found = stepper(federation, 1)
    batch: Examples = data(3, 8)
    before = torch.zeros(4, 4)
    while 1 not in found.drawn or found.drawn[-1] == 1:
        before = found.module.get_parameter("body.1.weight").detach().clone()
        found.step(batch)
    assert not torch.equal(found.module.get_parameter("body.1.weight"), before)


def test_it_learns_in_every_tier_with_and_without_distillation() -> None:
    for options in ({}, {"distil": 1}):
        federation = Federation("fjord", options)
        before, after = federation.scores(federation.first()), federation.scores(federation.run(8))
        assert min(after) > 0.7
        assert min(after) > max(before) + 0.15


def test_trap_t1_it_is_a_sum_and_untouched_coordinates_keep_their_value() -> None:
    assert_order_does_not_matter(Federation("fjord"))
    assert_untouched_coordinates_keep_their_value(Federation("fjord"))


def test_trap_t7_an_update_of_zeros_counts() -> None:
    federation = Federation("fjord", {"weighting": "uniform"})
    head = federation.first()
    update = federation.update(head, 2)
    both = federation.merged(head, [(2, update), (3, np.zeros_like(update))])
    np.testing.assert_allclose(both, head + update / 2, atol=1e-6)
