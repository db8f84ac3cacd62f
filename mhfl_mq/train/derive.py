"""The layout of a task, derived from the models that its factory builds for the tiers.

    1. every module that owns arrays says how its axes count units (`mhfl_mq.train.ports`);
    2. a probe of the largest model says which units are the same (`mhfl_mq.train.trace`);
    3. the shapes that the tiers' models really have give every group its widths;
    4. on the sample, each tier's output is compared with the full model's whose other units are masked
       (`mhfl_mq.train.masked`).

What cannot be derived is refused with the array's name and how to annotate it; nothing is guessed.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis, Layout, Parameter, Tier
from mhfl_mq.train.invent import invent_sample
from mhfl_mq.train.masked import check_nesting
from mhfl_mq.train.ports import Ports, Span, ports_of
from mhfl_mq.train.trace import Ties, trace

__all__ = ["TierShape", "derive_layout", "layout_arrays"]


@dataclass(frozen=True, slots=True)
class TierShape:
    """What a model factory is asked for: `width` in (0, 1], `depth` in blocks (0: all of them)."""

    width: float = 1.0
    depth: int = 0


Build = Callable[[TierShape], nn.Module]
Annotations = Mapping[str, tuple[Axis, ...]]

ANNOTATE = (
    "say how it is cut: annotations={{'{name}': ({axes})}} with one Axis(channels, blocks, inner, group) of the full "
    "model per dimension, group=None for one that is never cut"
)


def derive_layout(
    build: Build,
    tiers: Sequence[Tier],
    *,
    sample: Tensor | tuple[Tensor, ...] | None = None,
    annotations: Annotations | None = None,
    verify: bool = True,
) -> Layout:
    """The layout of the models that `build` makes for the tiers (smallest first).

    `sample` is one small batch of model inputs (any values of the right shape and type); without it, one is made up
    (`mhfl_mq.train.invent`). On it the data flow is probed and, if `verify`, the nesting of every tier is checked.
    `annotations` give the axes of single arrays, by name; groups of the same name are the same units.
    Raises `LayoutError`. The global random state is left as it was.
    """
    notes = dict(annotations or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = [build(TierShape(t.width, t.depth)).eval() for t in tiers]
        if not models:
            raise LayoutError("a layout has 0 tiers")
        tables = [layout_arrays(model) for model in models]
        _check_arrays(tables, tiers)
        leaves = {n: _annotated(n, p, notes) for n, p in _leaves(models).items()}
        for name in notes.keys() - tables[-1].keys():
            raise LayoutError("it is annotated, but the full model has no such array", where=name)
        if all(table[n].shape == t.shape for table in tables for n, t in tables[-1].items() if n in table):
            ties = Ties((), {}, frozenset(), ())  # nothing varies in width: nothing to find out
            return _Assembly(tiers, tables, leaves, ties, _aliases(models[-1], tables[-1])).layout()
        inputs = (sample,) if isinstance(sample, Tensor) else sample or invent_sample(models[-1])
        ties = trace(copy.deepcopy(models[-1]), leaves, inputs)
        layout = _Assembly(tiers, tables, leaves, ties, _aliases(models[-1], tables[-1])).layout()
        if verify:
            full_at = [build(TierShape(tiers[-1].width, t.depth)).eval() for t in tiers]
            check_nesting(layout, models, full_at, leaves, inputs)
    return layout


def _aliases(model: nn.Module, table: Mapping[str, Tensor]) -> dict[str, str]:
    """Every saved name of an array of the layout -> its first name (tied weights have several)."""
    first = {id(tensor): name for name, tensor in table.items()}
    saved = model.state_dict(keep_vars=True)
    return {name: first[id(tensor)] for name, tensor in saved.items() if id(tensor) in first}


def layout_arrays(model: nn.Module) -> dict[str, Tensor]:
    """The arrays of a model that the layout holds, by name: parameters and float buffers that are saved.

    Tied weights appear once, under their first name. Integer and boolean buffers are left out: they count or index,
    and a mean of them means nothing.
    """
    saved = model.state_dict(keep_vars=True)
    arrays: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if n in saved}
    arrays |= {n: b for n, b in model.named_buffers() if n in saved and b.is_floating_point()}
    return arrays


def _check_arrays(tables: Sequence[Mapping[str, Tensor]], tiers: Sequence[Tier]) -> None:
    """Every array is float32, of the same number of axes in all tiers, and of no tier alone but the larger ones."""
    for k, table in enumerate(tables):
        for name, tensor in table.items():
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
            if larger.ndim != tensor.ndim or any(a > b for a, b in zip(tensor.shape, larger.shape, strict=True)):
                raise LayoutError(
                    f"it is {tuple(tensor.shape)} in tier {tiers[k].name!r} and {tuple(larger.shape)} in the larger "
                    f"tier {tiers[k + 1].name!r}",
                    where=name,
                    remedy="nested tiers grow on every axis, or stay",
                )


def _leaves(models: Sequence[nn.Module]) -> dict[str, Ports]:
    """The ports of every leaf of the largest model; what is inside a leaf belongs to it."""
    tables = [dict(model.named_modules()) for model in models]
    found: dict[str, Ports] = {}
    for name in tables[-1]:
        if any(name.startswith(f"{leaf}.") and not ports.raw for leaf, ports in found.items()):
            continue
        ports = ports_of(name, [table[name] for table in tables if name in table])
        if ports is not None:
            found[name] = ports
    return found


def _annotated(leaf: str, ports: Ports, notes: Annotations) -> Ports:
    """The ports with what a person said about the leaf's arrays put in the place of what its type says."""
    swap: dict[Span, Span] = {}
    axes = dict(ports.axes)
    for local, spans in ports.axes.items():
        said = notes.get(_full_name(leaf, local))
        if said is None:
            continue
        if len(said) != len(spans):
            raise LayoutError(f"{len(said)} axes are annotated, it has {len(spans)}", where=_full_name(leaf, local))
        told = tuple(None if a.group is None else Span(f"@{a.group}", a.channels, a.blocks, a.inner) for a in said)
        axes[local] = told
        swap |= {old: new for old, new in zip(spans, told, strict=True) if old is not None and new is not None}
    if not swap:
        return replace(ports, axes=axes)
    named = {_full_name(leaf, local) for local in axes} & notes.keys()
    return replace(
        ports,
        axes={
            local: spans
            if _full_name(leaf, local) in named
            else tuple(s if s is None else swap.get(s, s) for s in spans)
            for local, spans in axes.items()
        },
        inputs=tuple(replace(port, span=swap.get(port.span, port.span)) for port in ports.inputs),
        outputs=tuple(replace(port, span=swap.get(port.span, port.span)) for port in ports.outputs),
    )


