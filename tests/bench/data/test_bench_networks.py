"""The benchmark's networks nest in width, in depth and in both; the unrelated ones agree in their features alone."""

import pytest
import torch
from torch import nn

from mhfl_mq.bench.data import BENCH_SETS, BenchSet, find_set
from mhfl_mq.bench.data.foreign import FEATURES, ForeignNet
from mhfl_mq.errors import TaskError
from mhfl_mq.segments import Tier
from mhfl_mq.train.derive import TierShape, derive_layout

WIDTHS = (Tier("small", 0.125), Tier("middle", 0.5), Tier("large", 1.0))
DEPTHS = (Tier("small", 1.0, 1), Tier("middle", 1.0, 2), Tier("large", 1.0, 4))
BOTH = (Tier("small", 0.125, 1), Tier("middle", 0.5, 2), Tier("large", 1.0, 4))


def inputs(bench_set: BenchSet, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *bench_set.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("exits", [False, True])
@pytest.mark.parametrize("tiers", [WIDTHS, DEPTHS, BOTH], ids=["width", "depth", "both"])
@pytest.mark.parametrize("name", ["wind", "hydraulic-valve"])
def test_tiers_of_a_series_nest(name: str, tiers: tuple[Tier, ...], exits: bool) -> None:
    bench_set = find_set(name)
    layout = derive_layout(
        lambda shape: bench_set.model(TierShape(shape.width, shape.depth, exits)), tiers, sample=inputs(bench_set)
    )
    assert list(layout.lengths) == sorted(set(layout.lengths))


@pytest.mark.parametrize(("tiers", "exits"), [(WIDTHS, False), (DEPTHS, True), (BOTH, True)], ids=str)
def test_tiers_of_a_picture_nest(tiers: tuple[Tier, ...], exits: bool) -> None:
    bench_set = find_set("fashion-mnist")
    layout = derive_layout(
        lambda shape: bench_set.model(TierShape(shape.width, shape.depth, exits)), tiers, sample=inputs(bench_set)
    )
    assert list(layout.lengths) == sorted(set(layout.lengths))


def test_the_network_of_pictures_has_heterofls_channels() -> None:
    convolutions = [m for m in find_set("fashion-mnist").model(TierShape()).modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512]


@pytest.mark.parametrize("bench_set", BENCH_SETS, ids=[one.name for one in BENCH_SETS])
def test_unrelated_networks_give_scores_of_equally_many_features(bench_set: BenchSet) -> None:
    sizes = set()
    for build in bench_set.architectures.values():
        network = build()
        assert isinstance(network, ForeignNet)
        assert network.body(inputs(bench_set)).shape == (2, FEATURES)
        assert network(inputs(bench_set)).shape == (2, bench_set.classes)
        sizes.add(sum(parameter.numel() for parameter in network.parameters()))
    assert len(sizes) == 3


def test_a_depth_that_a_network_has_not_is_refused() -> None:
    with pytest.raises(TaskError, match="a depth of 5"):
        find_set("wind").model(TierShape(1.0, 5))
    with pytest.raises(TaskError, match="a depth of 2 without exits"):
        find_set("fashion-mnist").model(TierShape(1.0, 2))


def test_a_width_between_groups_is_rounded_and_never_zero() -> None:
    for width, channels in ((1e-6, 2), (0.04, 2), (0.06, 4), (1.0, 64)):
        stem = find_set("wind").model(TierShape(width)).get_submodule("stem.0")
        assert isinstance(stem, nn.Conv1d)
        assert stem.out_channels == channels
