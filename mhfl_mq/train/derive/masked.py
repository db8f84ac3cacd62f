"""Is a tier really a part of the full model? Compare its forward pass with the full model's, other units masked.

The full model is built at the tier's depth and at full width; every coordinate outside the tier is set to zero. A
masked unit must not take part in a mean either, so layer norms look at the tier's units only, and attention is
scaled by the width of the tier's heads, as it is in the tier's own model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis, Layout, Parameter
from mhfl_mq.train.derive.forward import Sample, copy_model, run_model, tensors_in
from mhfl_mq.train.derive.leaves import full_name
from mhfl_mq.train.derive.ports import Port, Ports

__all__ = ["TOLERANCE", "check_nesting", "check_seen", "influences", "outputs_of", "random_like"]

TOLERANCE = 1e-6  # relative, in float64: rounding over a deep network stays far below, a wrong cut far above
UNSEEN = 1e-10  # relative: what is only rounding in float64 is no influence on the output


def check_nesting(
    layout: Layout,
    models: Sequence[nn.Module],
    full_at_depth: Sequence[nn.Module],
    leaves: Mapping[str, Ports],
    sample: Sample,
) -> None:
    """Compare every tier with the full model on the sample; raises `LayoutError` with the first layer that differs.

    `full_at_depth` are models of full width and each tier's depth. None of the given models is changed.
    """
    inputs = _doubled(sample)
    for k in range(len(models)):
        small, full = copy_model(models[k]).double(), copy_model(full_at_depth[k]).double()
        _same_arrays(layout, k, full)
        _share(layout, k, small, full)
        _mask_means(layout, k, small, full)
        whose = f"tier {layout.tiers[k].name!r}"
        mine = outputs_of(small, leaves, inputs, whose)
        theirs = outputs_of(full, leaves, inputs, f"{whose} at full width")
        bad = next((n for n in mine if n not in theirs or not _agree(layout, k, leaves.get(n), n, mine, theirs)), None)
        if bad is not None:
            raise LayoutError(
                f"tier {layout.tiers[k].name!r} is not the full model with its other units masked",
                where=bad or "the model's output",
                remedy="annotate the arrays of this layer and of those that feed it, or make the factory's tiers nest",
            )


def check_seen(model: nn.Module, annotated: Iterable[str], sample: Sample) -> None:
    """Raise `LayoutError` when nothing on the sample depends on the annotated arrays of a layer: a wrong annotation
    would pass. So it is with the queries and keys of an attention over a sequence of length 1.

    `model` is the full one, and is not changed.
    """
    model = copy_model(model).double()
    with torch.no_grad():
        for array in model.parameters():
            array.copy_(random_like(array))
    weight = influences(model, _doubled(sample))
    if not weight:
        return  # an index or a class number: no slope says what it depends on
    of_layers: dict[str, list[str]] = {}
    for name in annotated:
        of_layers.setdefault(name.rpartition(".")[0], []).append(name)
    for names in of_layers.values():
        if all(weight.get(name, 1.0) <= UNSEEN * max(weight.values()) for name in names):
            raise LayoutError(
                "its annotation cannot be checked: on this sample no output depends on it (attention over a sequence "
                "of length 1, or over equal entries, gives the same whatever it compares)",
                where=", ".join(names),
                remedy="give the task a sample whose sequences have at least 2 entries that differ",
            )


def influences(model: nn.Module, inputs: Sample) -> dict[str, float]:
    """Parameter -> how much the model's output on the inputs depends on it (to be compared with one another).

    Empty for outputs that have no slope.
    """
    arrays = dict(model.named_parameters())
    seen = [t for t in outputs_of(model, {}, inputs, "the largest tier", cut_off=False)[""] if t.requires_grad]
    if not seen:
        return {}
    target = torch.stack([(t * torch.rand_like(t)).sum() for t in seen]).sum()
    slopes: Sequence[Tensor | None] = torch.autograd.grad(target, list(arrays.values()), allow_unused=True)
    return {
        name: 0.0 if slope is None else float((slope * array.detach()).abs().max())
        for (name, array), slope in zip(arrays.items(), slopes, strict=True)
    }


def _doubled(sample: Sample) -> Sample:
    return tuple(x.double() if x.is_floating_point() else x for x in sample)


def _same_arrays(layout: Layout, k: int, full: nn.Module) -> None:
    """At the tier's depth and full width, the arrays have the full model's shapes: depth adds, and changes nothing."""
    table = full.state_dict()
    for p in layout.parameters:
        if k >= p.since and (p.name not in table or table[p.name].shape != tuple(a.size for a in p.axes)):
            raise LayoutError(
                f"at the depth of tier {layout.tiers[k].name!r} and full width its shape is not the full model's",
                where=p.name,
                remedy="let depth add whole blocks, and keep the shape of what follows them",
            )


def _share(layout: Layout, k: int, small: nn.Module, full: nn.Module) -> None:
    """Random numbers for the tier's coordinates in both models, zeros for all others in the full one."""
    small_arrays, full_arrays = small.state_dict(), full.state_dict()
    trained = {name for name, _ in full.named_parameters()}
    with torch.no_grad():
        for p in layout.parameters:
            if k < p.since:
                continue
            tensor = full_arrays[p.name]
            kept = torch.zeros_like(tensor)
            view = _cut(kept, layout, p, k)
            # A buffer may have to be positive (a running variance).
            view.copy_(_cut(random_like(tensor) if p.name in trained else torch.rand_like(tensor) + 0.5, layout, p, k))
            tensor.copy_(kept)
            small_arrays[p.name].copy_(view.reshape(small_arrays[p.name].shape))


