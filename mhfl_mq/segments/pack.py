"""Gather and scatter: between a model's named arrays and its tier's vector, rectangle by rectangle."""

from dataclasses import dataclass

import numpy as np

from mhfl_mq.errors import LayoutError, LocalMisuse
from mhfl_mq.segments.layout import Box, Layout
from mhfl_mq.segments.vectors import Arrays, Vector

__all__ = ["Arrays", "Packer", "Vector"]


@dataclass(frozen=True, slots=True)
class _Cut:
    """One rectangle: where it lies in the (finely shaped) array, and where in the vector."""

    slices: tuple[slice, ...]
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one parameter is copied: its shape in the model, the shape that shows its blocks, and its rectangles."""

    name: str
    alias: str  # of a private array: its name in the tier's own model
    shape: tuple[int, ...]
    fine: tuple[int, ...]
    cuts: tuple[_Cut, ...]


class Packer:
    """Copies the vector of one tier out of, or into, the named arrays of a model.

    `model` is the tier whose shapes the arrays have: the same tier by default, or one that holds all that this tier
    holds, so that a smaller tier is taken out of the full model directly. Arrays are float32; names that are not in
    the layout (integer buffers, second names of tied weights) are left alone. An array that belongs to one tier alone
    goes by its name in the layout, or by the name after the tier's. A packer is made once and used for every round.
    """

    def __init__(self, layout: Layout, tier: int, *, model: int | None = None) -> None:
        shown = tier if model is None else model
        if not all(0 <= k < len(layout.tiers) for k in (tier, shown)):
            raise LocalMisuse(f"tier {tier} out of a model of tier {shown}: there are {len(layout.tiers)} tiers")
        held = layout.holds[tier]
        if not set(held) <= set(layout.holds[shown]):
            raise LocalMisuse(f"tier {tier} out of a model of tier {shown}, which does not hold all of it")
        self.length = layout.lengths[tier]
        # How far each segment lies before its place in the flat vector, in the tier's own vector.
        back = {s: layout.segment_bounds[s][0] - layout.holdings.place(s, tier) for s in held}
        cuts: dict[int, list[_Cut]] = {}
        for box in layout.boxes:
            if box.segment in back:
                cuts.setdefault(box.parameter, []).append(_cut(layout, box, back[box.segment]))
        self._plans = tuple(
            _Plan(*_names(layout, i), *_fine(layout, i, shown), tuple(found)) for i, found in cuts.items()
        )

    def gather(self, arrays: Arrays, out: Vector | None = None) -> Vector:
        """The tier's vector (float32, `length` coordinates) of a model's arrays, in `out` where it is given."""
        flat = np.empty(self.length, np.float32) if out is None else self._checked(out, writing=True)
        for plan in self._plans:
            array = _array(arrays, plan).reshape(plan.fine)
            for cut in plan.cuts:
                np.copyto(flat[cut.start : cut.stop].reshape(cut.shape), array[cut.slices])
        return flat

    def scatter(self, vector: Vector, arrays: Arrays) -> None:
        """Write the tier's vector into the model's arrays in place; what the tier does not hold keeps its value."""
        flat = self._checked(vector, writing=False)
        targets = [_array(arrays, plan) for plan in self._plans]  # all are checked before one is written
        for plan, target in zip(self._plans, targets, strict=True):
            if not target.flags.c_contiguous or not target.flags.writeable:
                raise LocalMisuse("an array to scatter into is not contiguous and writeable", where=plan.name)
        for plan, target in zip(self._plans, targets, strict=True):
            array = target.reshape(plan.fine)
            for cut in plan.cuts:
                np.copyto(array[cut.slices], flat[cut.start : cut.stop].reshape(cut.shape))

    def _checked(self, vector: Vector, *, writing: bool) -> Vector:
        if vector.dtype != np.float32 or vector.shape != (self.length,):
            raise LocalMisuse(f"a vector of {vector.dtype} {vector.shape}: this tier's is float32 ({self.length},)")
        if not vector.flags.c_contiguous or (writing and not vector.flags.writeable):
            raise LocalMisuse("the tier's vector is not contiguous and writeable")
        return vector


def _fine(layout: Layout, index: int, tier: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A parameter's shape in the model of a tier, and the same with blocks and inner indices as axes of their own."""
    fine: list[int] = []
    axes = layout.parameters[index].axes
    for axis in axes:
        sizes = (axis.blocks, layout.width(axis, tier), axis.inner)
        fine += sizes if axis.group is not None else (axis.size,)
    return tuple(axis.size_at(layout.width(axis, tier)) for axis in axes), tuple(fine) or (1,)


def _names(layout: Layout, index: int) -> tuple[str, str]:
    """A parameter's name in the layout, and that in the model of the tier which alone has it."""
    p = layout.parameters[index]
    return p.name, p.name[len(layout.tiers[p.only].name) + 1 :] if p.private else p.name


def _cut(layout: Layout, box: Box, back: int) -> _Cut:
    start, stop = box.start - back, box.stop - back
    slices: list[slice] = []
    shape: list[int] = []
    for axis, (low, high) in zip(layout.parameters[box.parameter].axes, box.spans, strict=True):
        if axis.group is None:
            slices.append(slice(None))
            shape.append(axis.size)
        else:
            slices += (slice(None), slice(low, high), slice(None))
            shape += (axis.blocks, high - low, axis.inner)
    if not shape:  # a scalar: shown as one row of one
        return _Cut((slice(None),), (1,), start, stop)
    return _Cut(tuple(slices), tuple(shape), start, stop)


def _array(arrays: Arrays, plan: _Plan) -> Vector:
    array = arrays.get(plan.name)
    if array is None:
        array = arrays.get(plan.alias)
    if array is None:
        raise LayoutError("the model has no such array", where=plan.name, remedy="build the tier's own model")
    if array.shape != plan.shape or array.dtype != np.float32:
        raise LayoutError(
            f"the model has {array.dtype} {array.shape}, the layout float32 {plan.shape}",
            where=plan.name,
            remedy="build the model of the tier that the vector belongs to, in float32",
        )
    return array
