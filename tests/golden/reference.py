"""One round of four algorithms, plainly and slowly, from the papers' rules: what the fast way is held against.

Everything is a full-size array by name, and a mask that says which coordinates a device holds. No part of mhfl_mq is
used. The rules:

HeteroFL   Diao, Ding, Tarokh, ICLR 2021, equation 3: a device holds the first channels of each layer; a coordinate
           becomes the unweighted mean over the devices that hold it. Without the scaler and the masked cross-entropy.
FedRolex   Alam et al., NeurIPS 2022: the same with a window that advances from round to round, around the end of each
           layer, at the same place for all devices of a round. (The released code rolls the other way round.)
FjORD      Horvath et al., NeurIPS 2021: each minibatch trains the sub-network of a width drawn from those
           up to the device's own; with self-distillation the device's widest network learns from the labels and the
           drawn one from its scores (temperature 1). A coordinate becomes the mean over its holders, by samples.
DepthFL    Kim et al., ICLR 2023: a device holds the first blocks and their exits; every exit learns
           from the labels and, `mutual` times, from each other exit (KL divergence, temperature 1); arrays are averaged
           over the devices that have them; the answer is the mean of the exits' scores.

A coordinate that nobody holds keeps its value. Who trained without any effect counts like everyone else.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tests.golden.network import (
    Arrays,
    Masks,
    Window,
    cnn,
    depth_names,
    exits,
    extract,
    masks,
    narrowed,
    prefix,
    put_back,
    rolled,
)


@dataclass(frozen=True, slots=True)
class Descent:
    """Stochastic gradient descent: the step is `rate` times the velocity v = momentum * v + gradient.

    The whole gradient is shortened to the length `clip` where it is longer. A round begins with a velocity of 0.
    """

    rate: float
    momentum: float
    clip: float


@dataclass(frozen=True, slots=True)
class Device:
    """One device in one round: its examples, which of them make each minibatch, and what it can hold.

    `width` (HeteroFL, FedRolex, FjORD) or `depth` (DepthFL) is its tier; `drawn` the width of each minibatch (FjORD).
    """

    inputs: npt.NDArray[np.floating]
    targets: npt.NDArray[np.int64]
    minibatches: Sequence[Sequence[int]]
    width: float = 1.0
    depth: int = 0
    drawn: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Upload:
    """What a device ends a round with: full-size arrays, true where it holds them, and what it counts."""

    arrays: Arrays
    holds: Masks
    weight: float = 1.0


def heterofl_round(arrays: Arrays, devices: Sequence[Device], descent: Descent) -> Arrays:
    """The full model after one round of HeteroFL."""
    return _width_round(arrays, devices, descent, lambda device: prefix(device.width))


def fedrolex_round(
    arrays: Arrays, devices: Sequence[Device], descent: Descent, *, offset_a: int, offset_b: int
) -> Arrays:
    """The full model after one round of FedRolex whose windows begin at these channels of the two streams."""
    return _width_round(arrays, devices, descent, lambda device: rolled(device.width, offset_a, offset_b))


def fjord_round(arrays: Arrays, devices: Sequence[Device], descent: Descent, *, distil: bool) -> Arrays:
    """The full model after one round of FjORD, with self-distillation or without it.

    The velocity is that of the device's widest network: what a minibatch leaves out still moves by its momentum.
    """
    uploads = []
    for device in devices:
        own = prefix(device.width)
        losses = [
            _ordered_dropout(*batch, width=width, distil=distil)
            for batch, width in zip(_batches(device, arrays), device.drawn, strict=True)
        ]
        trained = descend(extract(arrays, own), losses, descent)
        weight = float(len(device.targets))
        uploads.append(Upload(put_back(trained, own, arrays), masks(own, arrays), weight))
    return mean_over_holders(arrays, uploads)


def depthfl_round(arrays: Arrays, devices: Sequence[Device], descent: Descent, *, mutual: float) -> Arrays:
    """The full model after one round of DepthFL (by plain averaging); `mutual` is the round's lambda."""
    uploads = []
    for device in devices:
        names = depth_names(device.depth)
        losses = [_mutual_loss(*batch, depth=device.depth, mutual=mutual) for batch in _batches(device, arrays)]
        trained = descend({name: arrays[name] for name in names}, losses, descent)
        holds = {name: np.full(array.shape, name in names) for name, array in arrays.items()}
        uploads.append(Upload({name: trained.get(name, np.zeros_like(arrays[name])) for name in arrays}, holds))
    return mean_over_holders(arrays, uploads)


def depthfl_ramp(round_number: int, over: int = 300) -> float:
    """DepthFL's lambda: rises over so many rounds to 1."""
    return math.exp(-5.0 * (1.0 - min(round_number, over) / over) ** 2)


