"""A tier inside a larger module computes and learns what it does alone: for every kind of layer."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mhfl_mq.segments import Layout, Packer, Tier, Vector
from mhfl_mq.train.derive import TierShape, layout_arrays
from mhfl_mq.train.model import TaskModels, arrays_of
from mhfl_mq.train.submodel import SubModels
from mhfl_mq.train.task import Examples, Task

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

Build = Callable[[TierShape], nn.Module]
Zoo = dict[str, tuple[Build, Tensor]]
TIERS = (Tier("small", 0.25, 1), Tier("middle", 0.5, 2), Tier("large", 1.0, 2))


def no_data(shard: str, folder: object) -> Examples:
    raise AssertionError


def models_of(build: Build, sample: Tensor, tiers: tuple[Tier, ...] = TIERS) -> TaskModels:
    return TaskModels(Task("any", build, no_data, sample=lambda: sample), tiers)


def gradient(layout: Layout, tier: int, module: nn.Module) -> Vector:
    """The gradients of a module as a vector; 0 where nothing arrived."""
    arrays: Mapping[str, Tensor] = layout_arrays(module)
    zeros = {name: torch.zeros_like(array) if array.grad is None else array.grad for name, array in arrays.items()}
    return Packer(layout, tier).gather({name: array.contiguous().numpy() for name, array in zeros.items()})


def assert_same(models: TaskModels, large: int, small: int, inputs: Tensor, seed: int, *, training: bool) -> None:
    torch.manual_seed(seed)
    layout = models.layout
    module, own = models.build(large).module.train(training), models.build(small)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) / max(1, p[0].numel() if p.ndim > 1 else 1) ** 0.5)
    own.put(Packer(layout, small, model=large).gather(arrays_of(module)))
    own.module.train(training)
    inside = SubModels(models, large, module)
    results = []
    for run in (own.module, lambda x: inside.call(small, x)):
        torch.manual_seed(seed)  # the same units are dropped
        result = run(inputs)
        (result * torch.linspace(-1, 2, result.numel()).view_as(result)).sum().backward()
        results.append(result.detach())
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)
    alone, together = gradient(layout, small, own.module), gradient(layout, large, module)
    reach = layout.lengths[small]
    scale = float(np.abs(alone).max()) + 1.0
    np.testing.assert_allclose(together[:reach], alone, rtol=1e-4, atol=1e-6 * scale)
    assert not together[reach:].any()
    if not training:
        with torch.no_grad():  # torch has other ways to compute without gradients
            torch.testing.assert_close(inside.call(small, inputs), own.module(inputs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_a_tier_inside_a_larger_one_computes_and_learns_what_its_own_model_does(
    kind: str, zoo: Zoo, training: bool
) -> None:
    build, sample = zoo[kind]
    models = models_of(build, sample)
    for large, small in ((2, 0), (2, 1), (1, 0)):
        assert_same(models, large, small, sample, seed=large + small, training=training)


@settings(max_examples=20, deadline=None)
@given(
    data=st.data(),
    widths=st.lists(st.sampled_from((0.25, 0.5, 0.75, 1.0)), min_size=2, max_size=3, unique=True).map(sorted),
    deep=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_so_it_does_at_any_widths_and_depths(
    zoo: Zoo, data: st.DataObject, widths: list[float], deep: int, seed: int
) -> None:
    build, sample = zoo[data.draw(st.sampled_from(sorted(zoo)))]
    tiers = tuple(Tier(f"t{k}", width, 1 if k < deep else 2) for k, width in enumerate(widths))
    small = data.draw(st.integers(0, len(tiers) - 2))
    assert_same(models_of(build, sample, tiers), len(tiers) - 1, small, sample, seed, training=False)


def test_the_slices_are_what_the_packer_takes_out_of_the_large_model(kind: str, zoo: Zoo) -> None:
    models = models_of(*zoo[kind])
    module = models.build(2).module
    inside = SubModels(models, 2, module)
    for k in range(3):
        slices = {n: t.detach().contiguous().numpy() for n, t in inside.sliced(k).items()}
        assert list(slices) == list(arrays_of(models.build(k).module))
        expected = Packer(models.layout, k, model=2).gather(arrays_of(module))
        assert np.array_equal(Packer(models.layout, k).gather(slices), expected)
