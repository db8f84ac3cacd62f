"""Laws of derived layouts: every kind of layer nests, is one prefix, and its groups count the same units.

`derive_layout` itself compares each tier's forward pass with the masked full model's. The tests here do it again with
their own, slower comparison, and roll the units of each group, which tells whether its axes really count the same.
"""

from collections.abc import Callable
from itertools import pairwise
from types import MethodType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Layout, Packer, Tier
from mhfl_mq.train.derive import TierShape, derive_layout, layout_arrays

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

Build = Callable[[TierShape], nn.Module]
Zoo = dict[str, tuple[Build, Tensor]]
TIERS = (Tier("small", 0.25, 1), Tier("middle", 0.5, 2), Tier("large", 1.0, 2))


def built(build: Build, tier: Tier) -> nn.Module:
    return build(TierShape(tier.width, tier.depth)).eval()


def randomize(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) / max(1, p[0].numel() if p.ndim > 1 else 1) ** 0.5)


def cut(model: nn.Module, layout: Layout, tier: int, into: nn.Module) -> None:
    """Put the tier's prefix of the full model into the tier's own model: what a device does."""
    source = {n: t.detach().numpy() for n, t in layout_arrays(model).items()}
    target = {n: t.detach().numpy() for n, t in layout_arrays(into).items()}
    Packer(layout, tier).scatter(Packer(layout, tier, model=len(layout.tiers) - 1).gather(source), target)


def mask(model: nn.Module, layout: Layout, tier: int) -> None:
    """Zero every coordinate of the full model that the tier has not."""
    arrays = {n: t.detach().numpy() for n, t in layout_arrays(model).items()}
    last = len(layout.tiers) - 1
    flat = Packer(layout, last).gather(arrays)
    flat[layout.lengths[tier] :] = 0
    Packer(layout, last).scatter(flat, arrays)


# ---- what looks at all units, computed over those that are not masked: slowly, and in its own way ------------------


def slow_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    live = norm.weight != 0
    seen = x[..., live]
    centred = seen - seen.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    result = torch.zeros_like(x)
    result[..., live] = scaled * norm.weight[live] + norm.bias[live]
    return result


