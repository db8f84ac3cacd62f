"""A made-up model input, for a task that gives none: the first shape, of the usual ones, that the model accepts."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError

__all__ = ["invent_sample"]

BATCH = 2
EXTENTS = (8, 16, 24, 28, 32, 48, 64, 96, 128, 224, 256)  # lengths and image sides that models are built for
LOOK = 4  # how many of the first layers may be the one that reads the input


def invent_sample(model: nn.Module) -> tuple[Tensor, ...]:
    """One batch that the model's forward pass takes; raises `LayoutError` when none of the usual shapes does.

    Only shapes matter: which units are the same does not depend on the values or, between shapes that a model
    takes, on the lengths, so a layout derived from an invented sample equals that derived from a real one.
    """
    layers = [m for m in model.modules() if _shapes(m) is not None]
    for layer in layers[:LOOK]:
        for candidate in _shapes(layer) or ():
            try:
                with torch.no_grad():
                    model(candidate)
            except Exception:  # the model's own code: any error only says that this is not its input
                continue
            return (candidate,)
    raise LayoutError(
        "no input of a usual shape goes through the model",
        where=type(model).__name__,
        remedy="give the task a sample: one small batch of model inputs",
    )


def _words(length: int, known: int) -> Tensor:
    """Words that differ: attention over equal ones would show nothing of what it compares."""
    return torch.arange(BATCH * length).view(BATCH, length) % known


def _shapes(layer: nn.Module) -> Iterator[Tensor] | None:
    """Inputs that this layer, were it the first, would read; None for a layer that says nothing about them."""
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        known = layer.num_embeddings
        both = ((_words(n, known), torch.zeros(BATCH, n, dtype=torch.long)) for n in EXTENTS)
        return itertools.chain.from_iterable(both)
    if isinstance(layer, nn.Conv2d):
        return (torch.rand(BATCH, layer.in_channels, n, n) for n in EXTENTS)
    if isinstance(layer, nn.Conv1d):
        channels = layer.in_channels
        pairs = itertools.chain.from_iterable(((channels, n), (n, channels)) for n in EXTENTS)
        return (torch.rand(BATCH, *pair) for pair in pairs)
    if isinstance(layer, nn.RNNBase):
        return (torch.rand(BATCH, n, layer.input_size) for n in EXTENTS)
    if isinstance(layer, nn.RNNCellBase):
        return (torch.rand(BATCH, n, layer.input_size) for n in EXTENTS)
    if isinstance(layer, nn.Linear):
        flat = iter([torch.rand(BATCH, layer.in_features)])
        return itertools.chain(flat, (torch.rand(BATCH, n, layer.in_features) for n in EXTENTS))
    return None
