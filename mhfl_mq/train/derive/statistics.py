"""May a norm's running statistics be averaged? Only where they measure the same thing in every tier.

A running mean belongs to what a layer is fed. With one tier all devices feed it alike, and its average is what plain
federated averaging takes (the variance's leaves out that the means differ). Where a tier lacks something of what runs
before the layer, or has it narrower, its channels measure something else, and the mean of both fits no tier.
"""

from collections.abc import Sequence

import torch
from torch import nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Tier
from mhfl_mq.train.derive.arrays import Table, layout_arrays, sizes_of
from mhfl_mq.train.derive.forward import Sample, run_model
from mhfl_mq.train.derive.leaves import full_name

__all__ = ["check_statistics", "measuring"]


def measuring(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that keep running statistics in the layout, by name."""
    saved = layout_arrays(model)
    return {name: m for name, m in model.named_modules() if full_name(name, "running_mean") in saved}


def check_statistics(model: nn.Module, tables: Sequence[Table], tiers: Sequence[Tier], sample: Sample) -> None:
    """Raise `LayoutError` for the first layer of the largest model whose running statistics must not be averaged.

    Integer counts of batches are no part of the layout, and are never averaged.
    """
    meters = measuring(model)
    if len(tiers) < 2 or not meters:
        return
    before: list[str] = []
    for leaf in _run_order(model, sample):
        if leaf in meters:
            _compare(leaf, meters[leaf], [*before, leaf], tables, tiers)
        before.append(leaf)


def _compare(
    leaf: str, module: nn.Module, before: Sequence[str], tables: Sequence[Table], tiers: Sequence[Tier]
) -> None:
    """The layer's tiers must have in common every array of what ran before it."""
    since = next(k for k, table in enumerate(tables) if full_name(leaf, "running_mean") in table)
    having = tables[since:]
    for other in before:
        for name, tensor in having[-1].items():
            if name.rpartition(".")[0] != other:
                continue
            absent = name not in having[0]
            if absent or any(len(set(sizes_of(having, name, d))) > 1 for d in range(tensor.ndim)):
                how = "lacks" if absent else "has narrower"
                raise LayoutError(
                    f"{type(module).__name__} with running statistics: a channel measures something else in each "
                    f"tier, for {tiers[since].name!r} {how} {name}",
                    where=leaf,
                    remedy="use GroupNorm with a fixed number of channels per group, or track_running_stats=False",
                )


def _run_order(model: nn.Module, sample: Sample) -> list[str]:
    """The modules that own arrays, in the order in which they first run; those that never run are left out."""
    order: dict[str, None] = {}
    owners = [n for n, m in model.named_modules() if any(True for _ in (*m.parameters(False), *m.buffers(False)))]

    def note(name: str) -> "torch.utils.hooks.RemovableHandle":
        return model.get_submodule(name).register_forward_pre_hook(lambda module, args: order.setdefault(name))

    handles = [note(name) for name in owners]
    try:
        with torch.enable_grad():  # with gradients torch's encoder layers run module by module
            run_model(model, sample, "the largest tier")
    finally:
        for handle in handles:
            handle.remove()
    return list(order)
