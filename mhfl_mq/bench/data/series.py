"""The network for series of measurements: four 1-D convolution blocks that nest in width, in depth, and in both."""

from typing import Final

from torch import nn

from mhfl_mq.errors import TaskError
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet

__all__ = ["BASE", "BLOCKS", "CHANNELS_PER_NORM", "blocks_of", "norm", "series_model", "whole_groups"]

BASE: Final = 32
"""Channels of the full network's stem; its blocks have twice as many."""

BLOCKS: Final = 4
STRIDES: Final = (2, 2, 1, 1)
CHANNELS_PER_NORM: Final = 2
"""Channels of one normalisation group. Fixed, so that a narrower model's groups are the first groups of a wider one."""


def series_model(shape: tuple[int, int], classes: int, tier: TierShape) -> ExitNet:
    """A tier's network for series of `shape` (channels, steps); its width is rounded to whole normalisation groups.

    All blocks give equally many channels, so that without exits the one head fits behind any of them.
    """
    depth = blocks_of(tier, BLOCKS)
    stem = whole_groups(tier.width * BASE)
    wide = 2 * stem
    blocks = [_block(stem if k == 0 else wide, wide, STRIDES[k]) for k in range(depth)]
    heads = [_head(wide, classes) for _ in range(depth if tier.exits else 1)]
    return ExitNet(_block(shape[0], stem, 1), blocks, heads)


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


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(inputs, outputs, 3, padding=1, stride=stride), norm(outputs), nn.ReLU())


def _head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes))
