"""Cutting the parameters of a layout into segments: which rectangle stands where in the flat vector."""

from collections.abc import Mapping
from math import prod

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments.axis import Axis
from mhfl_mq.segments.holdings import Holdings
from mhfl_mq.segments.parts import Box, Parameter, Tier

__all__ = ["cut"]

Groups = Mapping[str, tuple[int, ...]]
Spans = tuple[tuple[int, int], ...]


def cut(
    tiers: tuple[Tier, ...], groups: Groups, parameters: tuple[Parameter, ...], *, whole: bool
) -> tuple[tuple[Box, ...], Holdings]:
    """All rectangles in the order of the flat vector, and who holds which segment.

    What the nested tiers add to each other comes first, then what belongs to one tier alone, by tier. A segment of
    nothing does not exist: numbers are given to the others. Two tiers that hold the same are a mistake, unless the
    layout is whole.
    """
    boxes: list[Box] = []
    bounds: list[tuple[int, int]] = []
    holds: list[list[int]] = [[] for _ in tiers]
    start = 0
    for k, private in [(k, private) for private in (False, True) for k in range(len(tiers))]:
        before = start
        for index, p in enumerate(parameters):
            if p.private != private:
                continue
            for spans in _own(p, k) if private else _added(groups, p, k):
                pairs = zip(p.axes, spans, strict=True)
                size = prod(axis.size_at(high - low) for axis, (low, high) in pairs)
                boxes.append(Box(index, len(bounds), spans, start, start + size))
                start += size
        if start > before:
            for held in holds[k : k + 1] if private else holds[k:]:
                held.append(len(bounds))
            bounds.append((before, start))
    for k, held in enumerate(holds):
        if not held or (not whole and held in holds[:k]):
            smaller = f" to tier {tiers[holds.index(held)].name!r}" if held else ""
            raise LayoutError(
                f"tier {tiers[k].name!r} adds no coordinate{smaller}",
                remedy="make the tiers differ in width or depth, or leave one out",
            )
    return tuple(boxes), Holdings(tuple(bounds), tuple(map(tuple, holds)))


def _own(p: Parameter, k: int) -> list[Spans]:
    """A private parameter, whole."""
    return [tuple((0, axis.channels) for axis in p.axes)] if p.only == k else []


def _added(groups: Groups, p: Parameter, k: int) -> list[Spans]:
    """What tier k adds to a parameter: a box minus the smaller box in its corner, as one rectangle per axis.

    The first axis comes first because whole new rows are contiguous in the arrays of tier k.
    """
    if k < p.since:
        return []
    here = [_width(groups, axis, k) for axis in p.axes]
    if k == p.since:
        return [tuple((0, w) for w in here)]
    below = [_width(groups, axis, k - 1) for axis in p.axes]
    added = []
    for d in range(len(here)):
        if below[d] < here[d]:
            old = [(0, w) for w in below[:d]]
            rest = [(0, w) for w in here[d + 1 :]]
            added.append((*old, (below[d], here[d]), *rest))
    return added


def _width(groups: Groups, axis: Axis, tier: int) -> int:
    return axis.channels if axis.group is None else groups[axis.group][tier]
