"""Layouts derived from models: every kind of layer nests, is one prefix, and what does not nest is refused by name.

`derive_layout` itself compares each tier's forward pass with the masked full model's; the tests here do it again with
their own, simpler comparison where no norm or attention looks at all units, and roll the units of each group, which
tells whether the axes of a group really count the same units.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis, Layout, Packer, Tier
from mhfl_mq.train.derive import TierShape, derive_layout, layout_arrays

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

Build = Callable[[TierShape], nn.Module]
TIERS = (Tier("small", 0.25, 1), Tier("middle", 0.5, 2), Tier("large", 1.0, 2))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def up(channels: int, shape: TierShape) -> int:
    return ceil(channels * shape.width)


# ---- the zoo: each a factory and a sample ---------------------------------------------------------------------


def mlp(s: TierShape) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, up(8, s)), nn.ReLU(), nn.Linear(up(8, s), up(12, s)), nn.GELU(), nn.Linear(up(12, s), 3)
    )


def convnet(s: TierShape) -> nn.Module:
    a, b = up(8, s), up(16, s)
    return nn.Sequential(
        nn.Conv2d(3, a, 3, padding=1), nn.GroupNorm(a // 2, a), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(b // 4, b), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(b * 4, up(12, s)), nn.ReLU(), nn.Linear(up(12, s), 5),
    )  # fmt: skip


def conv1d(s: TierShape) -> nn.Module:
    a = up(8, s)
    return nn.Sequential(
        nn.Conv1d(2, a, 3), nn.PReLU(a), nn.Conv1d(a, a, 3), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(2 * a, 3)
    )


def depthwise(s: TierShape) -> nn.Module:
    a = up(8, s)
    return nn.Sequential(
        nn.Conv2d(3, a, 1), nn.Conv2d(a, a, 3, groups=a), nn.Hardswish(), nn.Conv2d(a, 2 * a, 3, groups=a),
        nn.InstanceNorm2d(2 * a, affine=True), nn.Conv2d(2 * a, up(12, s), 1),
        nn.BatchNorm2d(up(12, s), track_running_stats=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(up(12, s), 4),
    )  # fmt: skip


class Grouped(nn.Module):
    """Two fixed groups, each narrower in smaller tiers: the input is two streams side by side."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        a, b = up(8, s), up(4, s)
        self.left, self.right = nn.Conv1d(2, a, 1), nn.Conv1d(2, a, 1)
        self.both = nn.Conv1d(2 * a, 2 * b, 3, groups=2)
        self.out = nn.Linear(2 * b * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.both(torch.cat([self.left(x), self.right(x)], 1))
        return self.out(y.flatten(1))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A residual stream with a depth: small tiers have fewer blocks."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, up(8, s), 3, padding=1)
        self.blocks = nn.ModuleList(Block(up(8, s), up(16, s)) for _ in range(s.depth or 2))
        self.head = nn.Linear(up(8, s), 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(width // 2, width)
        self.up, self.down = nn.Conv2d(width, inside, 3, padding=1), nn.Conv2d(inside, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))  # type: ignore[no-any-return]


class Text(nn.Module):
    """Embedding, recurrent layers, last step."""

    def __init__(self, s: TierShape, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(20, up(8, s))
        self.rnn = kind(up(8, s), up(8, s), batch_first=True, **options)
        shown = options.get("proj_size") or up(8, s)
        self.head = nn.Linear(shown * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.words(x))[0][:, -1])  # type: ignore[no-any-return]


class Packed(nn.Module):
    """A recurrent layer over sequences of several lengths."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(20, up(8, s)), nn.GRU(up(8, s), up(8, s), batch_first=True)
        self.head = nn.Linear(up(8, s), 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(len(x), 0, -1)
        packed = nn.utils.rnn.pack_padded_sequence(self.words(x), lengths, batch_first=True)
        padded, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(padded.sum(1))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Upsampling, attention between two streams of different width, a multi-axis norm, keyword calls."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        a, b = up(8, s), up(16, s)
        self.one, self.two = nn.Conv1d(2, a, 1), nn.Conv1d(2, b, 1)
        self.grow = nn.ConvTranspose1d(b, b, 2, stride=2)
        self.norm = nn.LayerNorm((b, 16))
        self.cross = nn.MultiheadAttention(b, 2, kdim=a, vdim=a, batch_first=True, add_bias_kv=True)
        self.out = nn.Linear(b, 3)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.one(x).transpose(1, 2)
        query = self.norm(self.grow(self.two(x))).transpose(1, 2)
        mixed, _ = self.cross(query=query, key=memory, value=memory)
        return self.out(query + mixed)  # type: ignore[no-any-return]


class Cells(nn.Module):
    def __init__(self, s: TierShape, kind: type[nn.LSTMCell | nn.GRUCell]) -> None:
        super().__init__()
        self.cell, self.head = kind(4, up(8, s)), nn.Linear(up(8, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0] if isinstance(state, tuple) else state)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Embedding and position, encoder layers with a depth, flatten over the sequence, tied or own head."""

    def __init__(self, s: TierShape, *, fewer_heads: bool = False) -> None:
        super().__init__()
        width = up(16, s)
        heads = width // 4 if fewer_heads else 2
        self.words, self.place = nn.Embedding(20, width), nn.Parameter(torch.randn(1, 5, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, up(24, s), dropout=0.1, batch_first=True, norm_first=True)
            for _ in range(s.depth or 2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(5 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).flatten(1))  # type: ignore[no-any-return]


class FixedEmbedding(nn.Module):
    """Attention whose embedding stays, between layers that vary."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.into, self.attention = nn.Linear(up(8, s), 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.first, self.out = nn.Linear(3, up(8, s)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(torch.relu(self.first(x)))
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.words, self.middle = nn.Embedding(11, up(8, s)), nn.Linear(up(8, s), up(8, s))
        self.head = nn.Linear(up(8, s), 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.words(x))))  # type: ignore[no-any-return]


class Counting(nn.Module):
    """A model with an integer buffer, a float constant that is saved, and one that is not."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, up(8, s)), nn.Linear(up(8, s), 2)
        self.scale: Tensor
        self.table: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("scale", torch.full((4,), 2.0))
        self.register_buffer("table", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x * self.scale * self.table)))  # type: ignore[no-any-return]


def words(n: int = 5) -> Tensor:
    return torch.arange(2 * n).view(2, n) % 11


IMAGES, SERIES = torch.rand(2, 3, 8, 8), torch.rand(2, 2, 8)
ZOO: dict[str, tuple[Build, Tensor]] = {
    "mlp": (mlp, torch.rand(2, 6)),
    "conv2d, group norm, flatten": (convnet, IMAGES),
    "conv1d, prelu": (conv1d, torch.rand(2, 2, 9)),
    "depthwise with multiplier": (depthwise, IMAGES),
    "grouped": (Grouped, SERIES),
    "residual with depth": (Residual, torch.rand(2, 1, 6, 6)),
    "lstm": (lambda s: Text(s, nn.LSTM), words()),
    "gru": (lambda s: Text(s, nn.GRU, num_layers=2), words()),
    "rnn": (lambda s: Text(s, nn.RNN), words()),
    "lstm both ways": (lambda s: Text(s, nn.LSTM, num_layers=2, bidirectional=True), words()),
    "lstm with projection": (lambda s: Text(s, nn.LSTM, proj_size=up(4, s)), words()),
    "packed gru": (Packed, words()),
    "decoder": (Decoder, SERIES),
    "lstm cell": (lambda s: Cells(s, nn.LSTMCell), torch.rand(2, 3, 4)),
    "gru cell": (lambda s: Cells(s, nn.GRUCell), torch.rand(2, 3, 4)),
    "attention": (Transformer, words()),
    "attention with fewer heads": (lambda s: Transformer(s, fewer_heads=True), words()),
    "attention of fixed embedding": (FixedEmbedding, torch.rand(2, 4, 3)),
    "tied weights": (Tied, words()),
    "buffers": (Counting, torch.rand(2, 4)),
}
LOOKS_AT_ALL_UNITS = {"attention", "attention with fewer heads", "decoder"}  # layer norm, and the scale of dot products


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


@pytest.mark.parametrize("kind", ZOO)
def test_the_layouts_tiers_have_exactly_the_shapes_of_the_tiers_models(kind: str) -> None:
    build, sample = ZOO[kind]
    layout = derive_layout(build, TIERS, sample=sample)
    for k, tier in enumerate(TIERS):
        arrays = layout_arrays(build(TierShape(tier.width, tier.depth)))
        assert layout.shapes(k) == {n: tuple(t.shape) for n, t in arrays.items()}
        assert layout.lengths[k] == sum(t.numel() for t in arrays.values())


@pytest.mark.parametrize("kind", [k for k in ZOO if k not in LOOKS_AT_ALL_UNITS])
def test_a_tier_computes_what_the_full_model_computes_with_the_other_units_masked(kind: str) -> None:
    build, sample = ZOO[kind]
    layout = derive_layout(build, TIERS, sample=sample)
    for k, tier in enumerate(TIERS):
        torch.manual_seed(k)
        full, small = build(TierShape(1.0, 2)).eval(), build(TierShape(tier.width, tier.depth)).eval()
        with torch.no_grad():
            for p in full.parameters():
                p.copy_(torch.randn_like(p))
        cut(full, layout, k, small)
        mask(full, layout, k)
        with torch.no_grad():
            assert torch.allclose(small(sample), full(sample), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ZOO)
def test_rolling_the_units_of_a_group_changes_nothing_that_the_model_computes(kind: str) -> None:
    build, sample = ZOO[kind]
    layout = derive_layout(build, TIERS, sample=sample)
    for group in layout.groups:
        torch.manual_seed(3)
        model = build(TierShape(1.0, 2)).eval()
        with torch.no_grad():
            before = model(sample)
            for name, tensor in layout_arrays(model).items():
                axes = next(p.axes for p in layout.parameters if p.name == name)
                fine = tensor.view([n for a in axes for n in (a.blocks, a.channels, a.inner)])
                dims = [3 * d + 1 for d, a in enumerate(axes) if a.group == group]
                if dims:
                    tensor.copy_(fine.roll([1] * len(dims), dims).reshape(tensor.shape))
            assert torch.allclose(model(sample), before, rtol=1e-4, atol=1e-5), group
    assert layout.groups


@pytest.mark.parametrize("kind", ZOO)
def test_a_made_up_sample_gives_the_same_layout_as_a_real_one(kind: str) -> None:
    build, sample = ZOO[kind]
    if kind in {"attention", "attention with fewer heads"}:
        with pytest.raises(LayoutError, match="give the task a sample"):
            derive_layout(build, TIERS)  # it reads exactly five words: no usual length
        return
    assert derive_layout(build, TIERS).digest == derive_layout(build, TIERS, sample=sample).digest


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
    for k, small in enumerate(models):
        torch.manual_seed(seed)
        full = build(TierShape(tiers[-1].width))
        cut(full, layout, k, small)
        mask(full, layout, k)
        x = torch.rand(2, 3)
        assert torch.allclose(small(x), full(x), rtol=1e-4, atol=1e-5)


# ---- what exactly is found ------------------------------------------------------------------------------------


def axes_of(layout: Layout, name: str) -> tuple[Axis, ...]:
    return next(p.axes for p in layout.parameters if p.name == name)


def test_a_flatten_makes_inner_indices_and_a_group_norm_makes_units_of_its_groups() -> None:
    layout = derive_layout(convnet, TIERS, sample=IMAGES)
    group = axes_of(layout, "4.weight")[0].group
    assert axes_of(layout, "4.weight")[0] == Axis(4, inner=4, group=group)  # 16 channels in norm groups of 4
    assert axes_of(layout, "9.weight")[1] == Axis(4, inner=16, group=group)  # 4 channels of 2 x 2 pixels
    assert group is not None
    assert layout.groups[group] == (1, 2, 4)


def test_gates_directions_and_heads_are_blocks() -> None:
    text = derive_layout(ZOO["lstm both ways"][0], TIERS, sample=words())
    hidden = axes_of(text, "rnn.weight_hh_l0")[1].group
    assert axes_of(text, "rnn.weight_hh_l0") == (Axis(8, 4, 1, hidden), Axis(8, group=hidden))
    assert axes_of(text, "rnn.weight_ih_l1")[1] == Axis(8, 2, 1, hidden)
    assert axes_of(text, "head.weight")[1] == Axis(8, 2, 1, hidden)
    attention = derive_layout(Transformer, TIERS, sample=words())
    q, stream = axes_of(attention, "layers.0.self_attn.in_proj_weight")
    assert (q.channels, q.blocks) == (8, 6)
    assert axes_of(attention, "layers.0.self_attn.out_proj.weight") == (stream, Axis(8, 2, 1, q.group))
    assert axes_of(attention, "head.weight")[1] == Axis(16, 5, 1, stream.group)
    assert axes_of(attention, "place")[2] == stream


def test_a_residual_stream_is_one_group_through_all_blocks() -> None:
    layout = derive_layout(Residual, TIERS, sample=ZOO["residual with depth"][1])
    stream = {axes_of(layout, n)[0].group for n in ("stem.weight", "blocks.0.down.weight", "blocks.1.norm.weight")}
    assert stream == {axes_of(layout, "head.weight")[1].group}
    assert {p.since for p in layout.parameters if p.name.startswith("blocks.1.")} == {1}


def test_integer_buffers_stay_out_and_saved_float_constants_stay_in() -> None:
    layout = derive_layout(Counting, TIERS, sample=torch.rand(2, 4))
    names = [p.name for p in layout.parameters]
    assert "scale" in names
    assert "steps" not in names
    assert "table" not in names


def test_tied_weights_travel_once() -> None:
    layout = derive_layout(Tied, TIERS, sample=words())
    assert [p.name for p in layout.parameters] == ["words.weight", "middle.weight", "middle.bias"]


def test_one_tier_needs_no_probe_and_has_no_groups() -> None:
    layout = derive_layout(mlp, [Tier("all")])
    assert not layout.groups
    assert layout.lengths == (sum(p.numel() for p in mlp(TierShape()).parameters()),)


def test_tiers_that_differ_in_depth_only_need_no_probe() -> None:
    layout = derive_layout(lambda s: Residual(TierShape(1.0, s.depth)), [Tier("a", 1.0, 1), Tier("b", 1.0, 2)])
    assert not layout.groups
    assert {p.since for p in layout.parameters} == {0, 1}


def test_deriving_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    derive_layout(mlp, TIERS, sample=torch.rand(2, 6).zero_())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    derive_layout(mlp, TIERS)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.rand(3), expected)


