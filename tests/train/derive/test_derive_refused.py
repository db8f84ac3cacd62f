"""What does not nest is refused by name, with what to do about it."""

from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError, TaskError
from mhfl_mq.segments import Tier
from mhfl_mq.train.derive import TierShape, derive_layout

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

Build = Callable[[TierShape], nn.Module]
Zoo = dict[str, tuple[Build, Tensor]]
TIERS = (Tier("small", 0.25, 1), Tier("middle", 0.5, 2), Tier("large", 1.0, 2))


def up(channels: int, shape: TierShape) -> int:
    return ceil(channels * shape.width)


def mlp(s: TierShape) -> nn.Module:
    return nn.Sequential(nn.Linear(6, up(8, s)), nn.ReLU(), nn.Linear(up(8, s), 3))


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


class Beside(nn.Module):
    """Two layers' units side by side, as wide as is said."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, one), nn.Linear(4, two), nn.Linear(one + two, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.one(x), self.two(x)], -1))  # type: ignore[no-any-return]


class FirstTwo(nn.Module):
    """A layer of fixed size reads the first two units: they would be others in a tier whose window is rolled."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.first, self.last, self.fixed = nn.Linear(4, up(8, s)), nn.Linear(up(8, s), 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y) + self.fixed(y[..., :2])  # type: ignore[no-any-return]


class Reverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1)


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


IMAGES, SERIES = torch.rand(2, 3, 8, 8), torch.rand(2, 2, 8)
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
        Truncated, torch.rand(2, 4), r"^read\.weight: axis 1 .* what .fixed. gives, of which every tier has all",
    ),
    "one array cut in two ways": (TwiceTied, torch.rand(2, 4), r"^cell\.weight_ih: .* two layers share it"),
    "groups of a transposed convolution and their width": (
        lambda s: nn.ConvTranspose1d(up(16, s), up(16, s), 1, groups={4: 1, 8: 2, 16: 2}[up(16, s)]), SERIES,
        "groups and the channels",
    ),
    "units beside what every tier has": (
        lambda s: Beside(up(8, s), 8), torch.rand(2, 4),
        r"^out\.weight: .* a part of it is what 'two' gives, of which every tier has all.*give each part a layer",
    ),
    "units of unlike widths side by side": (
        lambda s: Beside(up(8, s), max(3, up(12, s) - 1)), torch.rand(2, 4),
        r"^out\.weight: .*no annotation can say this: concatenate parts of equal width, or give each part a layer",
    ),
    "units that a fixed layer reads by number": (
        FirstTwo, torch.rand(2, 4), r"^first\.weight: axis 0 .* 'fixed', which every tier has whole, reads some of its",
    ),
    "units in reverse": (
        lambda s: nn.Sequential(nn.Linear(4, up(8, s)), Reverse(), nn.Linear(up(8, s), 2)), torch.rand(2, 4),
        r"^2\.weight: .*no annotation can say this: .* leave the units in their order$",
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
    deep = [Tier("a", 1.0, 2), Tier("b", 1.0, 1)]
    with pytest.raises(LayoutError, match="smallest first"):
        derive_layout(lambda s: nn.Sequential(*(nn.Linear(4, 4) for _ in range(s.depth))), deep)
    with pytest.raises(LayoutError, match="0 tiers"):
        derive_layout(mlp, [])


def test_parts_of_which_one_is_twice_as_wide_are_refused_with_the_annotations_that_say_them() -> None:
    with pytest.raises(LayoutError, match=r"'out:in' as Axis\(4, 3, 1, 'u'\), 'one:out' as Axis\(4, 2, 1, 'u'\)"):
        derive_layout(lambda s: Beside(up(8, s), up(4, s)), TIERS, sample=torch.rand(2, 4))


# ---- what the task's own code does wrong -----------------------------------------------------------------------


def test_a_sample_that_the_model_does_not_accept_is_told_with_the_layer_and_a_remedy() -> None:
    said = r"^0: the model of the largest tier fails on a sample of shape \(2, 7\): RuntimeError: .*; give the task a"
    with pytest.raises(LayoutError, match=said):
        derive_layout(mlp, TIERS, sample=torch.rand(2, 7))


class Picky(nn.Module):
    """A model of which the smallest tier reads other inputs than the full one."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.small, self.first, self.last = s.width < 0.5, nn.Linear(4, up(8, s)), nn.Linear(up(8, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.small and len(x) == 2:
            raise ValueError("an odd batch, please")
        return self.last(torch.relu(self.first(x)))  # type: ignore[no-any-return]


def test_a_tier_that_does_not_accept_the_sample_is_named() -> None:
    with pytest.raises(LayoutError, match=r"^the model's forward: the model of tier 'small' fails .* odd batch"):
        derive_layout(Picky, TIERS, sample=torch.rand(2, 4))


def test_a_factory_that_fails_or_gives_no_model_is_told_with_the_tier() -> None:
    def fails(s: TierShape) -> nn.Module:
        return nn.Linear(2, 1 // int(s.width))

    with pytest.raises(LayoutError, match=r"^the model factory: .* tier 'small' cannot be built: ZeroDivisionError"):
        derive_layout(fails, TIERS)
    nothing: Any = lambda s: None  # noqa: E731
    with pytest.raises(LayoutError, match="the model of tier 'small' is a NoneType, not a torch module"):
        derive_layout(nothing, TIERS)


def test_an_error_that_already_says_what_to_do_is_left_as_it_is() -> None:
    def fails(s: TierShape) -> nn.Module:
        raise TaskError("no weights here", where="task 'mine'", remedy="download them")

    with pytest.raises(TaskError, match="download them"):
        derive_layout(fails, TIERS)


def test_a_lazy_module_is_refused_by_name() -> None:
    with pytest.raises(LayoutError, match=r"^1\.weight: it has no shape .*nn\.Linear instead of nn\.LazyLinear"):
        derive_layout(lambda s: nn.Sequential(nn.Linear(6, up(8, s)), nn.LazyLinear(3)), TIERS)


class Computed(nn.Linear):
    """A layer that keeps a computed tensor, as torch's older weight norm does."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(into, out)
        self.kept = self.weight * 2


def test_a_model_that_cannot_be_copied_is_refused_with_a_remedy() -> None:
    with pytest.raises(LayoutError, match=r"^Sequential: the model cannot be copied: .* keep no computed tensors"):
        derive_layout(lambda s: nn.Sequential(Computed(4, up(8, s)), nn.Linear(up(8, s), 2)), TIERS)
