"""The network for series of measurements: four 1-D convolution blocks that nest in width, in depth, and in both.

Every block adds to what it gets (He et al., CVPR 2016), and the stem is not normalised. A normalisation over the steps
of one series takes away the level that the series is at, and with two channels in a group nearly all of it: around the
normalisations the level (wind speed, pressure) comes through. Small tiers gain most by it.
"""

from typing import Final

from torch import Tensor, nn

from mhfl_mq.errors import TaskError
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet

__all__ = ["BLOCKS", "CHANNELS", "CHANNELS_PER_NORM", "blocks_of", "norm", "series_model", "whole_groups"]

CHANNELS: Final = 64
"""Channels of the full network, in its stem and all of its blocks."""

BLOCKS: Final = 4
STRIDES: Final = (2, 2, 1, 1)
CHANNELS_PER_NORM: Final = 2
"""Channels of one normalisation group. Fixed, so that a narrower model's groups are the first groups of a wider one."""


class Block(nn.Module):
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


def series_model(shape: tuple[int, int], classes: int, tier: TierShape) -> ExitNet:
    """A tier's network for series of `shape` (channels, steps); its width is rounded to whole normalisation groups.

    All blocks give equally many channels, so that without exits the one head fits behind any of them.
    """
    depth = blocks_of(tier, BLOCKS)
    wide = whole_groups(tier.width * CHANNELS)
    stem = nn.Sequential(nn.Conv1d(shape[0], wide, 3, padding=1), nn.ReLU())
    blocks = [Block(wide, stride) for stride in STRIDES[:depth]]
    heads = [_head(wide, classes) for _ in range(depth if tier.exits else 1)]
    return ExitNet(stem, blocks, heads)


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


def _head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes))
