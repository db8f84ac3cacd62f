"""What a layout holds of a model: parameters and saved float buffers, by name, and whether the tiers' can nest."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Tier

__all__ = ["Table", "aliases_of", "check_arrays", "layout_arrays", "sizes_of"]

Table = Mapping[str, Tensor]


def layout_arrays(model: nn.Module) -> dict[str, Tensor]:
    """The arrays of a model that the layout holds, by name: parameters and float buffers that are saved.

    Tied weights appear once, under their first name. Integer and boolean buffers are left out: they count or index,
    and a mean of them means nothing.
    """
    saved = model.state_dict(keep_vars=True)
    arrays: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if n in saved}
    arrays |= {n: b for n, b in model.named_buffers() if n in saved and b.is_floating_point()}
    return arrays


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Every saved name of an array of the layout -> its first name (tied weights have several)."""
    first = {id(tensor): name for name, tensor in layout_arrays(model).items()}
    saved = model.state_dict(keep_vars=True)
    return {name: first[id(tensor)] for name, tensor in saved.items() if id(tensor) in first}


def sizes_of(tables: Sequence[Table], name: str, axis: int) -> list[int]:
    """The sizes that an axis has in the tiers that have the array."""
    return [table[name].shape[axis] for table in tables if name in table]


def check_arrays(tables: Sequence[Table], tiers: Sequence[Tier]) -> None:
    """Every array is float32, of the same number of axes in all tiers, and of no tier alone but the larger ones."""
    for k, table in enumerate(tables):
        for name, tensor in table.items():
            if is_lazy(tensor):
                raise LayoutError(
                    "it has no shape before the model's first forward pass (a Lazy module)",
                    where=name,
                    remedy="let the factory say the size, e.g. nn.Linear instead of nn.LazyLinear",
                )
            if tensor.dtype != torch.float32:
                raise LayoutError(
                    f"it is {tensor.dtype}",
                    where=name,
                    remedy="models travel as float32: call .float(), or register a constant with persistent=False",
                )
            larger = tables[min(k + 1, len(tables) - 1)].get(name)
            if larger is None:
                raise LayoutError(
                    f"tier {tiers[k].name!r} has it, but the larger tier {tiers[k + 1].name!r} has not",
                    where=name,
                    remedy="order the tiers smallest first; a larger tier has all arrays of a smaller one",
                )
            if is_lazy(larger):
                continue  # named when its own tier is looked at
            if larger.ndim != tensor.ndim or any(a > b for a, b in zip(tensor.shape, larger.shape, strict=True)):
                raise LayoutError(
                    f"it is {tuple(tensor.shape)} in tier {tiers[k].name!r} and {tuple(larger.shape)} in the larger "
                    f"tier {tiers[k + 1].name!r}",
                    where=name,
                    remedy="nested tiers grow on every axis, or stay",
                )
