"""Which groups may be rolled, by how many channels, and that it changes nothing for every kind of layer."""

import copy
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from mhfl_mq.errors import LayoutError, LocalMisuse
from mhfl_mq.segments import Axis, Layout, Packer, Tier
from mhfl_mq.segments.roll import rolled
from mhfl_mq.train.derive import TierShape, derive_layout, layout_arrays
from mhfl_mq.train.derive.rolls import roll_units

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

Build = Callable[[TierShape], nn.Module]
Zoo = dict[str, tuple[Build, Tensor]]
TIERS = (Tier("small", 0.25, 1), Tier("middle", 0.5, 2), Tier("large", 1.0, 2))


def up(channels: int, shape: TierShape) -> int:
    return ceil(channels * shape.width)


def roll(model: nn.Module, layout: Layout, steps: Mapping[str, int]) -> None:
    """What a version's roll does to the full model: through the flat vector."""
    arrays: dict[str, Any] = {n: t.detach().numpy() for n, t in layout_arrays(model).items()}
    packer = Packer(layout, len(layout.tiers) - 1)
    packer.scatter(rolled(layout, packer.gather(arrays), steps), arrays)


def randomize(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) / max(1, p[0].numel() if p.ndim > 1 else 1) ** 0.5)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def units(build: Build, sample: Tensor, annotations: Any = None) -> tuple[Layout, dict[str, int]]:
    layout = derive_layout(build, TIERS, sample=sample, annotations=annotations, verify=False)
    return layout, roll_units([build(TierShape()).eval()], layout, sample)


# ---- every kind of layer ----------------------------------------------------------------------------------------


def test_every_group_of_the_zoo_rolls_by_single_channels_and_the_full_model_computes_the_same_after_any(
    kind: str, zoo: Zoo
) -> None:
    build, sample = zoo[kind]
    layout, found = units(build, sample)
    assert found == dict.fromkeys(layout.groups, 1)  # norms' and convolutions' groups are the layout's channels
    torch.manual_seed(3)
    model = build(TierShape()).eval()
    randomize(model)
    with torch.no_grad():
        before = model(sample)
        for group, unit in found.items():
            for _ in range(layout.groups[group][-1] // unit):  # each roll goes on from the last: all multiples
                roll(model, layout, {group: unit})
                assert same(model(sample), before), group
        roll(model, layout, {g: 3 * u for g, u in found.items()})
        assert same(model(sample), before)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 99))
def test_any_rolls_at_once_change_nothing(zoo: Zoo, data: st.DataObject, seed: int) -> None:
    build, sample = zoo[data.draw(st.sampled_from(sorted(zoo)))]
    layout = derive_layout(build, TIERS, sample=sample, verify=False)
    steps = {group: data.draw(st.integers(-9, 30)) for group in layout.groups}
    torch.manual_seed(seed)
    model = build(TierShape()).eval()
    randomize(model)
    with torch.no_grad():
        before = model(sample)
        roll(model, layout, steps)
        assert same(model(sample), before)


def test_a_small_tiers_model_has_another_window_after_a_roll_and_the_full_model_does_not_change(zoo: Zoo) -> None:
    build, sample = zoo["attention"]
    layout, found = units(build, sample)
    torch.manual_seed(0)
    full, small = build(TierShape()).eval(), build(TierShape(0.25, 1)).eval()
    randomize(full)

    def of_tier() -> Tensor:
        arrays: dict[str, Any] = {n: t.detach().numpy() for n, t in layout_arrays(full).items()}
        into: dict[str, Any] = {n: t.detach().numpy() for n, t in layout_arrays(small).items()}
        Packer(layout, 0).scatter(Packer(layout, 0, model=2).gather(arrays), into)
        return small(sample)  # type: ignore[no-any-return]

    with torch.no_grad():
        before, whole = of_tier(), full(sample)
        roll(full, layout, found)
        assert not same(of_tier(), before)
        assert same(full(sample), whole)


