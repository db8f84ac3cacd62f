"""What exactly is found in a model: the axes and the groups of each kind of layer, and what stays as it was."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.segments import Axis, Layout, Packer, Tier
from mhfl_mq.train.derive import TierShape, derive_layout
from mhfl_mq.train.model import arrays_of

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

Build = Callable[[TierShape], nn.Module]
Zoo = dict[str, tuple[Build, Tensor]]
TIERS = (Tier("small", 0.25, 1), Tier("middle", 0.5, 2), Tier("large", 1.0, 2))


def axes_of(layout: Layout, name: str) -> tuple[Axis, ...]:
    return next(p.axes for p in layout.parameters if p.name == name)


def layout_of(zoo: Zoo, kind: str) -> Layout:
    build, sample = zoo[kind]
    return derive_layout(build, TIERS, sample=sample)


def test_a_flatten_makes_inner_indices_and_a_group_norm_makes_units_of_its_groups(zoo: Zoo) -> None:
    layout = layout_of(zoo, "conv2d, group norm, flatten")
    group = axes_of(layout, "4.weight")[0].group
    assert axes_of(layout, "4.weight")[0] == Axis(4, inner=4, group=group)  # 16 channels in norm groups of 4
    assert axes_of(layout, "9.weight")[1] == Axis(4, inner=16, group=group)  # 4 channels of 2 x 2 pixels
    assert group is not None
    assert layout.groups[group] == (1, 2, 4)


def test_gates_directions_and_heads_are_blocks(zoo: Zoo) -> None:
    text = layout_of(zoo, "lstm both ways")
    hidden = axes_of(text, "rnn.weight_hh_l0")[1].group
    assert axes_of(text, "rnn.weight_hh_l0") == (Axis(8, 4, 1, hidden), Axis(8, group=hidden))
    assert axes_of(text, "rnn.weight_ih_l1")[1] == Axis(8, 2, 1, hidden)
    assert axes_of(text, "head.weight")[1] == Axis(8, 2, 1, hidden)
    attention = layout_of(zoo, "attention")
    q, stream = axes_of(attention, "layers.0.self_attn.in_proj_weight")
    assert (q.channels, q.blocks) == (8, 6)
    assert axes_of(attention, "layers.0.self_attn.out_proj.weight") == (stream, Axis(8, 2, 1, q.group))
    assert axes_of(attention, "head.weight")[1] == Axis(16, 5, 1, stream.group)
    assert axes_of(attention, "place")[2] == stream


def test_a_residual_stream_is_one_group_through_all_blocks(zoo: Zoo) -> None:
    layout = layout_of(zoo, "residual with depth")
    stream = {axes_of(layout, n)[0].group for n in ("stem.weight", "blocks.0.down.weight", "blocks.1.norm.weight")}
    assert stream == {axes_of(layout, "head.weight")[1].group}
    assert {p.since for p in layout.parameters if p.name.startswith("blocks.1.")} == {1}


def test_integer_buffers_stay_out_and_saved_float_constants_stay_in(zoo: Zoo) -> None:
    layout = layout_of(zoo, "buffers")
    names = [p.name for p in layout.parameters]
    assert "scale" in names
    assert "steps" not in names
    assert "table" not in names


def test_tied_weights_travel_once(zoo: Zoo) -> None:
    layout = layout_of(zoo, "tied weights")
    assert [p.name for p in layout.parameters] == ["words.weight", "middle.weight", "middle.bias"]


def test_one_tier_needs_no_probe_and_has_no_groups(zoo: Zoo) -> None:
    layout = derive_layout(zoo["mlp"][0], [Tier("all")])
    assert not layout.groups
    assert layout.lengths == (sum(p.numel() for p in zoo["mlp"][0](TierShape()).parameters()),)


def test_tiers_that_differ_in_depth_only_need_no_probe(zoo: Zoo) -> None:
    build, _ = zoo["residual with depth"]
    layout = derive_layout(lambda s: build(TierShape(1.0, s.depth)), [Tier("a", 1.0, 1), Tier("b", 1.0, 2)])
    assert not layout.groups
    assert {p.since for p in layout.parameters} == {0, 1}


def test_deriving_leaves_the_global_random_state_alone(zoo: Zoo) -> None:
    mlp, _ = zoo["mlp"]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    derive_layout(mlp, TIERS, sample=torch.rand(2, 6).zero_())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    derive_layout(mlp, TIERS)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.rand(3), expected)


def test_the_layout_is_the_same_every_time(zoo: Zoo) -> None:
    build, sample = zoo["attention"]
    assert len({derive_layout(build, TIERS, sample=sample).digest for _ in range(3)}) == 1


def test_places_and_lengths_that_no_tier_has_fewer_of_are_never_cut(zoo: Zoo) -> None:
    vision = layout_of(zoo, "vision transformer")
    assert [axis.group for axis in axes_of(vision, "place")[:2]] == [None, None]
    assert axes_of(vision, "place")[2] == axes_of(vision, "token")[2] == axes_of(vision, "head.weight")[1]
    normed = layout_of(zoo, "norm over length and channels")
    (length, channels), (_, flat) = axes_of(normed, "norm.weight"), axes_of(normed, "out.weight")
    assert (length, flat) == (Axis(8), Axis(8, 8, 1, channels.group))


def test_a_state_that_is_handed_on_is_of_the_same_units_in_both_layers(zoo: Zoo) -> None:
    for kind in ("encoder and decoder, encoder read too", "encoder and decoder, lstm", "encoder and decoder, cells"):
        layout = layout_of(zoo, kind)
        assert len(layout.groups) == 1
    projected = layout_of(zoo, "encoder and decoder, lstm with projection")
    for end in ("encoder", "decoder"):
        shown, hidden = axes_of(projected, f"{end}.weight_hr_l0")
        assert (shown.group, hidden.group) == tuple(a.group for a in axes_of(projected, "encoder.weight_hr_l0"))


class Twice(nn.Module):
    """A model in which only the largest tier has the second norm, over places as well as units."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        a = int(8 * s.width)
        self.conv, self.out = nn.Conv1d(2, a, 3, padding=1), nn.Linear(8 * a, 2)
        self.norms = nn.ModuleList(nn.LayerNorm((a, 8)) for _ in range(s.depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for norm in self.norms:
            x = norm(x)
        return self.out(x.flatten(1))  # type: ignore[no-any-return]


def test_what_only_the_largest_tier_has_is_tied_where_it_follows() -> None:
    tiers = (Tier("small", 0.5, 1), Tier("large", 1.0, 2))
    layout = derive_layout(Twice, tiers, sample=torch.rand(2, 2, 8))
    assert axes_of(layout, "norms.1.weight") == axes_of(layout, "norms.0.weight")
    assert [p.since for p in layout.parameters if p.name.startswith("norms")] == [0, 0, 1, 1]


def test_blocks_that_only_the_deeper_tiers_have_are_of_the_stream_too(zoo: Zoo) -> None:
    build, sample = zoo["residual with depth"]
    for last in (Tier("c", 1.0, 3), Tier("c", 0.5, 3)):
        layout = derive_layout(build, (Tier("a", 0.25, 1), Tier("b", last.width, 2), last), sample=sample)
        stream = axes_of(layout, "stem.weight")[0].group
        assert stream == axes_of(layout, "blocks.1.down.weight")[0].group
        assert stream == axes_of(layout, "blocks.2.norm.weight")[0].group


def test_a_prefix_of_the_full_model_is_the_vector_of_the_tiers_own_model(zoo: Zoo) -> None:
    convnet, images = zoo["conv2d, group norm, flatten"]
    layout = derive_layout(convnet, TIERS, sample=images)
    full = convnet(TierShape())
    for k, tier in enumerate(TIERS):
        small = convnet(TierShape(tier.width, tier.depth))
        cut = Packer(layout, k, model=2).gather(arrays_of(full))
        Packer(layout, k).scatter(cut, arrays_of(small))
        prefix = Packer(layout, 2).gather(arrays_of(full))[: layout.lengths[k]]
        assert np.array_equal(Packer(layout, k).gather(arrays_of(small)), prefix)
