"""Models whose tiers are chosen coordinate by coordinate: which arrays are ranked, and a tier as the full module."""

import hashlib
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis, Layout, Parameter, Tier, Vector
from mhfl_mq.segments.ranking import MASK, RANK, by_class, ranked_parameters, spread
from mhfl_mq.train.derive import layout_arrays

__all__ = ["flat_ranked", "lay", "ranked_arrays", "ranked_layout"]


def ranked_arrays(module: nn.Module) -> dict[str, Tensor]:
    """The arrays of a model that are ranked, by name, in the order in which they are.

    Every tier has the others: buffers, which are no weights (a variance of 0 would break its layer), and what norms
    learn, whose magnitude says nothing of importance (so in the released code of FIARSE).
    """
    norms = {name for name, layer in module.named_modules() if "Norm" in type(layer).__name__}
    arrays = layout_arrays(module).items()
    return {n: a for n, a in arrays if isinstance(a, nn.Parameter) and n.rpartition(".")[0] not in norms}


def flat_ranked(module: nn.Module) -> Vector:
    """The ranked coordinates of a model, in its own order."""
    flat: Vector = np.concatenate([a.detach().numpy().reshape(-1) for a in ranked_arrays(module).values()])
    return flat


def ranked_layout(tiers: tuple[Tier, ...], full: nn.Module, trained: list[int]) -> Layout:
    """Tier k holds as many coordinates as `trained[k]`, those of its own width's model, and the last tier all."""
    ranked = ranked_arrays(full)
    count = sum(array.numel() for array in ranked.values())
    others = {name: array for name, array in layout_arrays(full).items() if name not in ranked}
    shared = sum(array.numel() for array in others.values() if isinstance(array, nn.Parameter))
    bounds = [0, *(here - shared for here in trained[:-1]), count]
    for tier, (before, here) in zip(tiers, pairwise(bounds), strict=True):
        if here <= before:
            raise LayoutError(
                f"tier {tier.name!r} would hold {here} ranked coordinates after {before} of the tier before it, "
                f"beside the {shared} that norms have and every tier holds",
                remedy="make the tiers differ more in width or depth, or leave one out",
            )
    text = repr([(name, tuple(array.shape)) for name, array in ranked.items()])
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    uncut = (Parameter(name, tuple(Axis(n) for n in array.shape)) for name, array in others.items())
    return Layout(tiers, {}, (*uncut, *ranked_parameters([b - a for a, b in pairwise(bounds)], mark)))


def lay(module: nn.Module, own: Mapping[str, Vector]) -> dict[str, Tensor]:
    """Write the classes that a tier holds into the full module, 0 elsewhere; gives where it holds, by array.

    `own` are the tier's own arrays, as downloaded.
    """
    arrays = ranked_arrays(module)
    total = sum(array.numel() for array in arrays.values())
    values, held = spread(by_class(own, RANK), by_class(own, MASK), total)
    places: dict[str, Tensor] = {}
    at = 0
    with torch.no_grad():
        for name, array in arrays.items():
            stop = at + array.numel()
            array.copy_(torch.from_numpy(values[at:stop]).view(array.shape))
            places[name] = torch.from_numpy(held[at:stop]).view(array.shape)
            at = stop
    return places