def test_the_layout_is_the_same_every_time() -> None:
    build, sample = ZOO["attention"]
    assert len({derive_layout(build, TIERS, sample=sample).digest for _ in range(3)}) == 1


# ---- what is refused ------------------------------------------------------------------------------------------


class OwnAttention(nn.Module):
    """Attention by hand: nothing in its modules says that there are heads."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.d = up(4, s)
        self.q, self.k, self.v = (nn.Linear(6, 2 * self.d) for _ in range(3))
        self.o = nn.Linear(2 * self.d, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(len(x), -1, 2, self.d).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.o(y.transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


QK, VO = Axis(4, 2, 1, "qk"), Axis(4, 2, 1, "vo")


def notes(qk: Axis, vo: Axis) -> dict[str, tuple[Axis, ...]]:
    return {
        "q.weight": (qk, Axis(6)), "k.weight": (qk, Axis(6)), "v.weight": (vo, Axis(6)), "o.weight": (Axis(3), vo),
    }  # fmt: skip


def test_attention_by_hand_is_refused_by_name_and_accepted_when_annotated() -> None:
    sample = torch.rand(2, 5, 6)
    with pytest.raises(
        LayoutError,
        match=r"^o\.weight: axis 1 .* mixes the units .*\{'o\.weight': \(Axis\(3.*same holds for q\.weight, q\.bias, k",
    ):
        derive_layout(OwnAttention, TIERS, sample=sample)
    layout = derive_layout(OwnAttention, TIERS, sample=sample, annotations=notes(QK, VO))
    assert layout.groups == {"qk": (1, 2, 4), "vo": (1, 2, 4)}
    assert axes_of(layout, "v.bias") == (VO,)


def test_a_wrong_annotation_is_found_out_on_the_sample() -> None:
    wrong = Axis(8, 1, 1, "flat")
    with pytest.raises(LayoutError, match=r"tier 'small' is not the full model with its other units masked"):
        derive_layout(OwnAttention, TIERS, sample=torch.rand(2, 5, 6), annotations=notes(wrong, wrong))
    believed = derive_layout(
        OwnAttention, TIERS, sample=torch.rand(2, 5, 6), annotations=notes(wrong, wrong), verify=False
    )
    assert believed.groups == {"flat": (2, 4, 8)}


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({"nowhere": (Axis(1),)}, "nowhere: it is annotated"),
        ({"q.weight": (Axis(6),)}, r"q\.weight: 1 axes are annotated, it has 2"),
        ({"q.weight": (Axis(8), Axis(6))}, r"the same holds for .*q\.bias"),
        (notes(Axis(8, 3, 1, "qk"), VO), r"q\.weight: axis 0"),
        (notes(QK, VO) | {"o.weight": (Axis(3), Axis(3, 2, 1, "vo"))}, r"(v|o)\.(weight|bias): axis"),
    ],
)
def test_an_annotation_that_does_not_fit_is_refused(annotations: Any, said: str) -> None:
    with pytest.raises(LayoutError, match=said):
        derive_layout(OwnAttention, TIERS, sample=torch.rand(2, 5, 6), annotations=annotations)


class Depends(nn.Module):
    """Depth changes the shape of what follows: the head of a shallow tier reads other units."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, up(4, s)), nn.Linear(up(4, s), up(8, s))][: s.depth or 2])
        self.head = nn.Linear(up(4, s) if s.depth == 1 else up(8, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """Channels in an order that is no prefix of blocks (ShuffleNet's shuffle of two groups)."""

    def __init__(self, s: TierShape, then: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(2, up(8, s), 1), then(up(8, s))
        self.c = nn.Conv1d(up(8, s), 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y.view(len(y), 2, -1, y.shape[-1]).transpose(1, 2).reshape(y.shape)
        return self.c(self.b(y))  # type: ignore[no-any-return]


class Truncated(nn.Module):
    """A layer of fixed size of which a smaller tier reads the first units only."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.fixed, self.read = nn.Linear(4, 8), nn.Linear(up(8, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.fixed(x)[..., : self.read.in_features])  # type: ignore[no-any-return]


class TwiceTied(nn.Module):
    """One array that two layers cut differently: as a flat axis, and as one per gate."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.cell, self.flat = nn.LSTMCell(4, up(4, s)), nn.Linear(4, 4 * up(4, s))
        self.flat.weight = self.cell.weight_ih
        self.head, self.other = nn.Linear(up(4, s), 2), nn.Linear(4 * up(4, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0]) + self.other(self.flat(x))  # type: ignore[no-any-return]


class Outputs(nn.Module):
    """Several outputs, one of which has the tier's size; layers alone all nest."""

    def __init__(self, s: TierShape, *, leak: bool) -> None:
        super().__init__()
        self.a, self.b, self.leak = nn.Linear(4, up(8, s)), nn.Linear(up(8, s), 2), leak

    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        return {"y": self.b(h), "extra": (h if self.leak else h.new_ones(2), "a name")}


def test_a_model_may_give_several_outputs() -> None:
    layout = derive_layout(lambda s: Outputs(s, leak=False), TIERS, sample=torch.rand(2, 4))
    assert layout.groups == {"a.weight[0]": (2, 4, 8)}


REFUSED: dict[str, tuple[Build, Tensor, str]] = {
    "batch norm": (
        lambda s: nn.Sequential(nn.Conv2d(3, up(8, s), 1), nn.BatchNorm2d(up(8, s))), IMAGES,
        r"^1: BatchNorm2d with running statistics.*GroupNorm with a fixed number of channels per group",
    ),
    "instance norm that tracks": (
        lambda s: nn.Sequential(nn.Conv2d(3, up(8, s), 1), nn.InstanceNorm2d(up(8, s), track_running_stats=True)),
        IMAGES, "^1: InstanceNorm2d with running statistics",
    ),
    "group norm that does not nest": (
        lambda s: nn.Sequential(nn.Conv2d(3, up(8, s), 1), nn.GroupNorm(2, up(8, s))), IMAGES,
        r"^1: the groups of a GroupNorm do not nest: \[1, 2, 4\]",
    ),
    "heads and their width": (
        lambda s: nn.MultiheadAttention(up(16, s), {4: 1, 8: 2, 16: 2}[up(16, s)]), IMAGES,
        "heads and their width differ",
    ),
    "groups and their width": (
        lambda s: nn.Conv1d(up(16, s), up(16, s), 1, groups={4: 1, 8: 2, 16: 2}[up(16, s)]), SERIES,
        "groups and the channels",
    ),
    "double precision": (lambda s: mlp(s).double(), torch.rand(2, 6), r"^0\.weight: it is torch\.float64"),
    "output of the tier's size": (
        lambda s: nn.Linear(6, up(8, s)), torch.rand(2, 6), "no later layer takes up its units",
    ),
    "input of the tier's size": (lambda s: nn.Linear(up(8, s), 3), torch.rand(2, 8), "reads the model's input"),
    "kernel of the tier's size": (
        lambda s: nn.Sequential(nn.Conv2d(3, 4, 2 * ceil(s.width * 2) - 1, padding="same"), nn.Flatten(),
                                nn.Linear(256, 2)), IMAGES, r"^0\.weight: axis 2 ",
    ),
    "a mean over the units": (
        lambda s: nn.Sequential(nn.Linear(6, up(8, s)), nn.Softmax(-1), nn.Linear(up(8, s), 2)), torch.rand(2, 6),
        "mixes the units",
    ),
    "shuffled channels": (lambda s: Shuffled(s, lambda c: nn.Conv1d(c, c, 1)), SERIES, r"^b\.weight: .* do not follow"),
    "channels shuffled into a norm": (
        lambda s: Shuffled(s, lambda c: nn.GroupNorm(c // 2, c)), SERIES, r"^b\.weight: .* do not follow",
    ),
    "a fixed layer read in part": (
        Truncated, torch.rand(2, 4), r"^read\.weight: axis 1 .* cuts it unlike fixed\.weight",
    ),
    "one array cut in two ways": (TwiceTied, torch.rand(2, 4), r"^cell\.weight_ih: .* two layers share it"),
    "a transposed convolution with groups": (
        lambda s: nn.ConvTranspose1d(2, 2 * up(4, s), 2, groups=2), SERIES, "transposed convolution with groups",
    ),
    "an output of the tier's size beside the others": (
        lambda s: Outputs(s, leak=True), torch.rand(2, 4), "the model's output: tier 'small'",
    ),
    "depth that reshapes": (Depends, torch.rand(2, 4), r"head\.weight"),
    "another activation": (
        lambda s: nn.Sequential(nn.Linear(6, up(8, s)), nn.ReLU() if s.width < 1 else nn.Tanh(),
                                nn.Linear(up(8, s), 2)), torch.rand(2, 6), "^2: tier 'small' is not the full model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_nest_is_refused_and_the_layer_is_named(kind: str) -> None:
    build, sample, said = REFUSED[kind]
    with pytest.raises(LayoutError, match=said):
        derive_layout(build, TIERS, sample=sample)


def test_tiers_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(LayoutError, match="nested tiers grow"):
        derive_layout(mlp, TIERS[::-1], sample=torch.rand(2, 6))
    with pytest.raises(LayoutError, match="smallest first"):
        derive_layout(Residual, [Tier("a", 1.0, 2), Tier("b", 1.0, 1)], sample=torch.rand(2, 1, 6, 6))
    with pytest.raises(LayoutError, match="0 tiers"):
        derive_layout(mlp, [])


def test_a_prefix_of_the_full_model_is_the_vector_of_the_tiers_own_model() -> None:
    layout = derive_layout(convnet, TIERS, sample=IMAGES)
    full = convnet(TierShape())
    for k, tier in enumerate(TIERS):
        small = convnet(TierShape(tier.width, tier.depth))
        cut(full, layout, k, small)
        arrays = {n: t.detach().numpy() for n, t in layout_arrays(small).items()}
        whole = {n: t.detach().numpy() for n, t in layout_arrays(full).items()}
        assert np.array_equal(Packer(layout, k).gather(arrays), Packer(layout, 2).gather(whole)[: layout.lengths[k]])
