"""The layout of depths whose last block and head are their own (InclusiveFL, Liu et al., KDD 2022).

Block i of a tier is shared with every tier that has it below its own last block. A shallower tier is no part of a
deeper one then: its last block, and its head, stand in a segment of its own.
"""

from collections.abc import Sequence
from itertools import pairwise

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis, Layout, Parameter, Tier
from mhfl_mq.train.derive.arrays import Table, layout_arrays
from mhfl_mq.train.exits import ExitNet

__all__ = ["private_last_layout"]

_ALIKE = (
    "build all blocks from the smallest tier's last one on alike, and give all tiers one width: a tier's last block "
    "learns from the layers after it"
)


def private_last_layout(tiers: Sequence[Tier], nets: Sequence[ExitNet]) -> Layout:
    """The layout of these tiers' networks, which have a single head; raises `LayoutError` with the array's name."""
    depths = [len(net.blocks) for net in nets]
    if any(below >= here for below, here in pairwise(depths)):
        each = ", ".join(f"{tier.name} {depth}" for tier, depth in zip(tiers, depths, strict=True))
        raise LayoutError(
            f"the tiers' models have these numbers of blocks: {each}",
            where="tiers",
            remedy="give each tier a depth, more than that of the tier before (0, all blocks, to the last one only)",
        )
    tables = [layout_arrays(net) for net in nets]
    if len(tiers) > 1:
        _check_blocks(tables[-1], range(depths[0] - 1, depths[-1]))
    shared: dict[str, Parameter] = {}
    private: list[Parameter] = []
    for k, (table, depth) in enumerate(zip(tables, depths, strict=True)):
        for name, array in table.items():
            full = tables[-1].get(name)
            if full is None or full.shape != array.shape:
                there = "no such array" if full is None else str(tuple(full.shape))
                raise LayoutError(
                    f"in tier {tiers[k].name!r} it is {tuple(array.shape)}, in tier {tiers[-1].name!r} {there}",
                    where=name,
                    remedy=_ALIKE,
                )
            axes = tuple(Axis(size) for size in array.shape)
            if name.startswith((f"blocks.{depth - 1}.", "heads.")):
                private.append(Parameter(f"{tiers[k].name}:{name}", axes, only=k))
            else:
                shared.setdefault(name, Parameter(name, axes, since=k))
    return Layout(tuple(tiers), {}, (*shared.values(), *private))


def _check_blocks(table: Table, numbers: range) -> None:
    """From the smallest tier's last block on all must have the same arrays: their steps are mixed."""
    blocks = {i: _arrays_of(table, f"blocks.{i}.") for i in numbers}
    first = blocks[numbers[0]]
    for i, block in blocks.items():
        if not block:
            raise LayoutError("it has no arrays of its own", where=f"blocks.{i}", remedy=_ALIKE)
        for name in sorted({*block, *first}):
            if block.get(name) != first.get(name):
                raise LayoutError(
                    f"it is {block.get(name, 'not there')}, and {first.get(name, 'not there')} in blocks.{numbers[0]}",
                    where=f"blocks.{i}.{name}",
                    remedy=_ALIKE,
                )


def _arrays_of(table: Table, prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a block's arrays, by their names in it."""
    return {name.removeprefix(prefix): tuple(t.shape) for name, t in table.items() if name.startswith(prefix)}
