"""What each kind of torch module does with its channels: how its arrays, inputs and outputs are indexed by units.

A module that owns arrays is a leaf. For a leaf, `ports_of` says which units each axis of each array counts (blocks,
channels, inner: see `mhfl_mq.segments.Axis`), and where the same units show in the tensors that go in and come out.
Between leaves there is only code without arrays, which `mhfl_mq.train.trace` looks through.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import nn

from mhfl_mq.errors import LayoutError

__all__ = ["Port", "Ports", "Span", "ports_of"]


@dataclass(frozen=True, slots=True)
class Span:
    """An index space of `blocks * channels * inner` that counts the channels of a unit.

    `free`: nothing but its size is known from the module (the input of a linear layer may be a flattened image);
    blocks and inner then follow from whoever produces it.
    """

    unit: str
    channels: int
    blocks: int = 1
    inner: int = 1
    free: bool = False

    @property
    def size(self) -> int:
        """How many indices there are."""
        return self.channels * self.blocks * self.inner

    def channel(self, index: int) -> int:
        """Which channel of the unit an index belongs to."""
        return (index // self.inner) % self.channels


@dataclass(frozen=True, slots=True)
class Port:
    """Where a span shows in a tensor: `where` is the argument's name, or the path into the outputs; `dim` its axis."""

    where: str | tuple[int, ...]
    dim: Callable[[int], int]  # the tensor's number of dimensions -> the axis
    span: Span


@dataclass(frozen=True, slots=True)
class Ports:
    """A leaf's arrays (local name -> a span or None for each axis), its inputs and its outputs."""

    axes: dict[str, tuple[Span | None, ...]]
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    raw: tuple[str, ...] = field(default=())  # arrays that the model's own code uses directly


def ports_of(name: str, modules: Sequence[nn.Module]) -> Ports | None:
    """The ports of one leaf, given as the modules of all tiers that have it (the largest last); None: no leaf.

    Raises `LayoutError` for a module that cannot be cut into nested tiers, with what to use instead.
    """
    full = modules[-1]
    for kinds, rule in _RULES:
        if isinstance(full, kinds):
            ports = rule(name, modules)
            return replace(ports, axes={n: a for n, a in ports.axes.items() if _owned(full, n)})
    own = [n for n, _ in full.named_parameters(recurse=False)]
    own += [n for n, b in full.named_buffers(recurse=False) if b.is_floating_point()]
    return _raw(name, full, own) if own else None


def _owned(module: nn.Module, local: str) -> bool:
    found: object = module
    for part in local.split("."):
        found = getattr(found, part, None)
    return found is not None


def _last(dims: int) -> int:
    return dims - 1


def _raw(name: str, module: nn.Module, own: Sequence[str]) -> Ports:
    """Arrays of a module that is not known here: each axis is a unit of its own until the trace ties it."""
    prefix = f"{name}." if name else ""
    axes = {n: tuple(Span(f"{prefix}{n}:{d}", s) for d, s in enumerate(getattr(module, n).shape)) for n in own}
    return Ports(dict(axes), raw=tuple(own))


# ---- one rule for each kind -----------------------------------------------------------------------------------


def _linear(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.Linear)
    out, into = Span(f"{name}:out", full.out_features), Span(f"{name}:in", full.in_features, free=True)
    return Ports({"weight": (out, into), "bias": (out,)}, (Port("input", _last, into),), (Port((), _last, out),))


