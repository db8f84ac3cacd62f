"""Annotations: they hold for any array, are never ignored, and a wrong one is found out whatever the sample holds."""

from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis, Layout, Tier
from mhfl_mq.train.derive import TierShape, derive_layout

Build = Callable[[TierShape], nn.Module]
Zoo = dict[str, tuple[Build, Tensor]]
TIERS = (Tier("small", 0.25, 1), Tier("middle", 0.5, 2), Tier("large", 1.0, 2))


def up(channels: int, shape: TierShape) -> int:
    return ceil(channels * shape.width)


def axes_of(layout: Layout, name: str) -> tuple[Axis, ...]:
    return next(p.axes for p in layout.parameters if p.name == name)


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
        ({"q.weight": (Axis(8), Axis(6))}, r"q\.weight: axis 0 is annotated as never cut .* sizes \[2, 4, 8\]"),
        ({"q.weight": (Axis(8, 1, 1, "g"), Axis(7))}, r"q\.weight: axis 1 is annotated with 7 indices, it has 6"),
        (notes(QK, VO) | {"q.bias": (Axis(8, 1, 1, "qk"),)}, r"q\.bias: it is annotated unlike another array"),
        (notes(Axis(8, 3, 1, "qk"), VO), r"q\.weight: axis 0"),
        (notes(QK, VO) | {"o.weight": (Axis(3), Axis(3, 2, 1, "vo"))}, r"(v|o)\.(weight|bias): axis"),
    ],
)
def test_an_annotation_that_does_not_fit_is_refused(annotations: Any, said: str) -> None:
    with pytest.raises(LayoutError, match=said):
        derive_layout(OwnAttention, TIERS, sample=torch.rand(2, 5, 6), annotations=annotations)


@pytest.mark.parametrize("numbers", [torch.zeros, torch.ones])
def test_a_wrong_annotation_is_found_out_on_a_sample_of_equal_numbers_too(numbers: Callable[..., Tensor]) -> None:
    wrong = notes(Axis(8, 1, 1, "flat"), VO)
    with pytest.raises(LayoutError, match=r"tier 'small' is not the full model with its other units masked"):
        derive_layout(OwnAttention, TIERS, sample=numbers(2, 5, 6), annotations=wrong)
    assert derive_layout(OwnAttention, TIERS, sample=numbers(2, 5, 6), annotations=notes(QK, VO)).groups


def test_a_sequence_of_length_one_shows_nothing_of_an_annotation_and_that_is_said() -> None:
    with pytest.raises(LayoutError, match=r"^q\.weight: its annotation cannot be checked.*sequences have at least 2"):
        derive_layout(OwnAttention, TIERS, sample=torch.rand(2, 1, 6), annotations=notes(QK, VO))


class Counts(nn.Module):
    """A model that reads floats as numbers of rows, and refuses others than it knows."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(4, up(8, s)), nn.Linear(up(8, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        if not bool((x == x.round()).all()):
            raise ValueError("rows are whole")
        return self.out(self.words(x.long()).sum(1))  # type: ignore[no-any-return]


def test_a_model_that_does_not_take_other_numbers_is_shown_those_of_the_sample() -> None:
    layout = derive_layout(Counts, TIERS, sample=torch.tensor([[0.0, 3.0], [1.0, 2.0]]))
    assert layout.groups == {"words.weight[1]": (2, 4, 8)}


# ---- arrays that no layer's type knows -------------------------------------------------------------------------

H = Axis(8, 1, 1, "h")


class Bare(nn.Module):
    """A linear layer by hand."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.w, self.out = nn.Parameter(torch.randn(up(8, s), 6)), nn.Linear(up(8, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(functional.relu(functional.linear(x, self.w)))  # type: ignore[no-any-return]


def test_a_bare_parameter_is_annotated_with_axes_that_are_never_cut() -> None:
    layout = derive_layout(Bare, TIERS, sample=torch.rand(2, 6), annotations={"w": (H, Axis(6))})
    assert axes_of(layout, "w") == (H, Axis(6))
    assert axes_of(layout, "out.weight") == (Axis(2), H)


