"""FIARSE on the device: the full module with zeros, gradients where the tier holds, deltas by class."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Tier, Vector
from mhfl_mq.segments.ranking import Ranking, classes_of
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.ranked import flat_ranked, lay, ranked_arrays
from mhfl_mq.train.steps import Job
from mhfl_mq.train.steps.fiarse import FiarseStepper
from tests.train.steps.width_family import (
    TIERS,
    Federation,
    assert_order_does_not_matter,
    data,
    mlp,
    task_of,
    up,
)


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation("fiarse")


def job(federation: Federation, tier: int, training: TrainOptions | None = None) -> Job:
    base = federation.models.layout.take(federation.first(), tier).copy()
    return Job(federation.models, tier, base, data(5), training or federation.training, {}, 1)


def held_of(federation: Federation, head: Vector, tier: int) -> tuple[Vector, npt.NDArray[np.bool_]]:
    """The full model's coordinates in its own order, and true where a tier holds them."""
    ranking = Ranking.of(federation.models.layout)
    values = ranking.values(head)
    return values, classes_of(values, ranking.sizes) <= tier


def test_a_tier_has_as_many_coordinates_as_its_widths_model_and_they_are_the_largest(federation: Federation) -> None:
    widths = Federation("heterofl").models.layout.lengths
    sizes = np.cumsum(Ranking.of(federation.models.layout).sizes)
    assert tuple(sizes) == widths
    torch.manual_seed(1)
    values = flat_ranked(federation.models.build(2).module)
    head = federation.first()
    for tier, count in enumerate(widths):
        found, held = held_of(federation, head, tier)
        np.testing.assert_array_equal(found, values)
        assert np.count_nonzero(held) == count
        assert np.abs(values[held]).min() >= np.abs(values[~held]).max(initial=0.0)


def test_the_module_of_a_tier_is_the_full_one_with_zeros(federation: Federation) -> None:
    head = federation.first()
    for tier in range(3):
        values, held = held_of(federation, head, tier)
        model = federation.models.build(tier)
        model.put(federation.models.layout.take(head, tier).copy())
        places = lay(model.module, model.own)
        np.testing.assert_array_equal(flat_ranked(model.module), np.where(held, values, 0))
        np.testing.assert_array_equal(torch.cat([p.reshape(-1) for p in places.values()]), held)


@pytest.mark.parametrize("tier", [0, 1, 2])
def test_a_step_is_the_papers_gradient_where_the_tier_holds_and_nothing_elsewhere(
    federation: Federation, tier: int
) -> None:
    """Against a forward pass that masks with the released code's slope at the threshold, by autograd."""
    training = TrainOptions(steps=1, batch=64, rate=0.1, momentum=0.0, clip=0.0)
    here = job(federation, tier, training)
    stepper = FiarseStepper(here)
    batch = here.examples
    values, held = held_of(federation, federation.first(), tier)
    threshold = float(np.abs(values[held]).min()) if tier < 2 else 0.0

    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx, size):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(size)
            return (size >= threshold).float()

        @staticmethod
        def backward(ctx, slope):  # type: ignore[no-untyped-def]
            (size,) = ctx.saved_tensors
            return slope * (size >= threshold) * (2 * threshold / (size + threshold) ** 2).nan_to_num(0.0)

    weights = torch.from_numpy(values.copy()).requires_grad_()
    masked = weights * Kept.apply(weights.abs())  # type: ignore[no-untyped-call]
    arrays, at = {}, 0
    for name, array in ranked_arrays(stepper.module).items():
        arrays[name] = masked[at : at + array.numel()].view(array.shape)
        at += array.numel()
    scores = torch.func.functional_call(stepper.module, arrays, (batch.inputs,))
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(scores, batch.targets), [weights])
    stepper.step(batch)
    expected = np.where(held, values - 0.1 * gradient.numpy(), 0)
    np.testing.assert_allclose(flat_ranked(stepper.module), expected, atol=1e-6)


@pytest.mark.parametrize("adam", [0.0, 1.0])
def test_what_a_tier_does_not_hold_stays_zero_through_a_round(federation: Federation, adam: float) -> None:
    head = federation.first()
    _, held = held_of(federation, head, 0)
    stepper = FiarseStepper(job(federation, 0, TrainOptions(steps=1, rate=0.05, adam=adam)))
    for _ in range(5):
        stepper.step(data(5, 16))
    after = flat_ranked(stepper.module)
    assert not after[~held].any()
    assert after[held].all()


