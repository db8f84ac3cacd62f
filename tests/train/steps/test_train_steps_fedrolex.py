"""FedRolex in whole rounds: windows that move, never across heads, and what cannot be rolled."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Packer, Tier, Vector
from mhfl_mq.segments.roll import next_steps, rolled
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.task import Examples
from tests.train.steps.width_family import (
    TIERS,
    Federation,
    assert_a_tier_computes_what_the_full_model_does_with_its_other_units_masked,
    assert_order_does_not_matter,
    task_of,
    up,
)

HEADS, DIM = 2, 8  # channels of each head


class Attends(nn.Module):
    """A small transformer of two heads, which become narrower as its stream does."""

    def __init__(self, shape: TierShape) -> None:
        super().__init__()
        width = up(HEADS * DIM, shape)
        self.into, self.last = nn.Linear(3, width), nn.Linear(width, 3)
        self.mix = nn.MultiheadAttention(width, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        scores: Tensor = self.last((x + self.mix(x, x, x, need_weights=False)[0]).mean(1))
        return scores


def sequences(number: int) -> Examples:
    inputs = torch.randn(48, 5, 3, generator=torch.Generator().manual_seed(number))
    return Examples(inputs, inputs.sum(1).argmax(1))


@pytest.fixture(scope="module")
def attention() -> Federation:
    devices = [(tier, sequences(tier)) for tier in range(3)]
    return Federation("fedrolex", {}, task_of(Attends, torch.randn(2, 5, 3)), TIERS, devices)


def arrays(federation: Federation, flat: Vector) -> dict[str, Vector]:
    top = len(federation.tiers) - 1
    found = {name: np.empty(shape, np.float32) for name, shape in federation.models.layout.shapes(top).items()}
    Packer(federation.models.layout, top).scatter(flat, found)
    return found


def unrolled(federation: Federation, flat: Vector, rolls: int) -> Vector:
    layout = federation.models.layout
    return rolled(layout, flat, {group: -step * rolls for group, step in next_steps(layout).items()})


@pytest.mark.parametrize("before", [0, 1, 3, 7])
def test_trap_t5_rolled_windows_never_cross_heads(attention: Federation, before: int) -> None:
    """A round in which only the smallest tier trains touches the same channels of each head, wherever the window is."""
    head = attention.first()
    for _ in range(before):
        head = attention.merged(head, [])
    new = attention.merged(head, [(0, attention.update(head, 0))])
    was, now = (arrays(attention, unrolled(attention, flat, n)) for flat, n in ((head, before), (new, before + 1)))
    window = [(before + i) % DIM for i in range(DIM // 4)]
    expected = np.zeros((HEADS, DIM), bool)
    expected[:, window] = True
    values = (was["mix.in_proj_weight"] != now["mix.in_proj_weight"]).reshape(3, HEADS, DIM, -1).any(3)
    for part in values:  # queries, keys and values
        np.testing.assert_array_equal(part, expected)
    taken_up = (was["mix.out_proj.weight"] != now["mix.out_proj.weight"]).any(0).reshape(HEADS, DIM)
    np.testing.assert_array_equal(taken_up, expected)


def test_the_full_model_computes_the_same_in_every_version_that_nobody_trained(attention: Federation) -> None:
    head = attention.first()
    model, inputs = attention.models.build(2), sequences(8).inputs
    model.put(head)
    with torch.no_grad():
        first = model.module.eval()(inputs)
        for _ in range(5):
            head = attention.merged(head, [])
            model.put(head)
            torch.testing.assert_close(model.module(inputs), first)


def test_trap_t1_what_nobody_held_keeps_its_value_and_moves_with_its_channel() -> None:
    federation = Federation("fedrolex")
    head = federation.first()
    new = unrolled(federation, federation.merged(head, [(0, federation.update(head, 0))]), 1)
    held = federation.models.layout.lengths[0]
    assert new[held:].tobytes() == head[held:].tobytes()
    assert not np.array_equal(new[:held], head[:held])


def test_trap_t2_after_any_roll_a_tier_computes_what_the_masked_full_model_does() -> None:
    federation = Federation("fedrolex")
    for rounds in (1, 3):
        assert_a_tier_computes_what_the_full_model_does_with_its_other_units_masked(federation, federation.run(rounds))


def test_trap_t7_an_update_of_zeros_counts() -> None:
    federation = Federation("fedrolex")
    head = federation.first()
    update = federation.update(head, 2)
    both = federation.merged(head, [(2, update), (3, np.zeros_like(update))])
    np.testing.assert_allclose(unrolled(federation, both, 1), head + update / 2, atol=1e-6)


def test_it_learns_in_every_tier_and_the_order_of_updates_does_not_matter() -> None:
    federation = Federation("fedrolex")
    before, after = federation.scores(federation.first()), federation.scores(federation.run(12))
    assert after[2] > max(0.75, before[2] + 0.2)
    assert_order_does_not_matter(federation)


class InOrder(nn.Module):
    """A fixed code of positions along the channels: a roll would change what the model computes."""

    def __init__(self, shape: TierShape) -> None:
        super().__init__()
        width = up(16, shape)
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)
        self.register_buffer("code", torch.arange(16.0)[:width] + 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.relu(self.first(x) * self.code))
        return scores


class InPart(nn.Module):
    """One layer that may be rolled behind one that may not."""

    def __init__(self, shape: TierShape) -> None:
        super().__init__()
        self.body, self.more, self.last = InOrder(shape), nn.Linear(3, up(8, shape)), nn.Linear(up(8, shape), 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.relu(self.more(self.body(x))))
        return scores


def test_a_model_of_which_nothing_can_be_rolled_is_refused_with_what_to_do() -> None:
    with pytest.raises(LayoutError, match=r"none of the groups .*first.* can be rolled: .*use heterofl"):
        Federation("fedrolex", {}, task_of(InOrder))


def test_a_group_whose_order_counts_keeps_its_static_window_while_the_others_move() -> None:
    federation = Federation("fedrolex", {}, task_of(InPart))
    layout = federation.models.layout
    assert len(layout.groups) == 2
    assert list(layout.rolls) == [group for group in layout.groups if "more" in group]
    head = federation.first()
    was, now = arrays(federation, head), arrays(federation, federation.merged(head, []))
    np.testing.assert_array_equal(was["body.first.weight"], now["body.first.weight"])
    np.testing.assert_array_equal(np.roll(was["more.weight"], -1, 0), now["more.weight"])


class Deep(nn.Module):
    def __init__(self, shape: TierShape) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Linear(4, 4) for _ in range(shape.depth or 2)))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.relu(self.body(x)))
        return scores


DEEP = [(0, sequences(1)), (1, sequences(2))]


def test_tiers_of_depths_alone_have_nothing_to_roll_and_are_not_refused() -> None:
    federation = Federation("fedrolex", {}, task_of(Deep), (Tier("one", 1.0, 1), Tier("two", 1.0, 2)), DEEP)
    head = federation.first()
    assert not federation.models.layout.rolls
    assert federation.merged(head, []).tobytes() == head.tobytes()
