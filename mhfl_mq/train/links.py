"""From a block in the middle of a network straight to its head: what a device does that never holds the blocks after.

A link has no parameters. Where a block gives features of the size that the head takes, it is nothing; where the size
differs, places are left out at even steps and missing channels are zeros on both sides, as in FeDepth (Zhang et al.
2023, the shortcut A of He et al. 2016); steps are as even as they can be where the places do not divide.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from mhfl_mq.errors import TaskError
from mhfl_mq.train.exits import ExitNet

__all__ = ["check_links", "feature_shape", "link"]


def feature_shape(net: ExitNet, *inputs: Tensor) -> tuple[int, ...]:
    """What the head gets of one example; the network is then in evaluation mode."""
    net.eval()  # a forward pass here must not be counted in running statistics
    with torch.no_grad():
        return tuple(net.features(*inputs).shape[1:])


def link(features: Tensor, shape: tuple[int, ...], block: int) -> Tensor:
    """Features (n, channels, places ...) of a block (from 0) in the shape (channels, places ...) that the head takes.

    Raises `TaskError` where that cannot be done.
    """
    have = tuple(features.shape[1:])
    if have == shape:
        return features
    fits = len(have) == len(shape) > 0 and have[0] <= shape[0]
    if not fits or any(here < there for here, there in zip(have[1:], shape[1:], strict=True)):
        raise TaskError(
            f"it gives features {have}, which cannot be brought to the head's {shape}",
            where=f"blocks.{block}",
            remedy="let blocks keep the size of their features, or from block to block add channels and leave places "
            "out, never the other way",
        )
    for axis, (here, there) in enumerate(zip(have[1:], shape[1:], strict=True), 2):
        if here != there:
            features = features.index_select(axis, torch.arange(there) * here // there)
    missing = shape[0] - have[0]
    ends = [missing // 2, missing - missing // 2]  # of the channels; `pad` counts axes from the last one
    return pad(features, [0, 0] * (len(shape) - 1) + ends)


def check_links(net: ExitNet, sample: Tensor, after: Iterable[int]) -> None:
    """Raise `TaskError` for a block (of those numbers, from 0) from which there is no way to the head."""
    shape, asked = feature_shape(net, sample), set(after)
    with torch.no_grad():
        x: Tensor = net.stem(sample)
        for number, block in enumerate(net.blocks):
            x = block(x)
            if number in asked:
                link(x, shape, number)