def test_rolled_windows_never_cross_heads(zoo: Zoo) -> None:
    build, sample = zoo["vision transformer"]  # two heads of 8: queries, keys and values are six blocks of 8 rows
    layout, _ = units(build, sample)
    model = build(TierShape()).eval()
    rows = model.get_parameter("mix.in_proj_weight").detach().numpy().reshape(6, 8, 16)
    before = rows.copy()
    roll(model, layout, {"mix.in_proj_weight[0]": 3})
    assert np.array_equal(rows, np.roll(before, -3, axis=1))


# ---- groups of which the order counts -------------------------------------------------------------------------------


class Between(nn.Module):
    """Two layers with code between them."""

    def __init__(self, s: TierShape, code: Callable[[Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.first, self.last, self.code = nn.Conv1d(3, up(width, s), 1), nn.Conv1d(up(width, s), 2, 1), code

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.code(self.first(x))))  # type: ignore[no-any-return]


def said(width: int) -> dict[str, tuple[Axis, ...]]:
    """What a person says of them: where code mixes units, nothing is derived."""
    h = Axis(width, group="h")
    return {"first.weight": (h, Axis(3), Axis(1)), "last.weight": (Axis(2), h, Axis(1))}


def in_norm_groups_of(each: int) -> Callable[[Tensor], Tensor]:
    return lambda x: functional.group_norm(x, x.shape[1] // each)


def of_sines(x: Tensor) -> Tensor:
    """A fixed code of positions, added."""
    channel, place = torch.arange(x.shape[1]).to(x)[:, None], torch.arange(x.shape[2]).to(x)
    return x + torch.sin(place / (1 + channel))


def turned(*, alike: bool) -> Callable[[Tensor], Tensor]:
    """Pairs of channels turned by an angle that grows with the place, at a speed of each pair's own or alike."""

    def code(x: Tensor) -> Tensor:
        pairs = x.reshape(len(x), -1, 2, x.shape[2])
        speed = torch.ones(pairs.shape[1]) if alike else 1 / (1 + torch.arange(pairs.shape[1]))
        angle = (speed[:, None] * torch.arange(x.shape[2])).to(x)
        one, other = pairs.unbind(2)
        left, right = one * angle.cos() - other * angle.sin(), one * angle.sin() + other * angle.cos()
        return torch.stack((left, right), 2).flatten(1, 2)

    return code


X = torch.rand(2, 3, 5)


@pytest.mark.parametrize(
    ("width", "code", "expected"),
    [
        (16, in_norm_groups_of(4), {"h": 4}),
        (16, in_norm_groups_of(2), {"h": 2}),
        (24, lambda x: in_norm_groups_of(3)(in_norm_groups_of(2)(x)), {"h": 6}),
        (16, lambda x: functional.normalize(x, dim=1), {"h": 1}),
        (16, turned(alike=True), {"h": 2}),
        (16, turned(alike=False), {}),
        (16, of_sines, {}),
    ],
    ids=[
        "norm by fours",
        "norm by twos",
        "norms by twos and by threes",
        "norm over all",
        "pairs turned alike",
        "rotary positions",
        "fixed code of positions",
    ],
)
def test_the_unit_is_the_fewest_channels_that_the_code_between_layers_treats_alike(
    width: int, code: Callable[[Tensor], Tensor], expected: dict[str, int]
) -> None:
    def build(s: TierShape) -> nn.Module:
        return Between(s, code, width)

    layout = derive_layout(build, TIERS, sample=X, annotations=said(width))
    model = build(TierShape()).eval()
    assert roll_units([model], layout, X) == expected
    before = model(X)
    for step in range(1, width):
        copied = copy.deepcopy(model)
        roll(copied, layout, {"h": step})
        assert same(copied(X), before) == (bool(expected) and step % expected["h"] == 0)


def test_a_local_norm_over_neighbouring_channels_may_not_be_rolled() -> None:
    layout = derive_layout(
        lambda s: Between(s, nn.LocalResponseNorm(3, alpha=1.0)), TIERS, sample=X, annotations=said(16), verify=False
    )
    assert roll_units([Between(TierShape(), nn.LocalResponseNorm(3, alpha=1.0))], layout, X) == {}


class Words(nn.Module):
    """A vocabulary of which small tiers know the first words only."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(up(20, s), up(8, s)), nn.Linear(up(8, s), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(x)).sum(1))  # type: ignore[no-any-return]


def test_rows_that_the_data_choose_by_number_may_not_be_rolled_and_the_units_beside_them_may() -> None:
    vocabulary = {"words.weight": (Axis(20, group="vocabulary"), Axis(8, group="h"))}
    assert units(Words, torch.arange(4).view(2, 2), vocabulary)[1] == {"h": 1}


# ---- what shows nothing ---------------------------------------------------------------------------------------------


class Aside(nn.Module):
    """A second head that is not run."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.first, self.last, self.aside = nn.Linear(3, up(8, s)), nn.Linear(up(8, s), 2), nn.Linear(up(8, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))  # type: ignore[no-any-return]


def test_a_layer_that_nothing_depends_on_is_refused_by_name() -> None:
    layout = derive_layout(Aside, TIERS, sample=torch.rand(2, 3))
    with pytest.raises(LayoutError, match=r"^aside: it cannot be seen what its units are.*return what it is for"):
        roll_units([Aside(TierShape())], layout, torch.rand(2, 3))


class Exits(nn.Module):
    """A head for each depth, of which the last one is read."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.stem = nn.Linear(3, up(8, s))
        self.blocks = nn.ModuleList(nn.Linear(up(8, s), up(8, s)) for _ in range(s.depth or 2))
        self.heads = nn.ModuleList(nn.Linear(up(8, s), 2) for _ in range(s.depth or 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.heads[-1](x)  # type: ignore[no-any-return]


def test_the_heads_of_shallower_models_are_seen_when_those_are_given() -> None:
    stream, sample = Axis(8, group="h"), torch.rand(2, 3)
    notes = {"heads.0.weight": (Axis(2), stream), "stem.weight": (stream, Axis(3))}
    layout = derive_layout(Exits, TIERS, sample=sample, annotations=notes, verify=False)
    shallow, deep = Exits(TierShape(1.0, 1)), Exits(TierShape(1.0, 2))
    assert roll_units([shallow, deep], layout, sample) == {"h": 1}
    with pytest.raises(LayoutError, match=r"^heads\.0: "):
        roll_units([deep], layout, sample)
    apart = derive_layout(
        Exits, TIERS, sample=sample, verify=False
    )  # the first head's units are not seen to be the stream's
    assert roll_units([shallow, deep], apart, sample) == {}


def test_models_that_are_not_of_full_width_cannot_be_rolled(zoo: Zoo) -> None:
    build, sample = zoo["mlp"]
    layout = derive_layout(build, TIERS, sample=sample)
    with pytest.raises(LocalMisuse, match=r"^0\.weight: .*give full width"):
        roll_units([build(TierShape(0.5))], layout, sample)


def test_the_models_and_the_global_random_state_are_left_alone(zoo: Zoo) -> None:
    build, sample = zoo["conv2d, group norm, flatten"]
    layout, model = derive_layout(build, TIERS, sample=sample), build(TierShape()).eval()
    arrays, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    roll_units([model], layout, (sample,))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, arrays[name]) for name, tensor in model.state_dict().items())


def test_tiers_of_one_width_have_nothing_to_roll(zoo: Zoo) -> None:
    build, sample = zoo["residual with depth"]
    layout = derive_layout(lambda s: build(TierShape(1.0, s.depth)), [Tier("a", 1.0, 1), Tier("b", 1.0, 2)])
    assert roll_units([build(TierShape())], layout, sample) == {}
