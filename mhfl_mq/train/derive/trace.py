"""Which units are the same: a probe of the code between the layers, by gradients.

Every leaf's output is replaced by fresh random numbers and cut off from what came before, so that between a leaf's
input and the outputs of other leaves there is only code without arrays (activations, pooling, reshapes, sums,
concatenation). The gradient of one input index with respect to those outputs then shows exactly which output channels
it is made of: one channel means that they count the same unit; many mean a mixture that cannot be sliced by itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mhfl_mq.train.derive.forward import Sample, run_model
from mhfl_mq.train.derive.hints import Part, Puzzle
from mhfl_mq.train.derive.ports import Port, Ports, Span

__all__ = ["Fault", "Ties", "trace"]

PROBES = 16  # evenly spread indices of an axis that are probed besides its corners and every candidate's corners


@dataclass(frozen=True, slots=True)
class Fault:
    """An input whose units could not be found, and why. `unit` is the input's own.

    `puzzle`: what it is made of one by one, where that was found and does not follow in blocks.
    """

    leaf: str
    unit: str
    why: str
    puzzle: Puzzle | None = None


@dataclass(frozen=True, slots=True)
class Ties:
    """What the probe found: pairs of units that are the same, the shapes of free inputs, and what it could not see."""

    pairs: tuple[tuple[Span, Span], ...] = ()
    resolved: Mapping[str, Span] = field(
        default_factory=dict
    )  # unit of a free input -> its span, with blocks and inner
    used: frozenset[str] = frozenset()  # units of outputs that some input takes up one by one
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    leaf: str
    port: Port
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class _Made:
    """What an input is made of: the outputs' ports with the channel that each probed index comes from, or a fault."""

    by: tuple[tuple[Port, dict[int, int]], ...] = ()
    kept: str = ""  # a leaf of which every tier has all, and that some indices are made of alone
    fault: str = ""
    mixed: bool = False


def trace(model: nn.Module, leaves: Mapping[str, Ports], sample: Sample) -> Ties:
    """Run the (largest) model once on the sample and probe every leaf's inputs.

    An axis that has the same size in every tier makes nothing that is cut: only outputs that vary are looked at. Of
    what a tier lacks nobody knows whether it would: it is tied where it follows, and no fault where it does not.
    """
    inputs, outputs = _observed(model, leaves, sample)
    pairs: list[tuple[Span, Span]] = []
    resolved: dict[str, Span] = {}
    used: set[str] = set()
    faults: list[Fault] = []
    for seen in inputs:
        span = resolved.get(seen.port.span.unit, seen.port.span)
        made = _made(seen, outputs, span)
        if made.fault:
            if made.mixed or not seen.port.optional:
                faults.append(Fault(seen.leaf, span.unit, made.fault))
            continue
        for maker, found in sorted(made.by, key=lambda item: not item[0].varies):
            fitted = _fit(span, maker.span, found)
            if fitted is None and not maker.varies:
                continue
            if fitted is None and seen.port.varies is False:
                why = f"{seen.leaf!r}, which every tier has whole, reads some of its units by their number"
                faults.append(Fault(seen.leaf, maker.span.unit, why))
                break
            if fitted is None or made.kept:
                why = f"its indices do not follow those of {maker.span.unit!r} in blocks"
                if made.kept:
                    why = f"a part of it is what {made.kept!r} gives, of which every tier has all"
                faults.append(Fault(seen.leaf, span.unit, why, _puzzle(span, made)))
                break
            span = resolved[span.unit] = fitted
            pairs.append((span, maker.span))
            if maker.span.unit != span.unit:  # a state that a layer hands to itself is no later layer
                used.add(maker.span.unit)
    return Ties(tuple(pairs), resolved, frozenset(used), tuple(faults))


def _puzzle(span: Span, made: _Made) -> Puzzle:
    by = () if made.kept else made.by  # beside what every tier has, nothing can be said
    parts = tuple(Part(port.span.unit, port.span.channels, found) for port, found in by if port.varies)
    gaps = any(len(part.found) < len(_probes(span.size)) for part in parts)
    return Puzzle(span.unit, span.size, parts, gaps)


def _observed(model: nn.Module, leaves: Mapping[str, Ports], sample: Sample) -> tuple[list[_Seen], list[_Seen]]:
    """All tensors that went into leaves, and those that stand for what came out (raw arrays included)."""
    inputs: list[_Seen] = []
    outputs: list[_Seen] = []
    handles = []
    for name, ports in leaves.items():
        module = model.get_submodule(name)
        if ports.raw:
            for port in ports.outputs:
                array: Tensor = getattr(module, str(port.where[0]))
                outputs.append(_Seen(name, port, array.requires_grad_(True)))
        else:
            before = _before(name, ports, inputs)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(_after(name, ports, outputs)))
    try:
        with torch.enable_grad():
            run_model(model, sample, "the largest tier")
    finally:
        for handle in handles:
            handle.remove()
    return inputs, outputs


