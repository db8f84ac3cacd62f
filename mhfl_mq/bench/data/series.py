"""The network for series of measurements: four 1-D convolution blocks that nest in width, in depth, and in both.

A normalisation over the steps of one series takes away the level that the series is at, and with two channels in a
group nearly all of it. Where the level says most (wind speed), the stem is not normalised and every block adds to what
it gets (He et al., CVPR 2016), so that the level comes through: small tiers gain most. Where the shape says most (a
pressure's transients in a load cycle), the full network learns better without.
"""

from typing import Final

from torch import Tensor, nn

from mhfl_mq.errors import TaskError
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet

__all__ = ["BLOCKS", "CHANNELS", "CHANNELS_PER_NORM", "blocks_of", "norm", "series_model", "whole_groups"]

CHANNELS: Final = 64
"""Channels of all blocks of the full network; its stem has as many, or half of them."""

BLOCKS: Final = 4
STRIDES: Final = (2, 2, 1, 1)
CHANNELS_PER_NORM: Final = 2
"""Channels of one normalisation group. Fixed, so that a narrower model's groups are the first groups of a wider one."""


class SkipBlock(nn.Module):
    """Convolution and normalisation beside a skip; with a stride of 2 both halve the steps."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, stride=stride)
        self.norm = norm(channels)
        self.act = nn.ReLU()
        self.skip = nn.AvgPool1d(stride) if stride > 1 else nn.Identity()

    def forward(self, series: Tensor) -> Tensor:
        """Series (n, channels, steps) -> (n, channels, steps / stride)."""
        new: Tensor = self.act(self.norm(self.conv(series)))
        kept: Tensor = self.skip(series)
        return new + kept


def series_model(shape: tuple[int, int], classes: int, level: bool, tier: TierShape) -> ExitNet:
    """A tier's network for series of `shape` (channels, steps); its width is rounded to whole normalisation groups.

    `level`: the level of a series comes through to the head. All blocks give equally many channels, so that without
    exits the one head fits behind any of them.
    """
    depth = blocks_of(tier, BLOCKS)
    wide = whole_groups(tier.width * CHANNELS)
    heads = [_head(wide, classes) for _ in range(depth if tier.exits else 1)]
    if level:
        stem = nn.Sequential(nn.Conv1d(shape[0], wide, 3, padding=1), nn.ReLU())
        return ExitNet(stem, [SkipBlock(wide, stride) for stride in STRIDES[:depth]], heads)
    half = whole_groups(tier.width * CHANNELS / 2)
    blocks = [_plain(wide if k else half, wide, stride) for k, stride in enumerate(STRIDES[:depth])]
    return ExitNet(_plain(shape[0], half, 1), blocks, heads)


def blocks_of(tier: TierShape, blocks: int) -> int:
    """How many blocks a tier has: all where its depth is 0."""
    if not 0 <= tier.depth <= blocks:
        raise TaskError(f"a depth of {tier.depth}", where="a benchmark's network", remedy=f"it has {blocks} blocks")
    return tier.depth or blocks


def whole_groups(channels: float) -> int:
    """A number of channels, rounded to whole normalisation groups; one group at least."""
    return max(round(channels / CHANNELS_PER_NORM), 1) * CHANNELS_PER_NORM


def norm(channels: int) -> nn.GroupNorm:
    """A normalisation whose groups nest."""
    return nn.GroupNorm(channels // CHANNELS_PER_NORM, channels)


def _plain(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(inputs, outputs, 3, padding=1, stride=stride), norm(outputs), nn.ReLU())


def _head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes))