@pytest.mark.parametrize(
    ("kind", "name", "last"), [("learned first state", "first", 8), ("vision transformer", "place", 16)]
)
def test_the_zoos_bare_parameters_are_annotated_as_the_error_message_says(
    zoo: Zoo, kind: str, name: str, last: int
) -> None:
    build, sample = zoo[kind]
    sizes = dict(build(TierShape()).named_parameters())[name].shape
    said = (*(Axis(size) for size in sizes[:-1]), Axis(last, group="mine"))
    layout = derive_layout(build, TIERS, sample=sample, annotations={name: said})
    assert axes_of(layout, name) == said
    assert layout.groups["mine"] == (last // 4, last // 2, last)


class Lora(nn.Linear):
    """A linear layer with a correction of rank two beside its weight."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(into, out)
        self.A, self.B = nn.Parameter(torch.randn(2, into)), nn.Parameter(torch.randn(out, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.A.T @ self.B.T


def lora(s: TierShape) -> nn.Module:
    return nn.Sequential(Lora(6, up(8, s)), nn.ReLU(), nn.Linear(up(8, s), 2))


def test_an_array_inside_a_known_layer_is_annotated_together_with_the_layers_own() -> None:
    sample = torch.rand(2, 6)
    with pytest.raises(LayoutError, match=r"^0\.weight: .*Lora holds arrays .*\(A, B\).*holds for 0\.bias, 0\.B"):
        derive_layout(lora, TIERS, sample=sample)
    with pytest.raises(LayoutError, match=r"^0\.weight: "):  # else B's group would be cut by itself
        derive_layout(lora, TIERS, sample=sample, annotations={"0.B": (H, Axis(2))})
    both = {"0.B": (H, Axis(2)), "0.weight": (H, Axis(6))}
    layout = derive_layout(lora, TIERS, sample=sample, annotations=both)
    assert layout.groups == {"h": (2, 4, 8)}
    assert axes_of(layout, "0.bias") == (H,)
    assert axes_of(layout, "2.weight") == (Axis(2), H)


def test_a_weight_norm_may_be_annotated_and_its_layer_follows(zoo: Zoo) -> None:
    build, sample = zoo["weight norm"]
    name = "0.parametrizations.weight.original"
    layout = derive_layout(build, TIERS, sample=sample, annotations={f"{name}1": (H, Axis(6))})
    assert axes_of(layout, f"{name}0") == (H, Axis(1))
    assert axes_of(layout, "0.bias") == axes_of(layout, "2.parametrizations.weight.original1")[1:] == (H,)


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


def test_a_parametrization_of_ones_own_is_refused_until_it_is_annotated() -> None:
    def build(s: TierShape) -> nn.Module:
        first = nn.Linear(6, up(8, s))
        parametrize.register_parametrization(first, "weight", Doubled())
        return nn.Sequential(first, nn.ReLU(), nn.Linear(up(8, s), 2))

    name, sample = "0.parametrizations.weight.original", torch.rand(2, 6)
    with pytest.raises(LayoutError, match=r"0\.bias.*parametrizations\.weight\.original"):
        derive_layout(build, TIERS, sample=sample)
    layout = derive_layout(build, TIERS, sample=sample, annotations={name: (H, Axis(6)), "0.bias": (H,)})
    assert layout.groups == {"h": (2, 4, 8)}


class Own(nn.GroupNorm):
    """A norm whose type is refused here, for its groups do not nest, but whose forward does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None] + self.bias[:, None]


def test_a_layer_whose_type_is_refused_is_accepted_when_its_arrays_are_annotated() -> None:
    def build(s: TierShape) -> nn.Module:
        return nn.Sequential(nn.Conv1d(2, up(8, s), 1), Own(2, up(8, s)), nn.Conv1d(up(8, s), 2, 1))

    sample = torch.rand(2, 2, 5)
    some = {"0.weight": (H, Axis(2), Axis(1)), "0.bias": (H,), "1.weight": (H,)}
    with pytest.raises(LayoutError, match="groups of a GroupNorm do not nest"):
        derive_layout(build, TIERS, sample=sample, annotations=some)
    every = some | {"1.bias": (H,), "2.weight": (Axis(2), H, Axis(1))}
    assert derive_layout(build, TIERS, sample=sample, annotations=every).groups == {"h": (2, 4, 8)}


def test_an_annotation_of_one_array_of_a_layer_holds_for_the_others_that_count_the_same() -> None:
    def build(s: TierShape) -> nn.Module:
        return nn.Sequential(nn.LSTMCell(4, up(8, s)), First(), nn.Linear(up(8, s), 2))

    gates = Axis(8, 4, 1, "h")
    layout = derive_layout(build, TIERS, sample=torch.rand(2, 4), annotations={"0.weight_ih": (gates, Axis(4))})
    assert layout.groups == {"h": (2, 4, 8)}
    two = {"0.weight_ih": (gates, Axis(4)), "0.weight_hh": (Axis(8, 4, 1, "i"), Axis(8, 1, 1, "j"))}
    with pytest.raises(LayoutError, match=r"0\.weight_hh: it counts the units that 'h' is annotated for"):
        derive_layout(
            build, TIERS, sample=torch.rand(2, 4), annotations={"0.weight_ih": (Axis(32, 1, 1, "h"), Axis(4))}
        )
    assert len(derive_layout(build, TIERS, sample=torch.rand(2, 4), annotations=two).groups) == 1


class First(nn.Module):
    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return x[0]


def test_an_annotation_under_another_name_of_a_tied_array_is_refused_with_the_name_that_counts(zoo: Zoo) -> None:
    build, sample = zoo["tied weights"]
    with pytest.raises(LayoutError, match=r"^head\.weight: .*it is the array words\.weight: annotate that"):
        derive_layout(build, TIERS, sample=sample, annotations={"head.weight": (Axis(11), H)})
    layout = derive_layout(build, TIERS, sample=sample, annotations={"words.weight": (Axis(11), H)})
    assert layout.groups["h"] == (2, 4, 8)


def test_annotations_are_checked_and_left_when_no_tier_is_narrower() -> None:
    said = {"w": (H, Axis(6))}
    assert not derive_layout(Bare, [Tier("all")], annotations=said).groups
    with pytest.raises(LayoutError, match="axis 1 is annotated with 5 indices"):
        derive_layout(Bare, [Tier("all")], annotations={"w": (H, Axis(5))})


def test_only_layers_of_which_nothing_shows_are_told_apart_from_silent_arrays() -> None:
    sample: Any = torch.rand(2, 5, 6)
    layout = derive_layout(OwnAttention, TIERS, sample=sample, annotations=notes(QK, VO) | {"k.bias": (QK,)})
    assert axes_of(layout, "k.bias") == (QK,)  # which softmax cancels out
