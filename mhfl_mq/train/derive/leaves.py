"""The leaves of a task's model with their ports: what the modules' types say, and over it what a person annotated.

An annotation holds for any array: of a known layer, inside one that its type does not know (LoRA), of the model
itself. A layer that nothing is known of needs one for each of its arrays that vary; any other is derived.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis
from mhfl_mq.train.derive.arrays import Table, sizes_of
from mhfl_mq.train.derive.kinds import ports_of
from mhfl_mq.train.derive.ports import Port, Ports, Span

__all__ = ["Annotations", "check_annotations", "full_name", "leaves_of"]

Annotations = Mapping[str, tuple[Axis, ...]]


def full_name(leaf: str, local: str) -> str:
    """The name in the model of a leaf's array."""
    return f"{leaf}.{local}" if leaf else local


def check_annotations(notes: Annotations, tables: Sequence[Table], aliases: Mapping[str, str]) -> None:
    """Every annotation is of an array that the full model has, and fits its sizes in the tiers."""
    full = tables[-1]
    for name, said in notes.items():
        if name not in full:
            other = aliases.get(name)
            remedy = f"it is the array {other}: annotate that" if other else "correct the name, or leave it out"
            raise LayoutError("it is annotated, but the full model has no such array", where=name, remedy=remedy)
        shape = tuple(full[name].shape)
        if len(said) != len(shape):
            raise LayoutError(f"{len(said)} axes are annotated, it has {len(shape)}", where=name)
        for d, (axis, size) in enumerate(zip(said, shape, strict=True)):
            sizes = sizes_of(tables, name, d)
            if axis.size != size:
                what = f"axis {d} is annotated with {axis.size} indices, it has {size}"
                raise LayoutError(what, where=name, remedy="blocks * channels * inner is the full model's size")
            if axis.group is None and len(set(sizes)) > 1:
                what = f"axis {d} is annotated as never cut (group=None), and has the sizes {sizes} in the tiers"
                raise LayoutError(what, where=name, remedy="name the group of units that it counts")


def leaves_of(
    models: Sequence[nn.Module], tables: Sequence[Table], aliases: Mapping[str, str], notes: Annotations
) -> dict[str, Ports]:
    """The ports of every leaf of the largest model; what is inside a leaf belongs to it.

    Raises `LayoutError` for a layer that does not nest, unless all of its arrays that vary are annotated.
    """
    modules = [dict(model.named_modules()) for model in models]
    found: dict[str, Ports] = {}
    for name in modules[-1]:
        if any(name.startswith(f"{leaf}.") and not ports.raw for leaf, ports in found.items()):
            continue
        of_tiers = [table[name] for table in modules if name in table]
        refused: LayoutError | None = None
        try:
            ports = ports_of(name, of_tiers, len(models))
        except LayoutError as error:
            refused, ports = error, Ports({}, strange="its type alone does not nest")
        if ports is None:
            continue
        if not ports.raw:
            ports = _with_others(name, of_tiers[-1], ports, tables[-1])
        local = {n: aliases.get(full_name(name, n), "") for n in ports.axes}
        ports = _annotated(name, ports, {n: notes[full] for n, full in local.items() if full in notes})
        if refused is not None and _left(ports, local, tables):
            raise refused
        if ports.strange and not _left(ports, local, tables):
            ports = replace(ports, strange="")
        found[name] = ports
    return found


def _with_others(name: str, module: nn.Module, ports: Ports, table: Table) -> Ports:
    """A layer with the arrays in it that its type does not know: of a subclass, of a parametrization."""
    own = [*(n for n, _ in module.named_parameters()), *(n for n, _ in module.named_buffers())]
    others = {n: table[full_name(name, n)] for n in own if n not in ports.axes and full_name(name, n) in table}
    if not others:
        return ports
    axes = dict(ports.axes) | {n: (None,) * tensor.ndim for n, tensor in others.items()}
    why = f"{type(module).__name__} holds arrays that its kind of layer has not ({', '.join(others)})"
    return replace(ports, axes=axes, strange=ports.strange or why)


def _left(ports: Ports, local: Mapping[str, str], tables: Sequence[Table]) -> list[str]:
    """The arrays of a leaf with an axis that varies and that nobody annotated, neither it nor one like it."""
    return [
        full
        for n, full in local.items()
        if full
        for d, span in enumerate(ports.axes[n])
        if (span is None or not span.told) and len(set(sizes_of(tables, full, d))) > 1
    ]


def _annotated(leaf: str, ports: Ports, notes: Annotations) -> Ports:
    """The ports with what a person said about the leaf's arrays put in the place of what its type says.

    What the type holds to be the same units stays so: an array that is not annotated follows one that is, and two
    names for them are made one group.
    """
    swap: dict[Span, Span] = {}
    axes = dict(ports.axes)
    same: list[tuple[Span, Span]] = []
    told_of: dict[str, Span] = {}  # the type's unit -> what was first said of it
    for local, said in notes.items():
        axes[local] = tuple(
            None if a.group is None else Span(f"@{a.group}", a.channels, a.blocks, a.inner) for a in said
        )
        for old, new in zip(ports.axes[local], axes[local], strict=True):
            if old is None or new is None:
                continue
            first = swap.setdefault(old, new)
            if (first.channels, first.blocks, first.inner) != (new.channels, new.blocks, new.inner):
                raise LayoutError(
                    "it is annotated unlike another array of its layer that counts the same units",
                    where=full_name(leaf, local),
                    remedy=f"annotate both alike: {_text(first)} or {_text(new)}",
                )
            same.append((told_of.setdefault(old.unit, new), new))

    def follow(span: Span, where: str) -> Span:
        if span in swap or span.unit not in told_of:
            return swap.get(span, span)
        told = told_of[span.unit]
        if told.channels != span.channels:
            raise LayoutError(
                f"it counts the units that {told.unit[1:]!r} is annotated for, but is not annotated",
                where=where,
                remedy="annotate every array of the layer that varies",
            )
        same.append((span, told))
        return span

    def of_port(port: Port) -> Port:
        return replace(port, span=follow(port.span, leaf))

    for local in [n for n in axes if n not in notes]:
        axes[local] = tuple(s if s is None else follow(s, full_name(leaf, local)) for s in axes[local])
    inputs, outputs = (tuple(map(of_port, found)) for found in (ports.inputs, ports.outputs))
    return replace(ports, axes=axes, inputs=inputs, outputs=outputs, same=tuple(same))


def _text(span: Span) -> str:
    return f"Axis({span.channels}, {span.blocks}, {span.inner}, {span.unit[1:]!r})"
