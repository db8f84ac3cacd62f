"""The network for small pictures: HeteroFL's MNIST network, 64-128-256-512 channels, with GroupNorm that nests."""

from typing import Final

from torch import nn

from mhfl_mq.bench.data.series import blocks_of, norm, whole_groups
from mhfl_mq.errors import TaskError
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet

__all__ = ["CHANNELS", "picture_model"]

CHANNELS: Final = (64, 128, 256, 512)
"""Channels of the full network's blocks (Diao, Ding, Tarokh: HeteroFL, ICLR 2021)."""


def picture_model(tier: TierShape) -> ExitNet:
    """A tier's network for pictures (1, 28, 28) of ten classes.

    3x3 convolutions, normalisation and halving; the last block does not halve. Each block is wider than the one before
    it, so a tier that is less deep needs exits: its head fits no other block's.
    """
    depth = blocks_of(tier, len(CHANNELS))
    if depth < len(CHANNELS) and not tier.exits:
        what = f"a depth of {depth} without exits"
        remedy = "take an algorithm with exits, or tiers that differ in width only"
        raise TaskError(what, where="the network of fashion-mnist", remedy=remedy)
    wide = [whole_groups(tier.width * channels) for channels in CHANNELS[:depth]]
    blocks = [_block(before, after, k) for k, (before, after) in enumerate(zip([1, *wide], wide, strict=False))]
    heads = [_head(channels) for channels in (wide if tier.exits else wide[-1:])]
    return ExitNet(nn.Identity(), blocks, heads)


def _block(inputs: int, outputs: int, place: int) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), norm(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if place < len(CHANNELS) - 1 else []))


def _head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
