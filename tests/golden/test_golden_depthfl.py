"""Golden check: DepthFL through layout, training loop and streamed fold is DepthFL by the rule of its paper."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mhfl_mq.families import make_algorithm
from mhfl_mq.families.sharing.depthfl import mutual_weight
from mhfl_mq.segments import Accumulator, Bounds, Packer, Vector
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.loop import shard_luck, train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.steps import Job, method_of
from mhfl_mq.train.task import Task
from tests.golden.comparisons import assert_depthfl, assert_ensemble
from tests.golden.network import CLASSES, SIDE, Arrays
from tests.golden.reference import depthfl_ramp
from tests.golden.setting import DEPTHS, OPTIONS, PRESENT, TIER_OF, examples, exit_parts
from tests.train.steps.block_nets import Seen

RAMP = 4
DEEPEST = len(DEPTHS) - 1
TASK = Task(
    name="golden exits",
    model=lambda shape: ExitNet(*exit_parts(shape.depth)),
    device_data=examples,
    sample=lambda: torch.zeros(2, 1, SIDE, SIDE),
)
ALGORITHM = make_algorithm("depthfl", {"ramp": RAMP})


@pytest.fixture(scope="module")
def models() -> TaskModels:
    return TaskModels(TASK, DEPTHS, ALGORITHM.plan)


def arrays_from(models: TaskModels, flat: Vector) -> Arrays:
    """The deepest model's arrays, by name."""
    arrays = {name: np.empty(shape, np.float32) for name, shape in models.layout.shapes(DEEPEST).items()}
    Packer(models.layout, DEEPEST).scatter(flat, arrays)
    return arrays


def our_round(models: TaskModels, head: Vector, round_number: int) -> Vector:
    """One round as devices and the aggregator do it."""
    layout = models.layout
    total = Accumulator(layout.holdings, Bounds(cohort=len(TIER_OF), weight=1.0, value=100.0))
    numbers = ALGORITHM.device_options({})
    for shard in PRESENT[round_number - 1]:
        tier, data = TIER_OF[shard], examples(shard)
        base = layout.take(head, tier).copy()
        job = Job(models, tier, base, data, OPTIONS, numbers, round_number, shard_luck(shard))
        total.fold(train_round(method_of("depthfl"), job).update, tier, ALGORITHM.weight(len(data)))
    new = np.empty_like(head)
    ALGORITHM.finalize(total, layout, head, new)
    return new


@pytest.mark.parametrize("rounds", [1, 3])
def test_depthfl_is_the_papers_rule_by_array(models: TaskModels, initial_exits: Arrays, rounds: int) -> None:
    flats = [Packer(models.layout, DEEPEST).gather(initial_exits)]
    for number in range(1, rounds + 1):
        flats.append(our_round(models, flats[-1], number))
    ours = [arrays_from(models, flat) for flat in flats[1:]]
    assert_depthfl(initial_exits, ours, [depthfl_ramp(t, RAMP) for t in range(1, rounds + 1)])
    assert max(float(np.abs(ours[-1][name] - initial_exits[name]).max()) for name in initial_exits) > 0.01


def test_the_ramp_is_the_papers(models: TaskModels) -> None:
    for over in (1, 20, 300):
        assert [mutual_weight(t, over) for t in (1, 7, 299, 300, 2000)] == pytest.approx(
            [depthfl_ramp(t, over) for t in (1, 7, 299, 300, 2000)], rel=1e-12
        )


def test_without_the_mutual_part_the_check_fails(models: TaskModels, initial_exits: Arrays) -> None:
    """The tolerance is far below what the exits teach each other in one round."""
    flat = our_round(models, Packer(models.layout, DEEPEST).gather(initial_exits), 1)
    with pytest.raises(AssertionError, match="after round 1"):
        assert_depthfl(initial_exits, [arrays_from(models, flat)], [0.0])


@pytest.mark.parametrize("tier", range(len(DEPTHS)))
def test_a_tiers_answer_is_the_papers_ensemble(models: TaskModels, initial_exits: Arrays, tier: int) -> None:
    seen = Seen()
    watched = TaskModels(replace(TASK, metric=seen), DEPTHS, ALGORITHM.plan)
    data = examples("west")
    flat = Packer(models.layout, DEEPEST).gather(initial_exits)
    method_of("depthfl").score(watched, tier, models.layout.take(flat, tier).copy(), data)
    assert seen.outputs[0].shape == (len(data), CLASSES)
    assert_ensemble(initial_exits, tier + 1, data.inputs.numpy(), seen.outputs[0].numpy())
