"""What each kind of torch module does with its channels: how its arrays, inputs and outputs are indexed by units.

A module that owns arrays is a leaf. For a leaf, `ports_of` says which units each axis of each array counts (blocks,
channels, inner: see `mhfl_mq.segments.Axis`), and where the same units show in the tensors that go in and come out.
Between leaves there is only code without arrays, which `mhfl_mq.train.derive.trace` looks through.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrizations

from mhfl_mq.errors import LayoutError
from mhfl_mq.train.derive.ports import Port, Ports, Span

__all__ = ["ports_of"]


def ports_of(name: str, modules: Sequence[nn.Module], tiers: int) -> Ports | None:
    """The ports of one leaf, given as the modules of those of `tiers` that have it (largest last); None: no leaf.

    Raises `LayoutError` for a module that cannot be cut into nested tiers, with what to use instead.
    """
    full = modules[-1]
    for kinds, rule in _RULES:
        if isinstance(full, kinds):
            ports = rule(name, modules)
            axes = {n: a for n, a in ports.axes.items() if _owned(full, n)} | _weight_normed(full, ports)
            singles = [rule(name, [module]) for module in modules if isinstance(module, kinds)]
            return replace(
                ports,
                axes=axes,
                inputs=_with_varies(ports.inputs, [single.inputs for single in singles], tiers),
                outputs=_with_varies(ports.outputs, [single.outputs for single in singles], tiers),
            )
    own = [n for n, _ in full.named_parameters(recurse=False)]
    own += [n for n, b in full.named_buffers(recurse=False) if b.is_floating_point()]
    return _raw(name, modules, own, tiers) if own else None


def _owned(module: nn.Module, local: str) -> bool:
    found: object = module
    for part in local.split("."):
        found = getattr(found, part, None)
    return found is not None


def _with_varies(ports: tuple[Port, ...], of_tiers: Sequence[tuple[Port, ...]], tiers: int) -> tuple[Port, ...]:
    """The ports with whether their sizes differ between the tiers."""
    sizes = zip(*([port.span.size for port in tier] for tier in of_tiers), strict=True)
    return tuple(replace(port, varies=_varies(found, tiers)) for port, found in zip(ports, sizes, strict=True))


def _varies(sizes: Sequence[int], tiers: int) -> bool | None:
    """Whether they differ; None where they do not, but a tier that lacks the layer would have it narrower, or not."""
    return True if len(set(sizes)) > 1 else None if len(sizes) < tiers else False


def _weight_normed(module: nn.Module, ports: Ports) -> dict[str, tuple[Span | None, ...]]:
    """The length and the direction that a weight norm keeps instead of an array: cut as the array itself.

    Each unit's norm is over its own coordinates, and those that a tier has not are zero: it nests.
    """
    found: dict[str, tuple[Span | None, ...]] = {}
    for local, chain in dict(getattr(module, "parametrizations", {})).items():
        spans = ports.axes.get(local)
        if spans is not None and [type(p) for p in chain] == [parametrizations._WeightNorm]:
            found[f"parametrizations.{local}.original1"] = spans
            lengths = chain.original0.shape
            found[f"parametrizations.{local}.original0"] = tuple(
                span if size > 1 else None for span, size in zip(spans[: len(lengths)], lengths, strict=True)
            )
    return found


def _last(dims: int) -> int:
    return dims - 1


def _raw(name: str, modules: Sequence[nn.Module], own: Sequence[str], tiers: int) -> Ports:
    """Arrays of a module that is not known here: each axis that may vary is a unit of its own until the trace ties it.

    An axis of the same size in all tiers counts nothing that is cut (the places of a position embedding).
    """
    prefix = f"{name}." if name else ""
    axes: dict[str, tuple[Span | None, ...]] = {}
    outputs: list[Port] = []
    for n in own:
        shapes = [tuple(getattr(m, n).shape) for m in modules if getattr(m, n, None) is not None]
        spans = [Span(f"{prefix}{n}:{d}", size) for d, size in enumerate(shapes[-1])]
        varies = [_varies([shape[d] for shape in shapes], tiers) for d in range(len(spans))]
        axes[n] = tuple(None if may is False else span for span, may in zip(spans, varies, strict=True))
        outputs += [Port((n,), _at(d), s, may) for d, (s, may) in enumerate(zip(spans, varies, strict=True))]
    return Ports(axes, outputs=tuple(outputs), raw=tuple(own))


def _at(d: int) -> Callable[[int], int]:
    return lambda dims: d


# ---- one rule for each kind -----------------------------------------------------------------------------------

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CHANNEL_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def _linear(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.Linear)
    out, into = Span(f"{name}:out", full.out_features), Span(f"{name}:in", full.in_features, free=True)
    return Ports({"weight": (out, into), "bias": (out,)}, (Port(("input",), _last, into),), (Port((), _last, out),))


def _conv(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, _CONVS)
    out, into = _channels(name, [m for m in modules if isinstance(m, _CONVS)])
    # Inside one group an axis counts that group's channels; with a group for each unit there is nothing left to cut.
    one_out, one_in = (None if s.unit == name else replace(s, blocks=1) for s in (out, into))
    ends = (into, one_out) if full.transposed else (out, one_in)
    spatial = len(full.kernel_size)
    channel = _channel_dim(spatial)
    return Ports(
        {"weight": (*ends, *(None,) * spatial), "bias": (out,)},
        (Port(("input",), channel, into),),
        (Port((), channel, out),),
    )


def _channels(name: str, every: Sequence[_Conv]) -> tuple[Span, Span]:
    """What the output and the input channels of a convolution count, given how many groups it has in each tier."""
    full = every[-1]
    groups = {m.groups for m in every}
    per_group = {(m.out_channels // m.groups, m.in_channels // m.groups) for m in every}
    if groups == {1}:
        return Span(f"{name}:out", full.out_channels), Span(f"{name}:in", full.in_channels, free=True)
    if len(per_group) == 1 and (len(groups) > 1 or full.groups == full.in_channels):
        ((per_out, per_in),) = per_group  # a group is one channel of the unit (depthwise)
        return Span(name, full.groups, inner=per_out), Span(name, full.groups, inner=per_in)
    if len(groups) == 1:  # the groups stay, and each becomes narrower (or nothing varies)
        sizes = (("out", full.out_channels), ("in", full.in_channels))
        out, into = (Span(f"{name}:{end}", size // full.groups, blocks=full.groups) for end, size in sizes)
        return out, into
    raise LayoutError(
        "both the groups and the channels per group of a convolution differ between tiers",
        where=name,
        remedy="keep one of the two the same in every tier",
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
        tuple(Port(("input",), at(d), span) for d, span in enumerate(spans)),
        tuple(Port((), at(d), span) for d, span in enumerate(spans)),
    )


def _channel_norm(name: str, modules: Sequence[nn.Module]) -> Ports:
    """BatchNorm and InstanceNorm: each channel by itself (`statistics` judges running statistics)."""
    full = modules[-1]
    assert isinstance(full, _CHANNEL_NORMS)
    ports = _elementwise(Span(name, full.num_features), lambda dims: 1)
    return replace(ports, axes=dict.fromkeys(("weight", "bias", "running_mean", "running_var"), ports.axes["weight"]))


def _prelu(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.PReLU)
    if full.num_parameters == 1:
        return Ports({"weight": (None,)})
    return _elementwise(Span(name, full.num_parameters), lambda dims: 1)


def _elementwise(span: Span, dim: Callable[[int], int]) -> Ports:
    return Ports({"weight": (span,), "bias": (span,)}, (Port(("input",), dim, span),), (Port((), dim, span),))


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
    given: tuple[Port, ...] = (Port(("hx",), _last, hidden, optional=True),)
    states: tuple[Port, ...] = (Port((1,), _last, hidden),)
    if full.mode == "LSTM":
        given = (Port(("hx", 0), _last, shown, optional=True), Port(("hx", 1), _last, hidden, optional=True))
        states = (Port((1, 0), _last, shown), Port((1, 1), _last, hidden, optional=bool(full.proj_size)))
    outputs = (Port((0,), _last, replace(shown, blocks=ways)), *states)
    return Ports(axes, (Port(("input",), _last, into), *given), outputs)


def _cell(name: str, modules: Sequence[nn.Module]) -> Ports:
    full = modules[-1]
    assert isinstance(full, nn.RNNCellBase)
    gates = {nn.LSTMCell: 4, nn.GRUCell: 3}.get(type(full), 1)
    hidden, into = Span(f"{name}:hidden", full.hidden_size), Span(f"{name}:in", full.input_size, free=True)
    gate = replace(hidden, blocks=gates)
    states: tuple[Port, ...] = (Port(("hx",), _last, hidden, optional=True),)
    outputs: tuple[Port, ...] = (Port((), _last, hidden),)
    if isinstance(full, nn.LSTMCell):
        states = tuple(Port(("hx", i), _last, hidden, optional=True) for i in range(2))
        outputs = tuple(Port((i,), _last, hidden) for i in range(2))
    axes: dict[str, tuple[Span | None, ...]] = {"weight_ih": (gate, into), "weight_hh": (gate, hidden)}
    axes |= {"bias_ih": (gate,), "bias_hh": (gate,)}
    return Ports(axes, (Port(("input",), _last, into), *states), outputs)


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
    inputs = (Port(("query",), _last, query), Port(("key",), _last, key), Port(("value",), _last, value))
    return Ports(axes, inputs, (Port((0,), _last, out),))


_M = TypeVar("_M", bound=nn.Module)


def _same(modules: Sequence[nn.Module], kind: type[_M]) -> list[_M]:
    return [m for m in modules if isinstance(m, kind)]


def _channel_dim(spatial: int) -> Callable[[int], int]:
    return lambda dims: dims - spatial - 1


_RULES: tuple[tuple[tuple[type[nn.Module], ...], Callable[[str, Sequence[nn.Module]], Ports]], ...] = (
    ((nn.MultiheadAttention,), _attention),
    ((nn.Linear,), _linear),
    (_CONVS, _conv),
    ((nn.GroupNorm,), _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (_CHANNEL_NORMS, _channel_norm),
    ((nn.PReLU,), _prelu),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.RNNBase,), _recurrent),
    ((nn.RNNCellBase,), _cell),
)
