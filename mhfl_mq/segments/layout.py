"""The layout: a family of nested models as one flat vector in which every tier is a prefix.

A coordinate's segment is the first tier that holds it: the largest, over its axes, of the tier in which its channel
appears, and of the tier in which its parameter appears (depth). Segments stand one after the other, so the model of
tier k is `flat[:lengths[k]]`. Inside a segment, parameters stand in the layout's order, and what the tier adds to a
parameter is cut into at most one rectangle per axis, so that packing is a handful of block copies.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments.axis import Axis

__all__ = ["Box", "Layout", "Parameter", "Tier"]


@dataclass(frozen=True, slots=True)
class Tier:
    """One size of the model. `width` and `depth` are what the model factory is asked for (depth 0: all blocks)."""

    name: str
    width: float = 1.0
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named float32 array of the model. `since` is the first tier that has it at all (depth)."""

    name: str
    axes: tuple[Axis, ...]
    since: int = 0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of one parameter that one segment holds, and where it stands in the flat vector.

    `spans` are the channels [low, high) on each axis, its coordinates stand at [start, stop)
    in C order.
    """

    parameter: int
    segment: int
    spans: tuple[tuple[int, int], ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Parameters, tiers (smallest first) and the widths of each group: everything that a prefix's meaning needs.

    `groups[g][k]` is how many channels of group g tier k has (0 where no parameter of the group exists yet). Two
    sides that hold layouts of the same `digest` mean the same coordinate by the same index. Raises `LayoutError`
    when the tiers are not nested.
    """

    tiers: tuple[Tier, ...]
    groups: Mapping[str, tuple[int, ...]]
    parameters: tuple[Parameter, ...]
    boxes: tuple[Box, ...] = field(init=False, repr=False, compare=False)
    lengths: tuple[int, ...] = field(init=False, compare=False)
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        _check_tiers(self.tiers)
        _check_groups(self.groups, len(self.tiers))
        _check_parameters(self)
        ordered = {name: tuple(self.groups[name]) for name in sorted(self.groups)}
        object.__setattr__(self, "groups", MappingProxyType(ordered))
        boxes, lengths = _boxes(self)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "lengths", lengths)
        for k, (below, here) in enumerate(itertools.pairwise((0, *lengths))):
            if here == below:
                smaller = f" to tier {self.tiers[k - 1].name!r}" if k else ""
                raise LayoutError(
                    f"tier {self.tiers[k].name!r} adds no coordinate{smaller}",
                    remedy="make the tiers differ in width or depth, or leave one out",
                )
        if lengths[-1] > MAX_COORDINATES:
            raise LayoutError(f"the model has {lengths[-1]} coordinates, more than {MAX_COORDINATES}")
        text = json.dumps(self.document(), sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "digest", hashlib.sha256(text.encode()).hexdigest())

    @property
    def segment_bounds(self) -> tuple[tuple[int, int], ...]:
        """[start, stop) of every segment in the flat vector."""
        return tuple(itertools.pairwise((0, *self.lengths)))

    def shape(self, parameter: Parameter, tier: int) -> tuple[int, ...] | None:
        """The parameter's shape in the model of a tier; None where the tier has no such parameter."""
        if tier < parameter.since:
            return None
        return tuple(axis.size_at(self.width(axis, tier)) for axis in parameter.axes)

    def shapes(self, tier: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every array that the model of a tier has, in the layout's order."""
        found = ((p.name, self.shape(p, tier)) for p in self.parameters)
        return {name: shape for name, shape in found if shape is not None}

    def width(self, axis: Axis, tier: int) -> int:
        """How many channels of the axis a tier keeps."""
        return axis.channels if axis.group is None else self.groups[axis.group][tier]

    def document(self) -> dict[str, object]:
        """The layout as plain strings, whole numbers, lists and dicts: what the digest is taken over."""
        return {
            "format": FORMAT,
            "tiers": [[t.name, repr(float(t.width)), t.depth] for t in self.tiers],
            "groups": {name: list(widths) for name, widths in self.groups.items()},
            "parameters": [
                [p.name, p.since, [[a.channels, a.blocks, a.inner, a.group or ""] for a in p.axes]]
                for p in self.parameters
            ],
        }

    @classmethod
    def from_document(cls, document: object) -> "Layout":
        """The layout that `document` describes; raises `LayoutError` for anything that is not one."""
        top = _fields(document, {"format", "tiers", "groups", "parameters"})
        if top["format"] != FORMAT:
            raise LayoutError(f"a layout of format {top['format']!r}", remedy=f"this version reads {FORMAT!r}")
        tiers = tuple(_read_tier(item) for item in _items(top["tiers"], "tiers", MAX_TIERS))
        groups = top["groups"]
        if not isinstance(groups, dict) or len(groups) > MAX_PARAMETERS:
            raise LayoutError("'groups' is not a mapping of reasonable size", where="layout document")
        return cls(
            tiers,
            {
                _text(name): tuple(_whole(w) for w in _items(widths, "widths", MAX_TIERS))
                for name, widths in groups.items()
            },
            tuple(_read_parameter(item) for item in _items(top["parameters"], "parameters", MAX_PARAMETERS)),
        )


FORMAT = "mhfl-layout/1"
MAX_TIERS = 64  # a person reads the table of tiers; more is a mistake or an attack
MAX_PARAMETERS = 100_000  # the largest published networks have a few thousand named arrays
MAX_AXES = 10  # an array has three numpy dimensions per axis here, and numpy before 2.0 stops at 32
MAX_NAME = 512  # characters; a module path of any real model is far shorter
MAX_COORDINATES = 1 << 36  # 256 GiB of float32: keeps every size far below 64-bit overflow


# ---- what a layout must satisfy -------------------------------------------------------------------------------


def _check_tiers(tiers: tuple[Tier, ...]) -> None:
    if not 1 <= len(tiers) <= MAX_TIERS:
        raise LayoutError(f"a layout has {len(tiers)} tiers", remedy=f"give 1 to {MAX_TIERS}")
    if len({t.name for t in tiers}) < len(tiers) or not all(t.name for t in tiers):
        raise LayoutError(f"tiers are named {[t.name for t in tiers]}", remedy="give each its own name")
    for tier in tiers:
        if not 0 < tier.width <= 1 or tier.depth < 0:
            raise LayoutError(
                f"tier {tier.name!r} has width {tier.width} and depth {tier.depth}",
                remedy="a width is above 0 and at most 1, a depth is a number of blocks (0: all)",
            )


def _check_groups(groups: Mapping[str, tuple[int, ...]], tiers: int) -> None:
    for name, widths in groups.items():
        if len(widths) != tiers or widths[-1] < 1 or widths[0] < 0:
            raise LayoutError(f"group {name!r} has the widths {list(widths)} for {tiers} tiers")
        if any(below > here for below, here in itertools.pairwise(widths)):
            raise LayoutError(
                f"group {name!r} has the widths {list(widths)}",
                remedy="tiers are nested: order them smallest first, none narrower than the one before",
            )


def _check_parameters(layout: Layout) -> None:
    parameters, groups = layout.parameters, layout.groups
    if not 1 <= len(parameters) <= MAX_PARAMETERS:
        raise LayoutError(f"a layout has {len(parameters)} parameters", remedy=f"give 1 to {MAX_PARAMETERS}")
    if len({p.name for p in parameters}) < len(parameters):
        raise LayoutError("two parameters have the same name")
    unused = set(groups)
    for p in parameters:
        if not 0 <= p.since < len(layout.tiers):
            raise LayoutError(f"it first appears in tier {p.since} of {len(layout.tiers)}", where=p.name)
        if len(p.axes) > MAX_AXES:
            raise LayoutError(f"it has {len(p.axes)} axes, more than {MAX_AXES}", where=p.name)
        for axis in p.axes:
            if axis.group is None:
                continue
            widths = groups.get(axis.group)
            if widths is None or widths[-1] != axis.channels or widths[p.since] < 1:
                raise LayoutError(
                    f"{axis} does not fit its group, whose widths are {widths}",
                    where=p.name,
                    remedy="axes of one group have the same channels, and at least one in every tier that has them",
                )
            unused.discard(axis.group)
    if unused:
        raise LayoutError(f"no parameter uses group {min(unused)!r}")


# ---- cutting into segments ------------------------------------------------------------------------------------


def _boxes(layout: Layout) -> tuple[tuple[Box, ...], tuple[int, ...]]:
    """All rectangles in the order of the flat vector, and the length of every tier's prefix."""
    boxes: list[Box] = []
    lengths: list[int] = []
    start = 0
    for k in range(len(layout.tiers)):
        for index, p in enumerate(layout.parameters):
            for spans in _added(layout, p, k):
                pairs = zip(p.axes, spans, strict=True)
                size = prod(axis.size_at(high - low) for axis, (low, high) in pairs)
                boxes.append(Box(index, k, spans, start, start + size))
                start += size
        lengths.append(start)
    return tuple(boxes), tuple(lengths)


def _added(layout: Layout, p: Parameter, k: int) -> list[tuple[tuple[int, int], ...]]:
    """What tier k adds to a parameter: a box minus the smaller box in its corner, as one rectangle per axis.

    The first axis comes first because whole new rows are contiguous in the arrays of tier k.
    """
    if k < p.since:
        return []
    here = [layout.width(axis, k) for axis in p.axes]
    if k == p.since:
        return [tuple((0, w) for w in here)]
    below = [layout.width(axis, k - 1) for axis in p.axes]
    added = []
    for d in range(len(here)):
        if below[d] < here[d]:
            old = [(0, w) for w in below[:d]]
            rest = [(0, w) for w in here[d + 1 :]]
            added.append((*old, (below[d], here[d]), *rest))
    return added


# ---- reading a document ---------------------------------------------------------------------------------------


def _fields(value: object, names: set[str]) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != names:
        raise LayoutError(f"a layout document has the fields {sorted(names)}, and this has not")
    return value


def _items(value: object, what: str, most: int) -> list[object]:
    if not isinstance(value, list | tuple) or len(value) > most:
        raise LayoutError(f"{what!r} is not a list of at most {most} items", where="layout document")
    return list(value)


def _row(value: object, what: str, length: int) -> list[object]:
    row = _items(value, what, length)
    if len(row) != length:
        raise LayoutError(f"{what!r} has {len(row)} items instead of {length}", where="layout document")
    return row


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COORDINATES:
        raise LayoutError(f"{value!r} is not a whole number in range", where="layout document")
    return value


def _text(value: object) -> str:
    if type(value) is not str or len(value) > MAX_NAME:
        raise LayoutError(f"{str(value)[:40]!r} is not a name", where="layout document")
    return value


def _read_tier(value: object) -> Tier:
    name, width, depth = _row(value, "tier", 3)
    try:
        return Tier(_text(name), float(_text(width)), _whole(depth))
    except ValueError:
        raise LayoutError(f"the width {width!r} is not a number", where="layout document") from None


def _read_parameter(value: object) -> Parameter:
    name, since, axes = _row(value, "parameter", 3)
    return Parameter(_text(name), tuple(_read_axis(a) for a in _items(axes, "axes", MAX_AXES)), _whole(since))


def _read_axis(value: object) -> Axis:
    channels, blocks, inner, group = _row(value, "axis", 4)
    return Axis(_whole(channels), _whole(blocks), _whole(inner), _text(group) or None)