def random_like(array: Tensor) -> Tensor:
    """Random numbers that neither grow nor vanish through a layer."""
    fan = max(1, array[0].numel() if array.ndim > 1 else 4)
    numbers: Tensor = torch.randn_like(array) / fan**0.5
    return numbers


def _cut(tensor: Tensor, layout: Layout, p: Parameter, k: int) -> Tensor:
    """The tier's coordinates of a full array, as a view with blocks, channels and inner indices on their own axes."""
    fine = [n for a in p.axes for n in (a.blocks, a.channels, a.inner)]
    view = tensor.view(fine)
    for d, axis in enumerate(p.axes):
        view = view.narrow(3 * d + 1, 0, layout.width(axis, k))
    return view


def _mask_means(layout: Layout, k: int, small: nn.Module, full: nn.Module) -> None:
    """Make what the full model computes over all units look at the tier's units only."""
    parts = dict(small.named_modules())
    known = {p.name: p for p in layout.parameters}
    for name, module in list(full.named_modules()):
        part = parts.get(name)
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and isinstance(part, nn.LayerNorm | nn.RMSNorm):
            p = known.get(f"{name}.weight")
            live = [torch.arange(n) for n in part.normalized_shape]  # without weights: the first units
            live = [_live(layout, axis, k) for axis in p.axes] if p else live
            module.register_forward_hook(_over_live(module, part, live))
        for chain in dict(getattr(module, "parametrizations", {})).values():
            if isinstance(chain[0], parametrizations._WeightNorm):
                with torch.no_grad():  # a masked unit has length 0; its direction would be 0 / 0
                    chain.original1.masked_fill_(chain.original0 == 0, 1)
        if isinstance(module, nn.MultiheadAttention) and isinstance(part, nn.MultiheadAttention):
            _rescale(module, (module.head_dim / part.head_dim) ** 0.5)


def _rescale(attention: nn.MultiheadAttention, factor: float) -> None:
    """Queries times a factor: the same as another scale of the dot products."""
    rows = slice(0, attention.embed_dim)
    with torch.no_grad():
        if attention.in_proj_weight is not None:
            attention.in_proj_weight[rows] *= factor
        else:
            assert attention.q_proj_weight is not None
            attention.q_proj_weight *= factor
        if attention.in_proj_bias is not None:
            attention.in_proj_bias[rows] *= factor


