"""The layout: a family of models as one flat vector, of which every tier holds some segments.

A tier is a prefix unless its algorithm says otherwise. A coordinate's segment is the first tier that holds it: the
largest, over its axes, of the tier in which its channel appears, and of the tier in which its parameter appears
(depth). Segments stand one after the other, so the model of nested tier k is `flat[:lengths[k]]`; after them stand the
arrays that belong to one tier alone, a segment for each such tier. Inside a segment, parameters stand in the layout's
order, and what a tier adds to a parameter is cut into at most one rectangle per axis, so that packing is a handful of
block copies.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mhfl_mq.errors import LayoutError, LocalMisuse
from mhfl_mq.segments.axis import Axis
from mhfl_mq.segments.cutting import cut
from mhfl_mq.segments.holdings import Holdings
from mhfl_mq.segments.laws import check_groups, check_parameters, check_rolls, check_tiers
from mhfl_mq.segments.parts import Box, Parameter, Tier
from mhfl_mq.segments.reading import MAX_COORDINATES, Read, read, written
from mhfl_mq.segments.vectors import Vector

__all__ = ["Box", "Layout", "Parameter", "Tier"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Parameters, tiers (smallest first) and the widths of each group: everything that a vector's meaning needs.

    `groups[g][k]` is how many channels of group g tier k has (0 where no parameter of the group exists yet). With
    `whole` every tier holds everything, and nothing is cut. `rolls[g]` are the channels that group g may be rolled by
    (and by multiples of them) without changing what the full model computes; a group that is not there may not be
    rolled. Two sides that hold layouts of the same `digest` mean the same coordinate by the same index. Raises
    `LayoutError` when the tiers are not nested, or two of them hold the same.
    """

    tiers: tuple[Tier, ...]
    groups: Mapping[str, tuple[int, ...]]
    parameters: tuple[Parameter, ...]
    whole: bool = False
    rolls: Mapping[str, int] = field(default_factory=dict)
    boxes: tuple[Box, ...] = field(init=False, repr=False, compare=False)
    holdings: Holdings = field(init=False, repr=False, compare=False)
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        check_tiers(self.tiers)
        check_groups(self.groups, len(self.tiers), whole=self.whole)
        check_parameters(self.parameters, self.groups, self.tiers, whole=self.whole)
        check_rolls(self.rolls, self.groups)
        ordered = {name: tuple(self.groups[name]) for name in sorted(self.groups)}
        object.__setattr__(self, "groups", MappingProxyType(ordered))
        object.__setattr__(self, "rolls", MappingProxyType({name: self.rolls[name] for name in sorted(self.rolls)}))
        boxes, holdings = cut(self.tiers, self.groups, self.parameters, whole=self.whole)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "holdings", holdings)
        if self.total > MAX_COORDINATES:
            raise LayoutError(f"the model has {self.total} coordinates, more than {MAX_COORDINATES}")
        text = json.dumps(self.document(), sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "digest", hashlib.sha256(text.encode()).hexdigest())

    # ---- segments and tiers in the flat vector ----

    @property
    def total(self) -> int:
        """Coordinates of the flat vector."""
        return self.holdings.total

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return self.holdings.segments

    @property
    def segment_bounds(self) -> tuple[tuple[int, int], ...]:
        """[start, stop) of every segment in the flat vector."""
        return self.holdings.bounds

    @property
    def holds(self) -> tuple[tuple[int, ...], ...]:
        """The segments that each tier holds, ascending."""
        return self.holdings.holds

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many coordinates each tier holds."""
        return self.holdings.lengths

    @property
    def runs(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """[start, stop) ranges of the flat vector that each tier holds, as few as there can be."""
        return self.holdings.runs

    def take(self, flat: Vector, tier: int) -> Vector:
        """The vector of a tier out of the flat one: a view where it is one run of it, else a copy."""
        return self.holdings.take(flat, tier)

    def where(self, name: str) -> tuple[int, int]:
        """[start, stop) of an array in the flat vector; `LocalMisuse` for one that is cut, or is not there."""
        box = self._box(name)
        return box.start, box.stop

    def place(self, name: str, tier: int) -> tuple[int, int]:
        """[start, stop) of an array in the vector of a tier; `LocalMisuse` for one that it has not, or that is cut."""
        box = self._box(name)
        start = self.holdings.place(box.segment, tier) + box.start - self.segment_bounds[box.segment][0]
        return start, start + box.stop - box.start

    # ---- shapes ----

    def shape(self, parameter: Parameter, tier: int) -> tuple[int, ...] | None:
        """The parameter's shape in the model of a tier; None where the tier has no such parameter."""
        if not parameter.of(tier):
            return None
        return tuple(axis.size_at(self.width(axis, tier)) for axis in parameter.axes)

    def shapes(self, tier: int) -> dict[str, tuple[int, ...]]:
        """Name (in the layout) and shape of every array that the model of a tier has, in the layout's order."""
        found = ((p.name, self.shape(p, tier)) for p in self.parameters)
        return {name: shape for name, shape in found if shape is not None}

    def width(self, axis: Axis, tier: int) -> int:
        """How many channels of the axis a tier keeps."""
        return axis.channels if axis.group is None else self.groups[axis.group][tier]

    # ---- as a document ----

    def document(self) -> dict[str, object]:
        """The layout as plain strings, whole numbers, lists and dicts: what the digest is taken over."""
        return written(Read(self.tiers, self.groups, self.parameters, self.whole, self.rolls))

    @classmethod
    def from_document(cls, document: object) -> "Layout":
        """The layout that `document` describes; raises `LayoutError` for anything that is not one."""
        parts = read(document)
        return cls(parts.tiers, parts.groups, parts.parameters, parts.whole, parts.rolls)

    def _box(self, name: str) -> Box:
        found = [box for box in self.boxes if self.parameters[box.parameter].name == name]
        if len(found) != 1:
            what = "is cut into several rectangles" if found else "is not in the layout"
            raise LocalMisuse(f"the array {what}: it has no one place", where=name)
        return found[0]