def _full_name(leaf: str, local: str) -> str:
    return f"{leaf}.{local}" if leaf else local


class _Assembly:
    """Puts the layout together: units into groups, groups into widths, axes that vary into slices."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        tables: Sequence[Mapping[str, Tensor]],
        leaves: Mapping[str, Ports],
        ties: Ties,
        aliases: Mapping[str, str],
    ) -> None:
        self._tiers, self._tables, self._ties = tuple(tiers), tables, ties
        self._root: dict[str, str] = {}
        for one, other in ties.pairs:
            self._tie(one, other)
        self._spans = self._array_spans(leaves, aliases)
        self._outputs = {p.span.unit for ports in leaves.values() for p in ports.outputs} | {
            s.unit for ports in leaves.values() for n in ports.raw for s in ports.axes[n] if s is not None
        }

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
        why = {fault.unit: fault.why for fault in self._ties.faults}
        mixed: list[tuple[str, int, str]] = []
        unused: list[tuple[str, int, str]] = []
        for name, spans in self._spans.items():
            for d, span in enumerate(spans):
                if span is None or span.unit[0] == "@" or not self._varies(name, d):
                    continue
                if span.unit in why:
                    mixed.append((name, d, why[span.unit]))
                elif span.unit in self._outputs and span.unit not in self._ties.used:
                    unused.append((name, d, "no later layer takes up its units one by one"))
        if mixed or unused:
            first, *others = mixed + unused
            raise self._unknown(*first, others=[name for name, _, _ in others])

    def _unknown(self, name: str, d: int, why: str, others: Sequence[str] = ()) -> LayoutError:
        sizes = [t[name].shape[d] for t in self._tables if name in t]
        axes = ", ".join(f"Axis({size}, ...)" for size in self._tables[-1][name].shape)
        text = f"axis {d} (of sizes {sizes} in the tiers) cannot be cut: {why}"
        remedy = ANNOTATE.format(name=name, axes=axes)
        if others:
            remedy += f"; the same holds for {', '.join(dict.fromkeys(others))}"
        return LayoutError(text, where=name, remedy=remedy)

    def _array_spans(
        self, leaves: Mapping[str, Ports], aliases: Mapping[str, str]
    ) -> dict[str, tuple[Span | None, ...]]:
        """A span (or None) for every axis of every array; tied weights tie the units of both their leaves."""
        found: dict[str, tuple[Span | None, ...]] = {}
        for leaf, ports in leaves.items():
            for local, of_axes in ports.axes.items():
                name = aliases.get(_full_name(leaf, local))
                if name is None:
                    continue
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
        return len({t[name].shape[d] for t in self._tables if name in t}) > 1

    def _since(self, name: str) -> int:
        return next(k for k, table in enumerate(self._tables) if name in table)

    def _find(self, unit: str) -> str:
        while (above := self._root.get(unit, unit)) != unit:
            unit = above
        return unit

    def _group_name(self, root: str, first: Mapping[str, str]) -> str:
        said = sorted(u[1:] for u in {*self._root, root} if u[0] == "@" and self._find(u) == root)
        return said[0] if said else first[root]


def _settled(axis: Axis, named: Mapping[str, str]) -> Axis:
    """An axis whose group varies, under the group's name; any other is never cut."""
    name = named.get(axis.group or "")
    return Axis(axis.size) if name is None else replace(axis, group=name)