def _over_live(
    full: nn.LayerNorm | nn.RMSNorm, part: nn.LayerNorm | nn.RMSNorm, live: list[Tensor]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook that gives a norm's output as computed over the tier's units of its input; the others stay zero."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> Tensor:
        first = result.ndim - len(live)
        small = args[0]
        for d, indices in enumerate(live):
            small = small.index_select(first + d, indices)
        small = part.forward(small)
        for d, indices in reversed(list(enumerate(live))):
            shape = list(small.shape)
            shape[first + d] = full.normalized_shape[d]
            small = small.new_zeros(shape).index_copy(first + d, indices, small)
        return small

    return hook


def _live(layout: Layout, axis: Axis, k: int) -> Tensor:
    """The indices of an axis that the tier has."""
    grid = torch.arange(axis.size).view(axis.blocks, axis.channels, axis.inner)
    return grid[:, : layout.width(axis, k)].reshape(-1)


# ---- comparing ------------------------------------------------------------------------------------------------


def outputs_of(
    model: nn.Module, leaves: Mapping[str, Ports], inputs: Sample, whose: str, *, cut_off: bool = True
) -> dict[str, list[Tensor]]:
    """What each leaf gave (its last call), in the order of the calls, and under "" what the model gave.

    `cut_off`: without the way in which it was computed.
    """
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str) -> "torch.utils.hooks.RemovableHandle":
        def hook(module: nn.Module, args: object, result: object) -> None:
            seen[name] = [t.detach() for t in tensors_in(result)]

        return model.get_submodule(name).register_forward_hook(hook)

    names = dict(model.named_modules())
    handles = [keep(name) for name, ports in leaves.items() if name in names and name and not ports.raw]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model.requires_grad_(True)  # with gradients torch's encoder layers run module by module, as in training
        with torch.enable_grad():
            seen[""] = [t.detach() if cut_off else t for t in tensors_in(run_model(model, inputs, whose))]
    finally:
        torch.set_default_dtype(before)
        for handle in handles:
            handle.remove()
    return seen


def _agree(
    layout: Layout,
    k: int,
    ports: Ports | None,
    name: str,
    mine: Mapping[str, list[Tensor]],
    theirs: Mapping[str, list[Tensor]],
) -> bool:
    """Whether the tier's tensors are the tier's units of the full model's (the model's own output: all of them)."""
    if len(mine[name]) != len(theirs[name]):
        return False
    for place, (small, full) in enumerate(zip(mine[name], theirs[name], strict=True)):
        if name and (small.shape != full.shape):
            axis = _axis_of(layout, name, ports, place)
            if axis is None:
                continue  # this tensor's units are not known here; what is made of it is compared further on
            port, counted = axis
            dim = port.dim(full.ndim)
            if full.shape[dim] != counted.size:
                return False
            full = full.index_select(dim, _live(layout, counted, k))
        if small.shape != full.shape:
            return False
        scale = 1 + float(full.nan_to_num(0, 0, 0).abs().max()) if full.numel() else 1.0
        if not torch.allclose(small, full, rtol=TOLERANCE, atol=TOLERANCE * scale):
            return False
    return True


def _axis_of(layout: Layout, name: str, ports: Ports | None, place: int) -> tuple[Port, Axis] | None:
    """The port of a leaf's output and its axis, in units of the layout's group."""
    if ports is None or place or not ports.outputs:
        return None
    known = {p.name: p for p in layout.parameters}
    for port in (port for port in ports.outputs if port.where == ports.outputs[0].where):
        for local, spans in ports.axes.items():
            p = known.get(full_name(name, local))
            for d, span in enumerate(spans):
                if p is not None and span is not None and span.unit == port.span.unit and p.axes[d].group:
                    inner = p.axes[d].inner // span.inner * port.span.inner
                    return port, Axis(p.axes[d].channels, port.span.blocks, inner, p.axes[d].group)
    return None
