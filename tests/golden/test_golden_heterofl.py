"""Golden check: HeteroFL through layout, training loop and streamed fold is HeteroFL by the rule of its paper."""

import numpy as np
import pytest

from mhfl_mq.families import make_algorithm
from mhfl_mq.train.loop import batches, shard_luck
from mhfl_mq.train.model import TaskModels
from tests.golden.comparisons import assert_heterofl
from tests.golden.network import Arrays
from tests.golden.ours import FULL, arrays_from, flat_of, models_of, our_round
from tests.golden.reference import heterofl_round
from tests.golden.setting import EXAMPLES, OPTIONS, PRESENT, descent, devices, minibatches

HETEROFL = make_algorithm("heterofl")


@pytest.fixture(scope="module")
def models() -> TaskModels:
    return models_of(HETEROFL)


@pytest.mark.parametrize("rounds", [1, 3])
def test_heterofl_is_the_papers_rule_by_coordinate(models: TaskModels, initial: Arrays, rounds: int) -> None:
    flats = [flat_of(models, initial)]
    for number in range(1, rounds + 1):
        flats.append(our_round(HETEROFL, models, flats[-1], number))
    ours = [arrays_from(models, flat) for flat in flats[1:]]
    assert_heterofl(initial, ours)
    assert max(float(np.abs(ours[-1][name] - initial[name]).max()) for name in initial) > 0.01  # it did learn


def test_a_round_without_the_largest_tier_keeps_its_own_coordinates_on_both_sides_bit_for_bit(
    models: TaskModels, initial: Arrays
) -> None:
    head = flat_of(models, initial)
    ours = our_round(HETEROFL, models, head, 2)
    theirs = flat_of(models, heterofl_round(initial, devices(2), descent(2)))
    shared = models.layout.lengths[FULL - 1]
    assert ours[shared:].tobytes() == head[shared:].tobytes() == theirs[shared:].tobytes()
    assert not np.array_equal(ours[:shared], head[:shared])


def test_the_reference_is_given_the_minibatches_that_the_loop_draws() -> None:
    for number, shards in enumerate(PRESENT, 1):
        for shard in shards:
            seeds = np.random.SeedSequence([OPTIONS.seed, number, *shard_luck(shard)])
            drawn = batches(EXAMPLES[shard], OPTIONS.batch, np.random.default_rng(seeds))
            assert minibatches(shard, number) == [next(drawn).tolist() for _ in range(OPTIONS.steps)]


def test_a_wrong_rule_is_told_apart(models: TaskModels, initial: Arrays) -> None:
    """The tolerance is far below what a wrong weight, minibatch or rate does."""
    head = flat_of(models, initial)
    ours = arrays_from(models, our_round(HETEROFL, models, head, 1))
    spoiled = {name: array.copy() for name, array in ours.items()}
    spoiled["conv2.weight"][0, 0, 0, 0] += 1e-5
    for wrong in (spoiled, arrays_from(models, our_round(HETEROFL, models, head, 3)), initial):
        with pytest.raises(AssertionError, match="after round 1"):
            assert_heterofl(initial, [wrong])