def test_deltas_are_sent_by_class_and_nothing_is_added_to_masks(federation: Federation) -> None:
    head = federation.first()
    here = job(federation, 1)
    stepper = FiarseStepper(here)
    before = flat_ranked(stepper.module)
    for _ in range(3):
        stepper.step(data(5, 16))
    gained = flat_ranked(stepper.module) - before
    update = stepper.finish().update
    layout = federation.models.layout
    classes = classes_of(held_of(federation, head, 2)[0], Ranking.of(layout).sizes)
    for p in layout.parameters:
        if p.since > 1:
            continue
        part = update[slice(*layout.place(p.name, 1))]
        if p.name.startswith("~mask"):
            assert not part.any()
        else:
            np.testing.assert_array_equal(part, gained[classes == p.since])


def test_trap_t1_and_t7_the_mean_is_over_the_holders_whether_they_moved_or_not(federation: Federation) -> None:
    head = federation.first()
    values, held = held_of(federation, head, 0)
    update = federation.update(head, 0)
    ranking = Ranking.of(federation.models.layout)
    alone = ranking.values(federation.merged(head, [(0, update)]))
    both = ranking.values(federation.merged(head, [(0, update), (0, np.zeros_like(update))]))
    assert alone[~held].tobytes() == both[~held].tobytes() == values[~held].tobytes()
    np.testing.assert_allclose(both - values, (alone - values) / 2, atol=1e-6)


def test_it_learns_in_every_tier_and_the_order_of_updates_does_not_matter(federation: Federation) -> None:
    before, after = federation.scores(federation.first()), federation.scores(federation.run(12))
    assert min(after) > 0.75
    assert min(after) > max(before) + 0.2
    assert_order_does_not_matter(federation)


def test_the_order_follows_the_training(federation: Federation) -> None:
    first, later = federation.first(), federation.run(3)
    assert not np.array_equal(held_of(federation, first, 0)[1], held_of(federation, later, 0)[1])


class Normed(nn.Module):
    """With a norm, running statistics and a layer that is not trained."""

    def __init__(self, shape: TierShape) -> None:
        super().__init__()
        width = up(16, shape)
        self.first, self.norm, self.last = nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3)
        self.first.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return scores


def test_buffers_and_norms_are_of_every_tier_and_never_zeroed() -> None:
    federation = Federation("fiarse", {}, task_of(Normed))
    layout = federation.models.layout
    shared = {p.name for p in layout.parameters if not p.name.startswith("~")}
    assert shared == {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    parts = [sum(p.numel() for p in Normed(TierShape(t.width)).parameters()) for t in TIERS]
    assert np.cumsum(Ranking.of(layout).sizes).tolist() == [n - 2 * 16 for n in parts]  # what travels is as much
    model = federation.models.build(0)
    model.put(layout.take(federation.run(2), 0).copy())
    lay(model.module, model.own)
    assert model.module.get_buffer("norm.running_var").min() > 0
    assert model.module.get_parameter("norm.weight").all()


def test_tiers_that_hold_no_more_than_others_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"tier 'b' would hold 403 ranked coordinates after 403 .*differ more"):
        Federation("fiarse", {}, task_of(mlp), (Tier("a", 1.0), Tier("b", 1.0)), [(0, data(1))])
    with pytest.raises(LayoutError, match="names an architecture"):
        Federation("fiarse", {}, task_of(mlp), (Tier("a", 0.5), Tier("b", 1.0, 0, "other")), [(0, data(1))])


def test_a_width_that_a_layer_does_not_allow_is_refused_by_the_layers_name() -> None:
    def build(shape: TierShape) -> nn.Module:
        return nn.Sequential(nn.Linear(4, up(8, shape)), nn.GroupNorm(4, up(8, shape)), nn.Linear(up(8, shape), 3))

    with pytest.raises(LayoutError, match=r"GroupNorm at .* tier 'small' cannot be built.*fix the channels per group"):
        Federation("fiarse", {}, task_of(build))


def test_the_same_seed_gives_the_same_first_version(federation: Federation) -> None:
    models = federation.models
    assert models.initial(4).tobytes() == models.initial(4).tobytes() != models.initial(5).tobytes()
