"""FeDepth on devices: what learns when, what it costs, and a small federation of full models."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from mhfl_mq.errors import LayoutError, TaskError
from mhfl_mq.segments import Tier
from mhfl_mq.train import probe
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.loop import train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.probe import probe_tier
from mhfl_mq.train.steps import Job, method_of
from mhfl_mq.train.steps.fedepth import BlockStepper, FeDepth
from mhfl_mq.train.steps.plain import Plain
from tests.train.steps.block_federation import OPTIONS, Federation
from tests.train.steps.block_nets import CHANNELS, CLASSES, PER_GROUP, conv, data, head, plan_of, steady, task_of

PLAN = plan_of("fedepth")
TIERS = (Tier("one at a time", 1.0, 1), Tier("two at a time", 1.0, 2), Tier("all"))
DEVICES = {"a": 0, "b": 1, "c": 1, "d": 2, "e": 0}


def job_of(models: TaskModels, tier: int, options: TrainOptions = OPTIONS) -> Job:
    return Job(models, tier, models.initial(3), data("a"), options, {}, 1)


@pytest.fixture(scope="module")
def models() -> TaskModels:
    return TaskModels(task_of(), TIERS, PLAN)


# ---- what learns when -----------------------------------------------------------------------------------------


def test_every_tier_holds_the_full_model(models: TaskModels) -> None:
    assert len(set(models.layout.lengths)) == 1
    assert models.layout.segments == 1


def moved(before: dict[str, torch.Tensor], stepper: BlockStepper) -> set[str]:
    after = stepper.net.state_dict()
    return {".".join(n.split(".")[:2]) for n in after if not torch.equal(before[n], after[n])}


def copy_of(stepper: BlockStepper) -> dict[str, torch.Tensor]:
    return {name: array.clone() for name, array in stepper.net.state_dict().items()}


@pytest.mark.parametrize(
    ("tier", "groups"),
    [
        (0, [{"stem.0", "stem.1", "blocks.0"}, {"blocks.1"}, {"blocks.2"}]),
        (1, [{"stem.0", "stem.1", "blocks.0", "blocks.1"}, {"blocks.2"}]),
        (2, [{"stem.0", "stem.1", "blocks.0", "blocks.1", "blocks.2"}]),
    ],
)
def test_groups_of_blocks_learn_one_after_the_other_and_the_head_with_each(
    models: TaskModels, tier: int, groups: list[set[str]]
) -> None:
    stepper = BlockStepper(job_of(models, tier))
    for step in range(OPTIONS.steps):
        before = copy_of(stepper)
        stepper.step(data("b"))
        assert moved(before, stepper) == groups[step * len(groups) // OPTIONS.steps] | {"heads.0"}


def test_a_groups_steps_are_plain_training_of_the_network_that_ends_with_it(models: TaskModels) -> None:
    """Written out: the middle block and the head, behind the first block as it was left, by an optimizer of theirs."""
    stepper = BlockStepper(job_of(models, 0))
    for _ in range(2):
        stepper.step(data("b"))
    plain = models.build(0)
    plain.module.load_state_dict(stepper.net.state_dict())
    net = plain.module
    assert isinstance(net, ExitNet)
    learning = [*net.blocks[1].parameters(), *net.heads[0].parameters()]
    velocity = [torch.zeros_like(p) for p in learning]
    for _ in range(2):
        stepper.step(data("b"))
        scores = net.heads[0](net.blocks[1](net.blocks[0](net.stem(data("b").inputs))))
        gradients = torch.autograd.grad(nn.functional.cross_entropy(scores, data("b").targets), learning)
        length = float(torch.sqrt(torch.stack([g.square().sum() for g in gradients]).sum()))
        shorter = min(1.0, OPTIONS.clip / (length + 1e-6))
        with torch.no_grad():
            for p, v, g in zip(learning, velocity, gradients, strict=True):
                v.mul_(OPTIONS.momentum).add_(shorter * g)
                p.sub_(OPTIONS.rate * v)
    for name, array in stepper.net.state_dict().items():
        torch.testing.assert_close(array, net.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_tier_that_can_train_all_blocks_trains_plainly_bit_for_bit(models: TaskModels) -> None:
    mine, plain = (train_round(method, job_of(models, 2)).update for method in (FeDepth(), Plain()))
    assert mine.tobytes() == plain.tobytes()


def test_what_the_task_froze_stays_frozen() -> None:
    def build(shape: TierShape) -> ExitNet:
        net = steady(shape)
        net.stem.requires_grad_(False)
        return net

    stepper = BlockStepper(job_of(TaskModels(task_of(build), TIERS, PLAN), 0))
    before = copy_of(stepper)
    for _ in range(OPTIONS.steps):
        stepper.step(data("b"))
    assert moved(before, stepper) == {"blocks.0", "blocks.1", "blocks.2", "heads.0"}


def test_running_statistics_of_a_frozen_block_stay() -> None:
    def build(shape: TierShape) -> ExitNet:
        blocks = [nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)) for _ in range(3)]
        return ExitNet(nn.Identity(), blocks, [head(2)])

    stepper = BlockStepper(job_of(TaskModels(task_of(build), TIERS, PLAN), 0))
    seen = []
    for step in range(OPTIONS.steps):
        seen.append([stepper.net.get_buffer(f"blocks.{i}.1.running_mean").clone() for i in range(3)])
        if step == 3:
            stepper.score(data("c"))  # which leaves the modes as they were
        stepper.step(data("b"))
    changes = [[not torch.equal(a, b) for a, b in zip(one, two, strict=True)] for one, two in pairwise(seen)]
    assert changes == [[True, False, False]] * 2 + [[False, True, False]] * 2 + [[False, False, True]]


# ---- what it costs --------------------------------------------------------------------------------------------


def wide(shape: TierShape) -> ExitNet:
    """Six blocks of which the weights and the features both matter."""
    return ExitNet(conv(2, 32), [conv(32, 32) for _ in range(6)], [head(32)])


@pytest.mark.parametrize("adam", [0.0, 1.0])
def test_fewer_blocks_at_once_need_well_less_memory(monkeypatch: pytest.MonkeyPatch, adam: float) -> None:
    monkeypatch.setattr(probe, "_resident", lambda field, reset_peak=False: 0)
    monkeypatch.setattr(probe, "BUDGET_S", 0.0)  # the time of a step does not matter here
    tiers = (Tier("two", 1.0, 2), Tier("three", 1.0, 3), Tier("all"))
    models = TaskModels(task_of(wide), tiers, PLAN)
    options = TrainOptions(batch=60, adam=adam)
    peaks = [probe_tier(FeDepth(), models, k, data("a"), options).peak_bytes for k in range(3)]
    weights = 4 * models.layout.total
    training = [peak - weights for peak in peaks]  # the weights of all blocks are there in any case
    assert peaks[2] == probe_tier(Plain(), models, 2, data("a"), options).peak_bytes
    assert training[0] < 0.5 * training[2]
    assert training[1] < 0.65 * training[2]
    assert peaks[0] < 0.6 * peaks[2]


@pytest.mark.parametrize("adam", [0.0, 1.0])
def test_gradients_and_the_optimizers_state_are_those_of_the_current_group_alone(
    models: TaskModels, adam: float
) -> None:
    stepper = BlockStepper(job_of(models, 0, TrainOptions(steps=6, adam=adam)))
    kept = sum(array.nbytes for array in stepper.net.parameters())
    for step in range(6):
        stepper.step(data("b"))
        learning = sum(array.nbytes for array in stepper.part.parameters())
        state = (1 + (2 if adam else 1)) * learning
        found = sum(tensor.nbytes for tensor in stepper.tensors())
        assert kept + state <= found <= kept + state + 200, step  # Adam counts its steps in small tensors


def test_in_a_round_of_fewer_steps_than_groups_the_others_come_next(models: TaskModels) -> None:
    options = TrainOptions(steps=2)
    seen = set()
    for number in (1, 2):
        stepper = BlockStepper(Job(models, 0, models.initial(3), data("a"), options, {}, number))
        for _ in range(2):
            stepper.step(data("b"))
            seen.add(stepper.group)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize(("steps", "tells"), [(3, (False, False, True)), (5, (False, True, True)), (6, (True,) * 3)])
def test_a_round_of_less_than_two_steps_of_each_group_says_nothing_of_the_usual_one(
    models: TaskModels, steps: int, tells: tuple[bool, ...]
) -> None:
    options = TrainOptions(steps=steps)
    told = ["step_s" in train_round(FeDepth(), job_of(models, tier, options)).metrics for tier in range(3)]
    assert tuple(told) == tells


# ---- blocks of several sizes ----------------------------------------------------------------------------------


def growing(shape: TierShape) -> ExitNet:
    """Channels double and places halve from block to block, as in a ResNet."""
    sizes = [CHANNELS, 2 * CHANNELS, 4 * CHANNELS]
    blocks: list[nn.Module] = [conv(CHANNELS, CHANNELS)]
    for a, b in pairwise(sizes):
        norm = nn.GroupNorm(b // PER_GROUP, b)
        blocks.append(nn.Sequential(nn.Conv1d(a, b, 3, stride=2, padding=1), norm, nn.ReLU()))
    last = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(sizes[-1], CLASSES))
    return ExitNet(conv(2, CHANNELS), blocks, [last])


def test_blocks_of_several_sizes_are_linked_to_the_one_head() -> None:
    federation = Federation(task_of(growing), TIERS, "fedepth", {"a": 0, "b": 1, "c": 2})
    before = federation.scores()[0]
    for _ in range(12):
        federation.round()
    assert federation.scores()[0] > max(0.75, before + 0.2)


def test_features_that_no_link_fits_are_refused_when_the_layout_is_made() -> None:
    def build(shape: TierShape) -> ExitNet:
        return ExitNet(conv(2, 8), [conv(8, 8), conv(8, 6), conv(6, 6)], [head(6)])

    with pytest.raises(TaskError, match=r"^blocks\.0: it gives features \(8, 8\), .*\(6, 8\); let blocks keep"):
        TaskModels(task_of(build), TIERS, PLAN)
    TaskModels(task_of(build), TIERS[1:], PLAN)  # two at a time end behind blocks that fit
    TaskModels(task_of(build), TIERS[2:], PLAN)


def test_a_model_that_is_not_made_of_blocks_with_one_head_is_refused() -> None:
    plain = task_of(lambda shape: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with pytest.raises(TaskError, match=r"not made of blocks with one head after the last; build it as a .*ExitNet"):
        TaskModels(plain, TIERS, PLAN)
    exits = task_of(lambda shape: steady(TierShape(1.0, 0, True)))
    with pytest.raises(TaskError, match="not made of blocks with one head"):
        TaskModels(exits, TIERS, PLAN)


def test_tiers_of_several_widths_are_refused_rather_than_trained_at_the_widest() -> None:
    with pytest.raises(LayoutError, match=r"'small' has the width 0\.5 .* full model on every device; give tiers of"):
        TaskModels(task_of(), (Tier("small", 0.5, 1), Tier("all")), PLAN)


# ---- together -------------------------------------------------------------------------------------------------


def test_a_federation_of_which_few_can_train_all_blocks_learns() -> None:
    federation = Federation(task_of(), TIERS, "fedepth", DEVICES)
    before = federation.scores()
    for _ in range(10):
        federation.round()
    after = federation.scores()
    assert len(set(after)) == 1  # one model for all
    assert after[0] > max(0.8, before[0] + 0.2)


def test_the_order_changes_nothing_and_an_update_counts_by_its_samples() -> None:
    federation = Federation(task_of(), TIERS, "fedepth", DEVICES)
    updates = {shard: federation.update(shard, 1) for shard in ("a", "b", "d")}
    new = federation.merged(updates)
    assert new.tobytes() == federation.merged(dict(reversed(updates.items()))).tobytes()
    mean = np.mean([update.astype(np.float64) for update in updates.values()], axis=0)  # 60 samples each
    np.testing.assert_allclose(new, federation.flat + mean, atol=1e-6)


def test_the_method_is_found_by_name() -> None:
    assert isinstance(method_of("fedepth"), FeDepth)
