"""Traps that published code fell into, each sprung on whole rounds here: sizes, data and updates as a plant has them.

Where one part alone can fall into a trap, its own tests are beside it: that a tier computes what the masked full model
computes and that units roll (`derive/test_derive_laws.py`), that untouched coordinates keep their bits and that an
update of zeros counts (`segments/test_segments_fold.py`), running statistics (`derive/test_derive_statistics.py`),
weights (`families`), and the alarm when a larger tier is worse than a smaller one (`policy/test_policy_decide.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.families import make_algorithm
from mhfl_mq.segments import Accumulator, Bounds, Tier, Vector
from mhfl_mq.train.derive import TierShape, layout_arrays
from mhfl_mq.train.loop import train_round
from mhfl_mq.train.model import TaskModels, TierModel
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import Job, Stepper
from mhfl_mq.train.steps.plain import Plain, PlainStepper
from mhfl_mq.train.task import Examples, Task, load_task

OPTIONS = TrainOptions(steps=3, batch=8)
TIERS = (Tier("small", 0.25), Tier("middle", 0.5), Tier("large", 1.0))
Norm = Callable[[int], nn.Module]


def up(channels: int, shape: TierShape) -> int:
    return ceil(channels * shape.width)


def data(shard: str, folder: object = None) -> Examples:
    inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(len(shard)))
    return Examples(inputs, inputs[:, :3].argmax(dim=1))


def task_of(model: Callable[[TierShape], nn.Module]) -> Task:
    return Task(name="trap", model=model, device_data=data, sample=lambda: torch.randn(3, 4))


def aggregated(models: TaskModels, head: Vector, updates: Sequence[tuple[int, Vector]]) -> Vector:
    """The model that HeteroFL makes of the head and these updates of tiers."""
    total = Accumulator(models.layout.lengths, Bounds(cohort=8, weight=1.0, value=1e3))
    for tier, delta in updates:
        total.fold(delta, tier, 1.0)
    new = np.empty_like(head)
    make_algorithm("heterofl").finalize(total, models.layout, head, new)
    return new


def update_of(models: TaskModels, head: Vector, tier: int, options: TrainOptions = OPTIONS) -> Vector:
    base = head[: models.layout.lengths[tier]].copy()
    return train_round(Plain(), Job(models, tier, base, data("a"), options, {}, 1, (tier,))).update


# ---- widths that a norm's groups do not allow --------------------------------------------------------------------


class Normed(nn.Module):
    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, channels), norm(channels), nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return scores


PER_GROUP = r"fix the channels per group, e\.g\. GroupNorm\(channels // 4, channels\)"
NOT_ALLOWED: dict[str, tuple[int, Norm, str]] = {
    "fewer channels than groups": (
        8,
        lambda c: nn.GroupNorm(4, c),
        r"^the model factory, GroupNorm at test_traps\.py line \d+: the model of tier 'small' .*\(2\) must be",
    ),
    "no group left": (
        8,
        lambda c: nn.GroupNorm(c // 4, c),
        r"^the model factory, GroupNorm at test_traps\.py line \d+: the model of tier 'small' cannot be built",
    ),
    "channels that are no multiple": (
        44,
        lambda c: nn.GroupNorm(c // 4, c),
        r"^the model factory, GroupNorm at test_traps\.py line \d+: the model of tier 'small' .*\(11\) must be",
    ),
    "as many groups in each tier": (8, lambda c: nn.GroupNorm(2, c), r"^norm: .* do not nest: \[1, 2, 4\]"),
    "groups of unlike size that torch takes": (
        24,
        lambda c: nn.GroupNorm(c // 4, c),
        r"^norm: .* do not nest: \[4, 6\] channels per group",
    ),
}


@pytest.mark.parametrize("case", NOT_ALLOWED)
def test_widths_that_break_a_norms_groups_are_refused_with_the_layer_and_what_to_do(case: str) -> None:
    channels, norm, said = NOT_ALLOWED[case]
    with pytest.raises(LayoutError, match=f"{said}.*{PER_GROUP}"):
        TaskModels(task_of(lambda s: Normed(up(channels, s), norm)), TIERS)


def test_heads_that_do_not_divide_a_tiers_width_are_named_too() -> None:
    def build(shape: TierShape) -> nn.Module:
        return nn.Sequential(nn.Linear(4, up(10, shape)), nn.MultiheadAttention(up(10, shape), 2))

    said = r"^the model factory, MultiheadAttention at test_traps\.py line \d+: .* 'small' .*multiple of the number of"
    with pytest.raises(LayoutError, match=said):
        TaskModels(task_of(build), TIERS)


def test_groups_of_a_fixed_size_nest_and_a_narrow_tier_is_what_the_wide_one_masks() -> None:
    models = TaskModels(task_of(lambda s: Normed(up(16, s), lambda c: nn.GroupNorm(c // 4, c))), TIERS)
    head = models.initial(0)
    small, large = models.build(0), models.build(2)
    small.put(head[: models.layout.lengths[0]].copy())
    masked = head.copy()
    masked[models.layout.lengths[0] :] = 0
    large.put(masked)
    inputs = data("a").inputs
    with torch.no_grad():
        torch.testing.assert_close(small.module(inputs), large.module(inputs))


# ---- what counts, and what stays ---------------------------------------------------------------------------------


def mlp(shape: TierShape) -> nn.Module:
    return nn.Sequential(nn.Linear(4, up(8, shape)), nn.ReLU(), nn.Linear(up(8, shape), 3))


def test_a_device_whose_training_moves_nothing_still_counts() -> None:
    """Counting the coordinates that moved (FIARSE's released code) would give the other device's step in full."""
    models = TaskModels(task_of(mlp), TIERS)
    head = models.initial(0)
    moved = update_of(models, head, 2)
    still = TaskModels(replace(models.task, loss=lambda outputs, targets: 0.0 * outputs.sum()), TIERS)
    nothing = update_of(still, head, 2)
    assert not nothing.any()
    np.testing.assert_allclose(aggregated(models, head, [(2, moved), (2, nothing)]), head + moved / 2, atol=1e-7)


def test_what_only_absent_tiers_hold_is_neither_zeroed_nor_shrunk() -> None:
    """Averaging full arrays in which a small tier's missing units are zeros (a library's HeteroFL) would do that."""
    models = TaskModels(task_of(mlp), TIERS)
    head = models.initial(0)
    new = aggregated(models, head, [(0, update_of(models, head, 0)), (1, update_of(models, head, 1))])
    shared, large = models.layout.lengths[1], models.layout.lengths[2]
    assert new[shared:large].tobytes() == head[shared:].tobytes()
    assert not np.array_equal(new[:shared], head[:shared])


class On(Plain):
    """Plain training of a model that can be looked at."""

    def __init__(self, model: TierModel) -> None:
        self.model = model

    def begin(self, job: Job) -> Stepper:
        return PlainStepper(job, self.model)


def test_a_count_of_batches_stays_a_whole_number_of_its_device() -> None:
    """Through a float mean it would be rounded from 2**24 on, and no optimizer would accept the type."""
    task = task_of(lambda s: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    models = TaskModels(task, [Tier("all")])
    head = models.initial(0)
    model = models.build(0)
    assert "1.num_batches_tracked" not in layout_arrays(model.module)
    counter = model.module.get_buffer("1.num_batches_tracked")
    counter += 2**24 + 1
    delta = train_round(On(model), Job(models, 0, head, data("a"), OPTIONS, {}, 1)).update
    assert counter.dtype == torch.int64
    assert int(counter) == 2**24 + 1 + OPTIONS.steps
    assert delta.size == sum(p.numel() for p in model.module.parameters()) + 2 * 8
    model.put(aggregated(models, head, [(0, delta)]))
    assert int(counter) == 2**24 + 1 + OPTIONS.steps


def test_a_tier_of_the_demo_computes_deployed_what_it_computed_in_training() -> None:
    """A scaler that is left out after training (HeteroFL's released code) ruins small tiers without batch norm."""
    task = load_task("wind")
    assert task.sample is not None
    sample = task.sample()
    for width in (0.25, 0.5, 1.0):
        torch.manual_seed(0)
        module = task.model(TierShape(width))
        inputs = sample if isinstance(sample, tuple) else (sample,)
        with torch.no_grad():
            torch.testing.assert_close(module.train()(*inputs), module.eval()(*inputs), rtol=0, atol=0)
