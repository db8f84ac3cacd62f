"""A network with a head after every block, or one at the end: what it computes, and that its sizes nest."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError, TaskError
from mhfl_mq.segments import Tier
from mhfl_mq.train.derive import TierShape, derive_layout, layout_arrays
from mhfl_mq.train.exits import ExitNet

DEPTHS = (Tier("one", 1.0, 1), Tier("two", 1.0, 2), Tier("three", 1.0, 3))
WIDTHS = (Tier("small", 0.25), Tier("large", 1.0))
BOTH = (Tier("small", 0.25, 1), Tier("middle", 0.5, 2), Tier("large", 1.0, 3))
SAMPLE = torch.rand(2, 2, 8)


def conv(into: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv1d(into, out, 3, padding=1), nn.GroupNorm(out // 2, out), nn.ReLU())


def head(features: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(2 * features, 3))


def growing(s: TierShape) -> ExitNet:
    """Blocks of more and more channels, so each needs a head of its own."""
    sizes = [int(8 * s.width), *(int(c * s.width) for c in (8, 16, 24)[: s.depth or 3])]
    blocks = [conv(a, b) for a, b in pairwise(sizes)]
    heads = [head(size) for size in sizes[1:]] if s.exits else [head(sizes[-1])]
    return ExitNet(conv(2, sizes[0]), blocks, heads)


def steady(s: TierShape) -> ExitNet:
    """Blocks that keep the number of channels, so that one head fits after any of them."""
    size, deep = int(8 * s.width), s.depth or 3
    return ExitNet(
        conv(2, size), [conv(size, size) for _ in range(deep)], [head(size) for _ in range(deep if s.exits else 1)]
    )


def with_exits(s: TierShape) -> ExitNet:
    return growing(replace(s, exits=True))


# ---- what it computes -----------------------------------------------------------------------------------------


def test_the_last_exit_is_the_models_own_output_and_what_its_head_makes_of_the_features() -> None:
    net = with_exits(TierShape())
    every = net.exits(SAMPLE)
    assert [tuple(scores.shape) for scores in every] == [(2, 3)] * 3
    assert torch.equal(every[-1], net(SAMPLE))
    assert torch.equal(every[-1], net.heads[-1](net.features(SAMPLE)))


def test_an_exit_is_the_output_of_the_shallower_network_of_the_same_arrays() -> None:
    deep = with_exits(TierShape())
    for depth in (1, 2):
        shallow = with_exits(TierShape(1.0, depth))
        shallow.load_state_dict({n: t for n, t in deep.state_dict().items() if n in shallow.state_dict()})
        assert torch.equal(shallow(SAMPLE), deep.exits(SAMPLE)[depth - 1])


def test_a_single_head_is_the_only_exit() -> None:
    net = steady(TierShape())
    (scores,) = net.exits(SAMPLE)
    assert torch.equal(scores, net(SAMPLE))


@pytest.mark.parametrize(("blocks", "heads"), [(3, 2), (3, 0), (2, 3), (0, 0), (0, 1)])
def test_other_numbers_of_heads_are_refused(blocks: int, heads: int) -> None:
    with pytest.raises(TaskError, match=rf"^ExitNet: {heads} heads for {blocks} blocks; give at least one block"):
        ExitNet(nn.Identity(), [conv(4, 4)] * blocks, [head(4)] * heads)


# ---- its sizes nest -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiers", [DEPTHS, WIDTHS, BOTH], ids=["depths", "widths", "both"])
@pytest.mark.parametrize("build", [with_exits, steady, lambda s: steady(replace(s, exits=True))])
def test_a_layout_is_derived_for_depths_for_widths_and_for_both(build: object, tiers: tuple[Tier, ...]) -> None:
    assert callable(build)
    layout = derive_layout(build, tiers, sample=SAMPLE)
    for k, tier in enumerate(tiers):
        arrays = layout_arrays(build(TierShape(tier.width, tier.depth)))
        assert layout.shapes(k) == {name: tuple(array.shape) for name, array in arrays.items()}
    assert bool(layout.groups) == (tiers is not DEPTHS)


def test_the_head_of_a_block_appears_in_the_tier_that_has_the_block() -> None:
    layout = derive_layout(with_exits, DEPTHS, sample=SAMPLE)
    since = {p.name: p.since for p in layout.parameters}
    assert [since[f"heads.{k}.2.weight"] for k in range(3)] == [0, 1, 2]
    assert [since[f"blocks.{k}.0.weight"] for k in range(3)] == [0, 1, 2]


def test_running_statistics_of_a_block_are_kept_when_the_heads_before_it_are_in_every_tier() -> None:
    def build(s: TierShape) -> nn.Module:
        blocks = [nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)) for _ in range(s.depth)]
        return ExitNet(nn.Identity(), blocks, [nn.Sequential(nn.BatchNorm1d(2), head(2)) for _ in blocks])

    layout = derive_layout(build, DEPTHS, sample=SAMPLE)
    assert {"blocks.2.1.running_var", "heads.1.0.running_mean"} <= set(layout.shapes(2))


def test_one_head_after_blocks_of_several_sizes_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"heads\.0\.2\.weight.*(depth|larger)"):
        derive_layout(growing, DEPTHS, sample=SAMPLE)


class Loud(ExitNet):
    """Its first exit is as loud as it is wide: a narrower model is no part of it."""

    def exits(self, inputs: Tensor) -> list[Tensor]:
        first, *others = super().exits(inputs)
        return [first * len(next(self.stem.parameters())), *others]


def test_an_exit_that_does_not_nest_is_found_though_it_is_not_the_models_output() -> None:
    def build(s: TierShape) -> nn.Module:
        net = with_exits(s)
        return Loud(net.stem, list(net.blocks), list(net.heads))

    with pytest.raises(LayoutError, match="'small' is not the full model with its other units masked"):
        derive_layout(build, WIDTHS, sample=SAMPLE)