def depthfl_scores(arrays: Arrays, depth: int, inputs: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """DepthFL's answer: the mean of the exits' scores."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    each = [scores.numpy() for scores in exits(tensors, depth, torch.from_numpy(inputs))]
    mean: npt.NDArray[np.floating] = np.mean(each, axis=0)
    return mean


# ---- at the aggregator -----------------------------------------------------------------------------------------


def mean_over_holders(old: Arrays, uploads: Sequence[Upload]) -> Arrays:
    """Each coordinate's weighted mean over the devices that hold it; what nobody holds keeps its value."""
    new = {}
    for name, before in old.items():
        total, weight = np.zeros(before.shape, np.float64), np.zeros(before.shape, np.float64)
        for upload in uploads:
            held = upload.holds[name]
            total[held] += upload.weight * upload.arrays[name][held].astype(np.float64)
            weight[held] += upload.weight
        after, touched = before.copy(), weight > 0
        after[touched] = (total[touched] / weight[touched]).astype(before.dtype)
        new[name] = after
    return new


# ---- on a device -----------------------------------------------------------------------------------------------

Loss = Callable[[Mapping[str, Tensor]], Tensor]


def descend(start: Arrays, losses: Sequence[Loss], descent: Descent) -> Arrays:
    """The arrays after one step for each loss. An array that a loss does not depend on has a gradient of 0."""
    values = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in start.items()}
    velocity = {name: torch.zeros_like(value) for name, value in values.items()}
    for loss in losses:
        gradients = dict(zip(values, torch.autograd.grad(loss(values), list(values.values())), strict=True))
        length = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
        shorter = min(1.0, descent.clip / (length + 1e-6)) if descent.clip else 1.0
        with torch.no_grad():
            for name, value in values.items():
                velocity[name] = descent.momentum * velocity[name] + shorter * gradients[name]
                value -= descent.rate * velocity[name]
    return {name: value.detach().numpy() for name, value in values.items()}


def _width_round(
    arrays: Arrays, devices: Sequence[Device], descent: Descent, window_of: Callable[[Device], Window]
) -> Arrays:
    uploads = []
    for device in devices:
        window = window_of(device)
        losses = [_plain_loss(*batch) for batch in _batches(device, arrays)]
        trained = descend(extract(arrays, window), losses, descent)
        uploads.append(Upload(put_back(trained, window, arrays), masks(window, arrays)))
    return mean_over_holders(arrays, uploads)


def _batches(device: Device, arrays: Arrays) -> list[tuple[Tensor, Tensor]]:
    """The device's minibatches, in the precision of the arrays."""
    precision = next(iter(arrays.values())).dtype
    inputs, targets = device.inputs.astype(precision), device.targets
    return [(torch.from_numpy(inputs[list(b)]), torch.from_numpy(targets[list(b)])) for b in device.minibatches]


def _plain_loss(inputs: Tensor, targets: Tensor) -> Loss:
    return lambda values: functional.cross_entropy(cnn(values, inputs), targets)


def _ordered_dropout(inputs: Tensor, targets: Tensor, *, width: float, distil: bool) -> Loss:
    """The loss of one minibatch of FjORD: `values` are the device's widest network."""

    def loss(values: Mapping[str, Tensor]) -> Tensor:
        drawn = cnn(narrowed(values, prefix(width)), inputs)
        if not distil:
            return functional.cross_entropy(drawn, targets)
        widest = cnn(values, inputs)
        taught = functional.softmax(widest, dim=1).detach()
        learns = -(taught * functional.log_softmax(drawn, dim=1)).sum(1).mean()
        return functional.cross_entropy(widest, targets) + learns

    return loss


def _mutual_loss(inputs: Tensor, targets: Tensor, *, depth: int, mutual: float) -> Loss:
    def loss(values: Mapping[str, Tensor]) -> Tensor:
        return mutual_distillation(exits(values, depth, inputs), targets, mutual)

    return loss


def mutual_distillation(scores: Sequence[Tensor], targets: Tensor, mutual: float) -> Tensor:
    """Sum over exits: cross-entropy, and `mutual` times the mean KL divergence of each other exit from this one."""
    total = torch.zeros((), dtype=scores[0].dtype)
    for i, learner in enumerate(scores):
        total = total + functional.cross_entropy(learner, targets)
        for j, other in enumerate(scores):
            if i != j:
                p = functional.softmax(other, dim=1).detach()
                divergence = (p * (p.log() - functional.log_softmax(learner, dim=1))).sum(1).mean()
                total = total + mutual * divergence / (len(scores) - 1)
    return total