def slow_attention(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """One head after the other, one batch entry after the other; scores scaled by the head's units that are live."""
    size, each = attention.embed_dim, attention.head_dim
    if attention.in_proj_weight is None:
        weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
    else:
        weights = list(torch.split(attention.in_proj_weight, size))
    biases = torch.split(attention.in_proj_bias, size)
    projected = [x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    if attention.bias_k is not None and attention.bias_v is not None:
        for i, extra in ((1, attention.bias_k), (2, attention.bias_v)):
            projected[i] = torch.cat([projected[i], extra.expand(len(query), -1, -1)], 1)
    mixed = torch.zeros(*query.shape[:2], size)
    for h in range(attention.num_heads):
        rows = slice(h * each, (h + 1) * each)
        live = int((weights[0][rows] != 0).any(1).sum())
        for entry in range(len(query)):
            q, k, v = (p[entry, :, rows] for p in projected)
            mixed[entry, :, rows] = torch.softmax(q @ k.T / max(1, live) ** 0.5, -1) @ v
    return attention.out_proj(mixed), None


def slowly(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.forward = MethodType(slow_norm, module)  # type: ignore[method-assign]
        if isinstance(module, nn.MultiheadAttention):
            module.forward = MethodType(slow_attention, module)  # type: ignore[method-assign]
        lengths = getattr(getattr(module, "parametrizations", None), "weight", None)
        if lengths is not None:  # a weight norm: a masked unit's direction would be 0 / 0
            lengths.original1.data[(lengths.original0 == 0).expand_as(lengths.original1)] = 1


def assert_nests(layout: Layout, build: Build, sample: Tensor, seed: int) -> None:
    for k, tier in enumerate(layout.tiers):
        torch.manual_seed(seed + k)
        whole = Tier("whole", layout.tiers[-1].width, layout.tiers[-1].depth)
        full, small = built(build, whole), built(build, tier)
        randomize(full)
        cut(full, layout, k, small)
        mask(full, layout, k)
        shallow = built(build, Tier("shallow", whole.width, tier.depth))  # deeper blocks may add their biases
        known = layout_arrays(full)
        with torch.no_grad():
            for name, array in layout_arrays(shallow).items():
                array.copy_(known[name])
        slowly(shallow)
        # With gradients torch's encoder layers run module by module, so that the slow ones are called.
        assert torch.allclose(small(sample), shallow(sample), rtol=1e-3, atol=1e-4)


def assert_rolls(layout: Layout, build: Build, sample: Tensor, seed: int) -> None:
    for group in layout.groups:
        torch.manual_seed(seed)
        model = built(build, layout.tiers[-1])
        with torch.no_grad():
            before = model(sample)
            for name, tensor in layout_arrays(model).items():
                axes = next(p.axes for p in layout.parameters if p.name == name)
                fine = tensor.view([n for a in axes for n in (a.blocks, a.channels, a.inner)])
                dims = [3 * d + 1 for d, a in enumerate(axes) if a.group == group]
                if dims:
                    tensor.copy_(fine.roll([1] * len(dims), dims).reshape(tensor.shape))
            assert torch.allclose(model(sample), before, rtol=1e-4, atol=1e-5), group


# ---- every kind ------------------------------------------------------------------------------------------------


def test_the_layouts_tiers_have_exactly_the_shapes_of_the_tiers_models(kind: str, zoo: Zoo) -> None:
    build, sample = zoo[kind]
    layout = derive_layout(build, TIERS, sample=sample)
    for k, tier in enumerate(TIERS):
        arrays = layout_arrays(built(build, tier))
        assert layout.shapes(k) == {n: tuple(t.shape) for n, t in arrays.items()}
        assert layout.lengths[k] == sum(t.numel() for t in arrays.values())


def test_a_tier_computes_what_the_full_model_computes_with_the_other_units_masked(kind: str, zoo: Zoo) -> None:
    build, sample = zoo[kind]
    assert_nests(derive_layout(build, TIERS, sample=sample, verify=False), build, sample, seed=0)


def test_rolling_the_units_of_a_group_changes_nothing_that_the_model_computes(kind: str, zoo: Zoo) -> None:
    build, sample = zoo[kind]
    layout = derive_layout(build, TIERS, sample=sample)
    assert layout.groups
    assert_rolls(layout, build, sample, seed=3)


def test_a_made_up_sample_gives_the_same_layout_as_a_real_one(kind: str, zoo: Zoo) -> None:
    build, sample = zoo[kind]
    if kind in READS_ONE_LENGTH:
        with pytest.raises(LayoutError, match="give the task a sample"):
            derive_layout(build, TIERS)
        return
    assert derive_layout(build, TIERS).digest == derive_layout(build, TIERS, sample=sample).digest


READS_ONE_LENGTH = {"attention", "attention with fewer heads", "vision transformer"}  # and it is none of the usual

# ---- drawn at random -------------------------------------------------------------------------------------------

widths = st.lists(st.sampled_from((0.25, 0.5, 0.75, 1.0)), min_size=1, max_size=3, unique=True).map(sorted)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), widths=widths, deep=st.integers(0, 3), seed=st.integers(0, 99))
def test_any_kind_nests_at_any_widths_and_depths(
    zoo: Zoo, data: st.DataObject, widths: list[float], deep: int, seed: int
) -> None:
    kind = data.draw(st.sampled_from(sorted(zoo)))
    build, sample = zoo[kind]
    tiers = tuple(Tier(f"t{k}", width, 1 if k < deep else 2) for k, width in enumerate(widths))
    layout = derive_layout(build, tiers, sample=sample, verify=False)
    assert_nests(layout, build, sample, seed)
    assert_rolls(layout, build, sample, seed)


class Stack(nn.Module):
    """Layers over a sequence in any order, each as wide as was drawn."""

    def __init__(self, s: TierShape, pieces: list[tuple[str, int]]) -> None:
        super().__init__()
        width = 3
        layers: list[nn.Module] = []
        for what, size in pieces:
            wide = int(8 * size * s.width)
            layers.append(nn.GRU(width, wide, batch_first=True) if what == "gru" else nn.Linear(width, wide))
            width = wide
            more: dict[str, list[nn.Module]] = {
                "norm": [nn.LayerNorm(width)],
                "groups": [nn.Flatten(0, 1), nn.GroupNorm(width // 2, width), nn.Unflatten(0, (2, 4))],
                "attend": [nn.MultiheadAttention(width, 2, batch_first=True)],
                "relu": [nn.ReLU()],
                "residual": [nn.Linear(width, width)],
            }
            layers += more.get(what, [])
        self.layers, self.out = nn.ModuleList(layers), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, nn.MultiheadAttention):
                x = x + layer(x, x, x, need_weights=False)[0]
            elif isinstance(layer, nn.GRU):
                x = layer(x)[0]
            elif isinstance(layer, nn.Linear) and layer.in_features == layer.out_features:
                x = x + torch.relu(layer(x))
            else:
                x = layer(x)
        return self.out(x)  # type: ignore[no-any-return]


PIECES = st.tuples(
    st.sampled_from(("linear", "relu", "norm", "groups", "attend", "gru", "residual")), st.integers(1, 2)
)


@settings(max_examples=25, deadline=None)
@given(pieces=st.lists(PIECES, min_size=1, max_size=3), widths=widths, seed=st.integers(0, 99))
def test_any_stack_of_layers_nests(pieces: list[tuple[str, int]], widths: list[float], seed: int) -> None:
    def build(s: TierShape) -> nn.Module:
        return Stack(s, pieces)

    tiers = tuple(Tier(f"t{width}", width) for width in widths)
    sample = torch.rand(2, 4, 3)
    layout = derive_layout(build, tiers, sample=sample, verify=False)
    assert_nests(layout, build, sample, seed)
    assert_rolls(layout, build, sample, seed)


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True).map(sorted),
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_any_mlp_nests(widths: list[int], hidden: list[int], seed: int) -> None:
    def build(s: TierShape) -> nn.Module:
        sizes = [3, *(max(1, round(h * s.width * 2)) for h in hidden), 2]
        return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))

    tiers = tuple(Tier(f"t{w}", w / 8) for w in widths)
    models = [build(TierShape(t.width)) for t in tiers]
    if len({sum(p.numel() for p in m.parameters()) for m in models}) < len(models):
        with pytest.raises(LayoutError, match="adds no coordinate"):
            derive_layout(build, tiers, sample=torch.rand(2, 3))
        return
    layout = derive_layout(build, tiers, sample=torch.rand(2, 3))
    assert_nests(layout, build, torch.rand(2, 3), seed)
