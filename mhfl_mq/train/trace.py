"""Which units are the same: a probe of the code between the layers, by gradients.

Every leaf's output is replaced by fresh random numbers and cut off from what came before, so that between a leaf's
input and the outputs of other leaves there is only code without arrays (activations, pooling, reshapes, sums,
concatenation). The gradient of one input index with respect to those outputs then shows exactly which output channels
it is made of: one channel means that they count the same unit; many mean a mixture that cannot be sliced by itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mhfl_mq.train.ports import Port, Ports, Span

__all__ = ["Fault", "Ties", "trace"]

Sample = tuple[Tensor, ...]
PROBES = 16  # evenly spread indices of an axis that are probed besides its corners and every candidate's corners


@dataclass(frozen=True, slots=True)
class Fault:
    """An input whose units could not be found, and why. `unit` is the input's own."""

    leaf: str
    unit: str
    why: str


@dataclass(frozen=True, slots=True)
class Ties:
    """What the probe found: pairs of units that are the same, the shapes of free inputs, and what it could not see."""

    pairs: tuple[tuple[Span, Span], ...]
    resolved: Mapping[str, Span]  # unit of a free input -> its span, with blocks and inner
    used: frozenset[str]  # units of outputs that some input takes up one by one
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class _Seen:
    leaf: str
    port: Port
    tensor: Tensor


def trace(model: nn.Module, leaves: Mapping[str, Ports], sample: Sample) -> Ties:
    """Run the (largest) model once on the sample and probe every leaf's inputs."""
    inputs, outputs = _observed(model, leaves, sample)
    pairs: list[tuple[Span, Span]] = []
    resolved: dict[str, Span] = {}
    used: set[str] = set()
    faults: list[Fault] = []
    for seen in inputs:
        span = resolved.get(seen.port.span.unit, seen.port.span)
        if not seen.tensor.requires_grad:
            faults.append(Fault(seen.leaf, span.unit, "it reads the model's input, whose size is not the tier's"))
            continue
        makers = _makers(seen, outputs, span)
        if isinstance(makers, str):
            faults.append(Fault(seen.leaf, span.unit, makers))
            continue
        for maker, found in makers:
            fitted = _fit(span, maker, found)
            if fitted is None:
                why = f"its indices do not follow those of {maker.unit!r} in blocks"
                faults.append(Fault(seen.leaf, span.unit, why))
                break
            span = resolved[span.unit] = fitted
            pairs.append((span, maker))
            used.add(maker.unit)
    return Ties(tuple(pairs), resolved, frozenset(used), tuple(faults))


def _observed(model: nn.Module, leaves: Mapping[str, Ports], sample: Sample) -> tuple[list[_Seen], list[_Seen]]:
    """All tensors that went into leaves, and those that stand for what came out (raw arrays included)."""
    inputs: list[_Seen] = []
    outputs: list[_Seen] = []
    handles = []
    for name, ports in leaves.items():
        module = model.get_submodule(name)
        for local in ports.raw:
            array = getattr(module, local)
            array.requires_grad_(True)
            for d, span in enumerate(ports.axes[local]):
                assert span is not None
                outputs.append(_Seen(name, Port((), _fixed(d), span), array))
        if not ports.raw:
            before = _before(name, ports, inputs)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(_after(name, ports, outputs)))
    try:
        with torch.enable_grad():
            model(*sample)
    finally:
        for handle in handles:
            handle.remove()
    return inputs, outputs


def _fixed(d: int) -> Callable[[int], int]:
    return lambda dims: d


def _before(
    name: str, ports: Ports, inputs: list[_Seen]
) -> Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]:
    def hook(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        for place, port in enumerate(ports.inputs):
            value = args[place] if place < len(args) else kwargs.get(str(port.where))
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


def _makers(seen: _Seen, outputs: list[_Seen], span: Span) -> list[tuple[Span, dict[int, int]]] | str:
    """For every leaf output that the input is made of: which of its channels each probed index comes from."""
    tensor, dim = seen.tensor, seen.port.dim(seen.tensor.ndim)
    if tensor.shape[dim] != span.size:
        return f"its input has {tensor.shape[dim]} entries on axis {dim} instead of {span.size}"
    weights = torch.rand_like(tensor.select(dim, 0)) + 0.5  # else a softmax sums to one and hides its gradient
    by_array: dict[int, list[int]] = {}
    for number, maker in enumerate(outputs):
        by_array.setdefault(id(maker.tensor), []).append(number)
    arrays = [outputs[numbers[0]].tensor for numbers in by_array.values()]
    found: dict[int, dict[int, int]] = {}
    for j in _probes(span.size):
        target = (tensor.select(dim, j) * weights).sum()
        slopes: Sequence[Tensor | None] = torch.autograd.grad(target, arrays, retain_graph=True, allow_unused=True)
        for numbers, slope in zip(by_array.values(), slopes, strict=True):
            if slope is None or not slope.any():
                continue
            hits = {n: _channels_hit(outputs[n].port, slope) for n in numbers if outputs[n].port.span.channels > 1}
            single = {n: channels.pop() for n, channels in hits.items() if len(channels) == 1}
            if hits and not single:
                return f"it mixes the units of {outputs[numbers[0]].leaf!r} (heads? a reshape? a mean?)"
            for n, channel in single.items():
                found.setdefault(n, {})[j] = channel
    if not found:
        return "it is made of no layer's output"
    return [(outputs[n].port.span, channels) for n, channels in found.items()]


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
