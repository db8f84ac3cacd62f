"""Plain averaging works for any model whose arrays do not vary; running statistics are judged by what feeds them."""

from math import ceil

import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis, Tier
from mhfl_mq.train.derive import TierShape, derive_layout

ONE = (Tier("all"),)
DEPTHS = (Tier("shallow", 1.0, 1), Tier("deep", 1.0, 2))
WIDTHS = (Tier("small", 0.25), Tier("large", 1.0))


def up(channels: int, shape: TierShape) -> int:
    return ceil(channels * shape.width)


class Blocks(nn.Module):
    """A stem, blocks of which a tier has some, a head; norms with running statistics where it is said."""

    def __init__(self, s: TierShape, *, last: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)) for _ in range(s.depth or 2))
        self.last = nn.BatchNorm1d(4) if last else nn.Identity()
        self.head = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.last(x))  # type: ignore[no-any-return]


def strange(s: TierShape) -> nn.Module:
    """Layers that could not be cut: none of them has to be."""
    return nn.Sequential(nn.ConvTranspose1d(4, 8, 2, groups=2), nn.GroupNorm(2, 8), nn.BatchNorm1d(8), nn.Flatten())


def test_one_tier_takes_any_layer_and_its_running_statistics() -> None:
    layout = derive_layout(strange, ONE)
    assert not layout.groups
    names = [p.name for p in layout.parameters]
    assert {"2.running_mean", "2.running_var"} <= set(names)
    assert "2.num_batches_tracked" not in names  # whole numbers never go through a mean


def test_tiers_of_several_depths_average_statistics_of_what_all_of_them_have_before() -> None:
    layout = derive_layout(Blocks, DEPTHS, sample=torch.rand(2, 2, 5))
    assert not layout.groups
    assert layout.lengths[0] < layout.lengths[1]


def test_statistics_after_blocks_that_a_tier_lacks_are_refused() -> None:
    said = r"^last: BatchNorm1d with running statistics: .* for 'shallow' lacks blocks\.1\.0\.weight; use GroupNorm"
    with pytest.raises(LayoutError, match=said):
        derive_layout(lambda s: Blocks(s, last=True), DEPTHS, sample=torch.rand(2, 2, 5))


def fed_by_widths(s: TierShape) -> nn.Module:
    return nn.Sequential(nn.Linear(4, up(8, s)), nn.ReLU(), nn.Linear(up(8, s), 3), nn.BatchNorm1d(3))


def before_widths(s: TierShape) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, up(8, s)), nn.ReLU(), nn.Linear(up(8, s), 3))


def test_statistics_of_fixed_size_are_refused_behind_layers_that_vary_and_kept_before_them() -> None:
    with pytest.raises(LayoutError, match=r"^3: BatchNorm1d .* for 'small' has narrower 0\.weight"):
        derive_layout(fed_by_widths, WIDTHS, sample=torch.rand(3, 4))
    layout = derive_layout(before_widths, WIDTHS, sample=torch.rand(3, 4))
    assert layout.groups == {"1.weight[0]": (2, 8)}


def test_annotations_do_not_make_statistics_comparable() -> None:
    def build(s: TierShape) -> nn.Module:
        return nn.Sequential(nn.Linear(4, up(8, s)), nn.BatchNorm1d(up(8, s)), nn.Linear(up(8, s), 2))

    h = Axis(8, 1, 1, "h")
    said = {f"1.{n}": (h,) for n in ("weight", "bias", "running_mean", "running_var")}
    with pytest.raises(LayoutError, match=r"^1: BatchNorm1d with running statistics"):
        derive_layout(build, WIDTHS, sample=torch.rand(3, 4), annotations=said)
