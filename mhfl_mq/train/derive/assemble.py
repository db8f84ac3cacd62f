"""The layout out of what was found: units into groups, groups into widths, axes that vary into slices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis, Layout, Parameter, Tier
from mhfl_mq.train.derive.arrays import Table, sizes_of
from mhfl_mq.train.derive.hints import annotate, way_to_say
from mhfl_mq.train.derive.leaves import full_name
from mhfl_mq.train.derive.ports import Ports, Span
from mhfl_mq.train.derive.trace import Fault, Ties

__all__ = ["Assembly"]


class Assembly:
    """Puts the layout together: units into groups, groups into widths, axes that vary into slices."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        tables: Sequence[Table],
        leaves: Mapping[str, Ports],
        ties: Ties,
        aliases: Mapping[str, str],
    ) -> None:
        self._tiers, self._tables, self._ties = tuple(tiers), tables, ties
        self._root: dict[str, str] = {}
        for one, other in ties.pairs:
            self._tie(one, other)
        for ports in leaves.values():
            for one, other in ports.same:
                self._tie(one, other)
        self._strange: dict[str, str] = {}
        self._spans = self._array_spans(leaves, aliases)
        self._outputs = {p.span.unit for ports in leaves.values() for p in ports.outputs if not p.optional}

    def layout(self) -> Layout:
        """The layout, or every array that cannot be cut."""
        self._refuse_unknown()
        units: dict[str, int] = {}  # group -> the fewest channels that any of its axes counts
        for spans in self._spans.values():
            for span in spans:
                if span is not None:
                    root = self._find(span.unit)
                    units[root] = min(units.get(root, span.channels), span.channels)
        widths: dict[str, list[int]] = {}
        first: dict[str, str] = {}
        axes: dict[str, tuple[Axis, ...]] = {}
        for name, spans in self._spans.items():
            axes[name] = tuple(self._axis(name, d, s, units, widths, first) for d, s in enumerate(spans))
        varying = {root for root, found in widths.items() if len({w for w in found if w}) > 1}
        named = {root: self._group_name(root, first) for root in varying}
        return Layout(
            self._tiers,
            {named[root]: tuple(widths[root]) for root in varying},
            tuple(Parameter(name, tuple(_settled(a, named) for a in axes[name]), self._since(name)) for name in axes),
        )

    def _axis(
        self,
        name: str,
        d: int,
        span: Span | None,
        units: Mapping[str, int],
        widths: dict[str, list[int]],
        first: dict[str, str],
    ) -> Axis:
        """One axis in units of its group (`group` is still the group's root), after adding to the group's widths."""
        size = self._tables[-1][name].shape[d]
        if span is None:
            if self._varies(name, d):
                raise self._unknown(name, d, "this axis of it is not known to be cut")
            return Axis(size)
        root = self._find(span.unit)
        if span.channels % units[root] or span.size != size:
            raise self._unknown(name, d, f"it counts {span.channels} units, and what it is tied to {units[root]}")
        axis = Axis(units[root], span.blocks, span.inner * (span.channels // units[root]), root)
        mine = widths.setdefault(root, [0] * len(self._tiers))
        first.setdefault(root, f"{name}[{d}]")
        for k in range(self._since(name), len(self._tiers)):
            width, rest = divmod(self._tables[k][name].shape[d], axis.blocks * axis.inner)
            if rest or (mine[k] and mine[k] != width):
                raise self._unknown(
                    name, d, f"tier {self._tiers[k].name!r} cuts it unlike {first[root]}, which counts the same units"
                )
            mine[k] = width
        return axis

    def _refuse_unknown(self) -> None:
        """Every cut axis must have been seen to count the same units as its neighbours, or be annotated."""
        faults = {fault.unit: fault for fault in self._ties.faults}
        mixed: list[tuple[str, int, str]] = []
        others: list[tuple[str, int, str]] = []
        fault: Fault | None = None
        for name, spans in self._spans.items():
            for d, span in enumerate(spans):
                if (span is not None and span.told) or not self._varies(name, d):
                    continue
                if name in self._strange:
                    others.append((name, d, self._strange[name]))
                elif span is None:
                    others.append((name, d, "this axis of it is not known to be cut"))
                elif span.unit in faults:
                    fault = fault or faults[span.unit]
                    mixed.append((name, d, faults[span.unit].why))
                elif span.unit in self._outputs and span.unit not in self._ties.used:
                    others.append((name, d, "no later layer takes up its units one by one"))
        if mixed or others:
            first, *rest = mixed + others
            raise self._unknown(*first, others=[name for name, _, _ in rest], fault=fault)

    def _unknown(
        self, name: str, d: int, why: str, others: Sequence[str] = (), fault: Fault | None = None
    ) -> LayoutError:
        text = f"axis {d} (of sizes {sizes_of(self._tables, name, d)} in the tiers) cannot be cut: {why}"
        shape = self._tables[-1][name].shape
        can, way = True, ""
        if fault is not None and fault.puzzle is not None:
            can, way = way_to_say(fault.puzzle, self._sizes)
        remedy = "; ".join(filter(None, (annotate(name, shape) if can else "", way)))
        rest = [n for n in dict.fromkeys(others) if n != name]
        if rest and can:
            remedy += f"; the same holds for {', '.join(rest)}"
        return LayoutError(text, where=name, remedy=remedy)

    def _sizes(self, unit: str) -> dict[int, int]:
        """How many channels of a unit each tier has, as the first array that counts it says."""
        for name, spans in self._spans.items():
            for d, span in enumerate(spans):
                if span is not None and span.unit == unit:
                    cut = span.blocks * span.inner
                    return {k: t[name].shape[d] // cut for k, t in enumerate(self._tables) if name in t}
        return {}

    def _array_spans(
        self, leaves: Mapping[str, Ports], aliases: Mapping[str, str]
    ) -> dict[str, tuple[Span | None, ...]]:
        """A span (or None) for every axis of every array; tied weights tie the units of both their leaves."""
        found: dict[str, tuple[Span | None, ...]] = {}
        for leaf, ports in leaves.items():
            for local, of_axes in ports.axes.items():
                name = aliases.get(full_name(leaf, local))
                if name is None:
                    continue
                if ports.strange:
                    self._strange[name] = ports.strange
                spans = tuple(self._ties.resolved.get(s.unit, s) if s and s.free else s for s in of_axes)
                for d, (one, other) in enumerate(zip(found.setdefault(name, spans), spans, strict=True)):
                    if one is None or other is None:
                        continue
                    if (one.blocks, one.inner) != (other.blocks, other.inner):
                        raise self._unknown(name, d, "two layers share it and cut it differently")
                    self._tie(one, other)
        return {n: found.get(n, (None,) * t.ndim) for n, t in self._tables[-1].items()}

    def _tie(self, one: Span, other: Span) -> None:
        self._root[self._find(one.unit)] = self._find(other.unit)

    def _varies(self, name: str, d: int) -> bool:
        return len(set(sizes_of(self._tables, name, d))) > 1

    def _since(self, name: str) -> int:
        return next(k for k, table in enumerate(self._tables) if name in table)

    def _find(self, unit: str) -> str:
        while (above := self._root.get(unit, unit)) != unit:
            unit = above
        return unit

    def _group_name(self, root: str, first: Mapping[str, str]) -> str:
        said = sorted(u[1:] for u in {*self._root, root} if u.startswith("@") and self._find(u) == root)
        return said[0] if said else first[root]


def _settled(axis: Axis, named: Mapping[str, str]) -> Axis:
    """An axis whose group varies, under the group's name; any other is never cut."""
    name = named.get(axis.group or "")
    return Axis(axis.size) if name is None else replace(axis, group=name)