def _conv(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    spatial = len(full.kernel_size)
    per_group = {(m.in_channels // m.groups, m.out_channels // m.groups) for m in _same(modules, type(full))}
    groups = {m.groups for m in _same(modules, type(full))}
    inside: Span | None
    if groups == {1}:
        out, into = Span(f"{name}:out", full.out_channels), Span(f"{name}:in", full.in_channels, free=True)
        inside = into
    elif len(per_group) == 1:  # the number of groups varies: a group is one channel of the unit (depthwise)
        ((per_in, per_out),) = per_group
        out, into = (Span(name, full.groups, inner=per) for per in (per_out, per_in))
        inside = None
    elif len(groups) == 1:  # the groups stay, and each becomes narrower
        out = Span(f"{name}:out", full.out_channels // full.groups, blocks=full.groups)
        into = Span(f"{name}:in", full.in_channels // full.groups, blocks=full.groups)
        inside = replace(into, blocks=1)
    else:
        raise LayoutError(
            "both the groups and the channels per group of a convolution differ between tiers",
            where=name,
            remedy="keep one of the two the same in every tier",
        )
    kernel = (None,) * spatial
    channel = _channel_dim(spatial)
    return Ports(
        {"weight": (out, inside, *kernel), "bias": (out,)},
        (Port("input", channel, into),),
        (Port((), channel, out),),
    )


def _transposed(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    if full.groups != 1:
        raise LayoutError("a transposed convolution with groups", where=name, remedy="use groups=1, or annotate it")
    out, into = Span(f"{name}:out", full.out_channels), Span(f"{name}:in", full.in_channels, free=True)
    spatial = len(full.kernel_size)
    channel = _channel_dim(spatial)
    return Ports(
        {"weight": (into, out, *(None,) * spatial), "bias": (out,)},
        (Port("input", channel, into),),
        (Port((), channel, out),),
    )


def _group_norm(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.GroupNorm)
    each = {m.num_channels // m.num_groups for m in _same(modules, nn.GroupNorm)}
    if len(each) > 1:
        raise LayoutError(
            f"the groups of a GroupNorm do not nest: {sorted(each)} channels per group in different tiers",
            where=name,
            remedy="fix the channels per group, e.g. GroupNorm(channels // 4, channels)",
        )
    return _elementwise(Span(name, full.num_groups, inner=each.pop()), lambda dims: 1)


def _layer_norm(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.LayerNorm | nn.RMSNorm)
    shape = tuple(full.normalized_shape)
    spans = tuple(Span(f"{name}:{d}", size) for d, size in enumerate(shape))

    def at(d: int) -> Callable[[int], int]:
        return lambda dims: dims - len(shape) + d

    return Ports(
        {"weight": spans, "bias": spans},
        tuple(Port("input", at(d), span) for d, span in enumerate(spans)),
        tuple(Port((), at(d), span) for d, span in enumerate(spans)),
    )


def _channel_norm(name: str, modules: Sequence[nn.Module]) -> Ports:
    """BatchNorm and InstanceNorm on the batch's own statistics: each channel by itself."""
    full = modules[-1]
    if getattr(full, "running_mean", None) is not None:
        raise LayoutError(
            f"{type(full).__name__} with running statistics: a channel measures something else in each tier",
            where=name,
            remedy="use GroupNorm with a fixed number of channels per group, or track_running_stats=False",
        )
    return _elementwise(Span(name, full.num_features), lambda dims: 1)  # type: ignore[arg-type]


def _prelu(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.PReLU)
    if full.num_parameters == 1:
        return Ports({"weight": (None,)})
    return _elementwise(Span(name, full.num_parameters), lambda dims: 1)


def _elementwise(span: Span, dim: Callable[[int], int]) -> Ports:
    return Ports({"weight": (span,), "bias": (span,)}, (Port("input", dim, span),), (Port((), dim, span),))


def _embedding(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.Embedding | nn.EmbeddingBag)
    out = Span(f"{name}:out", full.embedding_dim)
    return Ports({"weight": (None, out)}, (), (Port((), _last, out),))


def _recurrent(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.RNNBase)
    gates = {"LSTM": 4, "GRU": 3}.get(full.mode, 1)
    ways = 2 if full.bidirectional else 1
    hidden = Span(f"{name}:hidden", full.hidden_size)
    shown = Span(f"{name}:shown", full.proj_size) if full.proj_size else hidden
    into = Span(f"{name}:in", full.input_size, free=True)
    gate = replace(hidden, blocks=gates)
    axes: dict[str, tuple[Span | None, ...]] = {}
    for layer in range(full.num_layers):
        for end in ("", "_reverse")[:ways]:
            axes[f"weight_ih_l{layer}{end}"] = (gate, replace(shown, blocks=ways) if layer else into)
            axes[f"weight_hh_l{layer}{end}"] = (gate, shown)
            axes[f"bias_ih_l{layer}{end}"] = axes[f"bias_hh_l{layer}{end}"] = (gate,)
            axes[f"weight_hr_l{layer}{end}"] = (shown, hidden)
    states: tuple[Port, ...] = (Port((1,), _last, hidden),)
    if full.mode == "LSTM":
        states = (Port((1, 0), _last, shown), *(() if full.proj_size else (Port((1, 1), _last, hidden),)))
    outputs = (Port((0,), _last, replace(shown, blocks=ways)), *states)
    return Ports(axes, (Port("input", _last, into),), outputs)


def _cell(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.RNNCellBase)
    gates = {nn.LSTMCell: 4, nn.GRUCell: 3}.get(type(full), 1)
    hidden, into = Span(f"{name}:hidden", full.hidden_size), Span(f"{name}:in", full.input_size, free=True)
    gate = replace(hidden, blocks=gates)
    outputs: tuple[Port, ...] = (Port((), _last, hidden),)
    if isinstance(full, nn.LSTMCell):
        outputs = (Port((0,), _last, hidden), Port((1,), _last, hidden))
    axes: dict[str, tuple[Span | None, ...]] = {"weight_ih": (gate, into), "weight_hh": (gate, hidden)}
    return Ports(axes | {"bias_ih": (gate,), "bias_hh": (gate,)}, (Port("input", _last, into),), outputs)


def _attention(name: str, modules: Sequence[nn.Module]) -> Ports:
    """Heads are blocks: each head becomes narrower, or, where their width stays, there are fewer heads."""
    full = modules[-1]
    assert isinstance(full, nn.MultiheadAttention)
    every = _same(modules, nn.MultiheadAttention)
    heads, each = {m.num_heads for m in every}, {m.head_dim for m in every}
    if len(heads) == 1:
        inside = Span(f"{name}:heads", full.head_dim, blocks=full.num_heads)
    elif len(each) == 1:
        inside = Span(f"{name}:heads", full.num_heads, inner=full.head_dim)
    else:
        raise LayoutError(
            "both the number of heads and their width differ between tiers",
            where=name,
            remedy="keep one of the two the same in every tier",
        )
    out = Span(f"{name}:out", full.embed_dim)
    query, key, value = (
        Span(f"{name}:{what}", size, free=True)
        for what, size in (("query", full.embed_dim), ("key", full.kdim), ("value", full.vdim))
    )
    together = replace(inside, blocks=3 * inside.blocks)
    axes: dict[str, tuple[Span | None, ...]] = {
        "in_proj_weight": (together, query),
        "q_proj_weight": (inside, query),
        "k_proj_weight": (inside, key),
        "v_proj_weight": (inside, value),
        "in_proj_bias": (together,),
        "bias_k": (None, None, inside),
        "bias_v": (None, None, inside),
        "out_proj.weight": (out, inside),
        "out_proj.bias": (out,),
    }
    if full.in_proj_weight is not None:  # one array for all three: they count the same units
        key = value = query
    inputs = (Port("query", _last, query), Port("key", _last, key), Port("value", _last, value))
    return Ports(axes, inputs, (Port((0,), _last, out),))


_M = TypeVar("_M", bound=nn.Module)


def _same(modules: Sequence[nn.Module], kind: type[_M]) -> list[_M]:
    return [m for m in modules if isinstance(m, kind)]


def _channel_dim(spatial: int) -> Callable[[int], int]:
    return lambda dims: dims - spatial - 1


_RULES: tuple[tuple[tuple[type[nn.Module], ...], Callable[[str, Sequence[nn.Module]], Ports]], ...] = (
    ((nn.MultiheadAttention,), _attention),
    ((nn.Linear,), _linear),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    ((nn.GroupNorm,), _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    ((nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm), _channel_norm),
    ((nn.PReLU,), _prelu),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.RNNBase,), _recurrent),
    ((nn.RNNCellBase,), _cell),
)
