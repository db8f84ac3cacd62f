"""Slimmable HeteroFL on the device: one step of all sizes at once."""

import numpy as np
import torch
from torch import nn

from mhfl_mq.train.loop import batches
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import Job
from mhfl_mq.train.steps.slimmable import SlimmableStepper
from tests.train.steps.width_family import (
    TIERS,
    Federation,
    assert_a_tier_computes_what_the_full_model_does_with_its_other_units_masked,
    assert_order_does_not_matter,
    assert_untouched_coordinates_keep_their_value,
    data,
)

PLAIN = TrainOptions(steps=1, batch=16, rate=0.1, momentum=0.0, clip=0.0)


def test_a_step_is_the_mean_over_the_sizes_of_what_each_would_learn_alone() -> None:
    """Against three models of their own, each trained by itself on the same minibatch."""
    federation = Federation("slimmable", training=PLAIN)
    models, head = federation.models, federation.first()
    update = federation.update(head, 2)
    tier, examples = federation.devices[2]
    job = Job(models, tier, head, examples, PLAIN, {}, 1, (2,))
    index = next(batches(len(examples), PLAIN.batch, np.random.default_rng(job.seeds)))
    expected = np.zeros_like(head)
    for k in range(len(TIERS)):
        alone = models.build(k)
        alone.put(models.layout.take(head, k).copy())
        loss = nn.functional.cross_entropy(alone.module(examples.inputs[index]), examples.targets[index])
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in alone.module.parameters():
                assert parameter.grad is not None
                parameter.copy_(-PLAIN.rate * parameter.grad / len(TIERS))
        expected[: models.layout.lengths[k]] += alone.take()
    np.testing.assert_allclose(update, expected, atol=1e-6)


def test_trap_t2_the_sizes_that_are_trained_are_the_masked_full_model_and_the_tiers_that_are_deployed() -> None:
    federation = Federation("slimmable")
    head = federation.run(2)
    assert_a_tier_computes_what_the_full_model_does_with_its_other_units_masked(federation, head)
    stepper = SlimmableStepper(Job(federation.models, 2, head.copy(), data(1), PLAIN, {}, 1))
    inputs = data(2).inputs
    for k in range(len(TIERS)):
        deployed = federation.models.build(k)
        deployed.put(federation.models.layout.take(head, k).copy())
        torch.testing.assert_close(stepper._models.call(k, inputs), deployed.module(inputs))


def test_the_smallest_tier_trains_as_heterofl_does() -> None:
    slim, plain = Federation("slimmable"), Federation("heterofl")
    head = slim.first()
    np.testing.assert_array_equal(slim.update(head, 0), plain.update(head, 0))
    assert not np.array_equal(slim.update(head, 2), plain.update(head, 2))


def test_the_loss_that_is_reported_is_that_of_the_step() -> None:
    federation = Federation("slimmable")
    tier, examples = federation.devices[1]
    head = federation.models.layout.take(federation.first(), tier).copy()
    stepper = SlimmableStepper(Job(federation.models, tier, head, examples, PLAIN, {}, 1))
    before = float(stepper.loss(examples).detach())
    assert stepper.step(examples) == before
    assert float(stepper.loss(examples).detach()) < before


def test_small_tiers_learn_though_every_device_is_large() -> None:
    """HeteroFL leaves the small models of large devices to chance; here each of them is trained."""
    large = [(2, examples) for _, examples in Federation("slimmable").devices[:2]]
    slim, plain = Federation("slimmable", devices=large), Federation("heterofl", devices=large)
    learnt, left = slim.scores(slim.run(6)), plain.scores(plain.run(6))
    assert min(learnt) > 0.75
    assert learnt[0] > left[0] + 0.1


def test_trap_t1_it_is_a_sum_and_untouched_coordinates_keep_their_value() -> None:
    assert_order_does_not_matter(Federation("slimmable"))
    assert_untouched_coordinates_keep_their_value(Federation("slimmable"))


def test_trap_t7_an_update_of_zeros_counts() -> None:
    federation = Federation("slimmable", {"weighting": "uniform"})
    head = federation.first()
    update = federation.update(head, 2)
    both = federation.merged(head, [(2, update), (3, np.zeros_like(update))])
    np.testing.assert_allclose(both, head + update / 2, atol=1e-6)
