"""The golden check's two networks as plain arithmetic over named arrays, and what a device may hold of them.

Nothing here knows tiers as prefixes of a vector. A sub-network is a list of channels for each of the two streams of the
CNN, written out as one list of indices for every axis of every array, by hand and for this one CNN.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Arrays = dict[str, npt.NDArray[np.floating]]
Masks = dict[str, npt.NDArray[np.bool_]]

SIDE = 8  # images of one channel, 8 x 8
CLASSES = 4
PER_GROUP = 2  # channels of each group of a GroupNorm, in every width: so that norms nest

# ---- the CNN of the width family -------------------------------------------------------------------------------
#
#   conv1 norm1 relu pool | x + norm2(conv2(x)) relu | conv3 norm3 relu pool | flatten linear
#
# conv1, norm1, conv2 and norm2 share the stream A (a residual sum), conv3 and norm3 the stream B.

STREAM_A, STREAM_B = 8, 16
PIXELS = (
    SIDE // 4
) ** 2  # of each channel where it is flattened: channel c becomes features c * PIXELS + (0..PIXELS-1)


@dataclass(frozen=True, slots=True)
class Window:
    """The channels of both streams that a sub-network has, in the order in which it has them."""

    a: tuple[int, ...]
    b: tuple[int, ...]


def kept(channels: int, width: float) -> int:
    """How many channels a width keeps: rounded up (HeteroFL's released code)."""
    return math.ceil(channels * width)


def prefix(width: float) -> Window:
    """HeteroFL (Diao et al., ICLR 2021) and FjORD (Horvath et al., NeurIPS 2021): the first channels of each layer."""
    return Window(tuple(range(kept(STREAM_A, width))), tuple(range(kept(STREAM_B, width))))


def rolling(channels: int, width: float, offset: int) -> tuple[int, ...]:
    """FedRolex (Alam et al., NeurIPS 2022): as many channels from `offset` on, around the end."""
    return tuple((offset + i) % channels for i in range(kept(channels, width)))


def rolled(width: float, offset_a: int, offset_b: int) -> Window:
    """The window of one FedRolex round: one offset for all layers of a stream, or its residual sum would not match."""
    for offset in (offset_a, offset_b):
        if offset % PER_GROUP:
            raise ValueError(f"an offset of {offset} would cut the groups of {PER_GROUP} of the norms")
    return Window(rolling(STREAM_A, width, offset_a), rolling(STREAM_B, width, offset_b))


def indices(window: Window) -> dict[str, tuple[list[int], ...]]:
    """For each array of the CNN and each of its axes, the indices that a sub-network has."""
    a, b, kernel = list(window.a), list(window.b), [0, 1, 2]
    flat = [channel * PIXELS + pixel for channel in b for pixel in range(PIXELS)]
    return {
        "conv1.weight": (a, [0], kernel, kernel),
        "conv1.bias": (a,),
        "norm1.weight": (a,),
        "norm1.bias": (a,),
        "conv2.weight": (a, a, kernel, kernel),
        "conv2.bias": (a,),
        "norm2.weight": (a,),
        "norm2.bias": (a,),
        "conv3.weight": (b, a, kernel, kernel),
        "conv3.bias": (b,),
        "norm3.weight": (b,),
        "norm3.bias": (b,),
        "linear.weight": (list(range(CLASSES)), flat),
        "linear.bias": (list(range(CLASSES)),),
    }


def cnn(arrays: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Class scores (n, CLASSES) of the CNN, or of any sub-network of it, for images (n, 1, SIDE, SIDE)."""
    x = functional.conv2d(inputs, arrays["conv1.weight"], arrays["conv1.bias"], padding=1)
    x = functional.relu(_norm(x, arrays["norm1.weight"], arrays["norm1.bias"]))
    x = functional.max_pool2d(x, 2)
    y = functional.conv2d(x, arrays["conv2.weight"], arrays["conv2.bias"], padding=1)
    x = functional.relu(x + _norm(y, arrays["norm2.weight"], arrays["norm2.bias"]))
    x = functional.conv2d(x, arrays["conv3.weight"], arrays["conv3.bias"], padding=1)
    x = functional.relu(_norm(x, arrays["norm3.weight"], arrays["norm3.bias"]))
    x = functional.max_pool2d(x, 2)
    return functional.linear(x.flatten(1), arrays["linear.weight"], arrays["linear.bias"])


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.group_norm(x, x.shape[1] // PER_GROUP, weight, bias)


def extract(arrays: Arrays, window: Window) -> Arrays:
    """The sub-network's own arrays."""
    return {name: arrays[name][np.ix_(*lists)].copy() for name, lists in indices(window).items()}


def put_back(part: Arrays, window: Window, shapes: Arrays) -> Arrays:
    """Arrays of the full shapes with the sub-network's numbers in their places, zero elsewhere."""
    full = {name: np.zeros_like(array) for name, array in shapes.items()}
    for name, lists in indices(window).items():
        full[name][np.ix_(*lists)] = part[name]
    return full


def masks(window: Window, shapes: Arrays) -> Masks:
    """True for every coordinate of the full arrays that the sub-network has."""
    found = {name: np.zeros(array.shape, bool) for name, array in shapes.items()}
    for name, lists in indices(window).items():
        found[name][np.ix_(*lists)] = True
    return found


def narrowed(arrays: Mapping[str, Tensor], window: Window) -> dict[str, Tensor]:
    """The same as `extract` for tensors, so that gradients find their way back into the wider arrays."""
    found = {}
    for name, lists in indices(window).items():
        part = arrays[name]
        for axis, wanted in enumerate(lists):
            part = part.index_select(axis, torch.tensor(wanted))
        found[name] = part
    return found


# ---- the network with exits of the depth family -----------------------------------------------------------------
#
#   stem: conv norm relu | three blocks: conv norm relu pool | after each block an exit: flatten linear

BLOCKS = 3


def depth_names(depth: int) -> tuple[str, ...]:
    """The arrays of the network with `depth` blocks and their exits: a deeper one has those of a shallower by name."""
    names = ["stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"]
    for block in range(depth):
        names += [f"blocks.{block}.0.weight", f"blocks.{block}.0.bias"]
        names += [f"blocks.{block}.1.weight", f"blocks.{block}.1.bias"]
        names += [f"heads.{block}.1.weight", f"heads.{block}.1.bias"]
    return tuple(names)


def exits(arrays: Mapping[str, Tensor], depth: int, inputs: Tensor) -> list[Tensor]:
    """The class scores of each exit, shallow first."""
    x = functional.conv2d(inputs, arrays["stem.0.weight"], arrays["stem.0.bias"], padding=1)
    x = functional.relu(_norm(x, arrays["stem.1.weight"], arrays["stem.1.bias"]))
    scores = []
    for i in range(depth):
        x = functional.conv2d(x, arrays[f"blocks.{i}.0.weight"], arrays[f"blocks.{i}.0.bias"], padding=1)
        x = functional.relu(_norm(x, arrays[f"blocks.{i}.1.weight"], arrays[f"blocks.{i}.1.bias"]))
        x = functional.max_pool2d(x, 2)
        scores.append(functional.linear(x.flatten(1), arrays[f"heads.{i}.1.weight"], arrays[f"heads.{i}.1.bias"]))
    return scores