def _before(
    name: str, ports: Ports, inputs: list[_Seen]
) -> Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]:
    def hook(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        names = list(dict.fromkeys(port.where[0] for port in ports.inputs))  # in the order of forward's arguments
        for port in ports.inputs:
            name_of, *path = port.where
            place = names.index(name_of)
            value = args[place] if place < len(args) else kwargs.get(str(name_of))
            for step in path:
                value = value[int(step)] if isinstance(value, tuple | list) else None
            if isinstance(value, nn.utils.rnn.PackedSequence):
                value = value.data
            if isinstance(value, Tensor) and value.is_floating_point():
                inputs.append(_Seen(name, port, value))

    return hook


def _after(name: str, ports: Ports, outputs: list[_Seen]) -> Callable[[nn.Module, tuple[object, ...], object], object]:
    def hook(module: nn.Module, args: tuple[object, ...], result: object) -> object:
        def fresh(value: object, path: tuple[int, ...]) -> object:
            if isinstance(value, nn.utils.rnn.PackedSequence):
                return value._replace(data=made(value.data, path))
            if isinstance(value, tuple | list):
                return type(value)(fresh(v, (*path, i)) for i, v in enumerate(value))
            return made(value, path) if isinstance(value, Tensor) and value.is_floating_point() else value

        def made(value: Tensor, path: tuple[int, ...]) -> Tensor:
            # Positive and all different: an activation lets them pass, a maximum picks one.
            luck = torch.rand_like(value, requires_grad=False).add_(0.5).requires_grad_(True)
            outputs.extend(_Seen(name, port, luck) for port in ports.outputs if port.where == path)
            return luck

        return fresh(result, ())

    return hook


def _made(seen: _Seen, outputs: list[_Seen], span: Span) -> _Made:
    """What the input is made of: for every output that varies, which of its channels each probed index comes from."""
    if not seen.tensor.requires_grad:
        return _Made(fault="it reads the model's input, whose size is not the tier's")
    tensor, dim = seen.tensor, seen.port.dim(seen.tensor.ndim)
    if tensor.shape[dim] != span.size:
        return _Made(
            fault=f"its input has {tensor.shape[dim]} entries on axis {dim} instead of {span.size}", mixed=True
        )
    weights = torch.rand_like(tensor.select(dim, 0)) + 0.5  # else a softmax sums to one and hides its gradient
    by_array: dict[int, list[int]] = {}
    for number, maker in enumerate(outputs):
        by_array.setdefault(id(maker.tensor), []).append(number)
    arrays = [outputs[numbers[0]].tensor for numbers in by_array.values()]
    found: dict[int, dict[int, int]] = {}
    whole: dict[int, str] = {}  # index -> a leaf whose output it is made of, and that is not cut
    for j in _probes(span.size):
        target = (tensor.select(dim, j) * weights).sum()
        slopes: Sequence[Tensor | None] = torch.autograd.grad(target, arrays, retain_graph=True, allow_unused=True)
        for numbers, slope in zip(by_array.values(), slopes, strict=True):
            if slope is None or not slope.any():
                continue
            ports = {n: outputs[n].port for n in numbers if outputs[n].port.varies is not False}
            hits = {n: _channels_hit(port, slope) for n, port in ports.items() if port.span.channels > 1}
            single = {n: channels.pop() for n, channels in hits.items() if len(channels) == 1}
            if hits and not single:
                why = f"it mixes the units of {outputs[numbers[0]].leaf!r} (heads? a reshape? a mean?)"
                return _Made(fault=why, mixed=True)
            for n, channel in single.items():
                found.setdefault(n, {})[j] = channel
            if not ports:
                whole[j] = outputs[numbers[0]].leaf
    if not found:
        leaf = next(iter(whole.values()), "")
        kept = f"it is made of what {leaf!r} gives, of which every tier has all" if leaf else ""
        return _Made(fault=kept or "it is made of no layer's output")
    alone = whole.keys() - {j for channels in found.values() for j in channels}
    kept = whole[min(alone)] if alone else ""
    return _Made(tuple((outputs[n].port, channels) for n, channels in found.items()), kept)


def _channels_hit(port: Port, slope: Tensor) -> set[int]:
    """The channels of a unit in which a gradient is not zero."""
    axis = port.dim(slope.ndim)
    others = [d for d in range(slope.ndim) if d != axis]
    along = slope.abs().sum(others) if others else slope.abs()
    return {port.span.channel(i) for i in along.nonzero().flatten().tolist()}


def _probes(size: int) -> list[int]:
    """Indices that tell every way to cut an axis apart: both sides of each divisor, the corners, a spread."""
    cuts = [d for d in range(1, math.isqrt(size) + 1) if size % d == 0]
    cuts += [size // d for d in cuts]
    spread = [i * size // PROBES for i in range(PROBES)]
    wanted = {0, 1, 2, size - 1, size - 2, *spread, *cuts, *(c - 1 for c in cuts)}
    return sorted(i for i in wanted if 0 <= i < size)


def _fit(span: Span, maker: Span, found: Mapping[int, int]) -> Span | None:
    """The input's span as the maker's unit cuts it; None when no blocks and inner indices explain what was seen."""
    if not span.free:
        fine, coarse = max(span.channels, maker.channels), min(span.channels, maker.channels)
        if fine % coarse:
            return None
        ours, theirs = fine // maker.channels, fine // span.channels
        same = all(span.channel(j) // ours == channel // theirs for j, channel in found.items())
        return span if same else None
    if span.size % maker.channels:
        return None
    times = span.size // maker.channels
    for inner in (d for d in range(1, times + 1) if times % d == 0):
        if all((j // inner) % maker.channels == channel for j, channel in found.items()):
            return replace(span, channels=maker.channels, blocks=times // inner, inner=inner, free=False)
    return None
