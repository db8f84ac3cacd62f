"""Golden check: FjORD through sub-models that are slices is ordered dropout by the rule of its paper."""

from collections.abc import Sequence

import numpy as np
import pytest

from mhfl_mq.families import make_algorithm
from mhfl_mq.segments import Vector
from mhfl_mq.train.loop import shard_luck
from tests.golden.comparisons import assert_fjord
from tests.golden.network import Arrays
from tests.golden.ours import arrays_from, flat_of, models_of, our_round
from tests.golden.setting import OPTIONS, PRESENT, TIER_OF, WIDTHS


def drawn(round_number: int) -> list[list[float]]:
    """The widths that each device's minibatches draw, by the rule that `Job.chance` documents."""
    found = []
    for shard in PRESENT[round_number - 1]:
        seeds = np.random.SeedSequence([OPTIONS.seed, round_number, *shard_luck(shard)])
        luck = np.random.default_rng(seeds.spawn(1)[0])
        tiers = [int(luck.integers(TIER_OF[shard] + 1)) for _ in range(OPTIONS.steps)]
        found.append([WIDTHS[tier].width for tier in tiers])
    return found


def our_rounds(initial: Arrays, rounds: int, distil: bool) -> Sequence[dict[str, Vector]]:
    algorithm = make_algorithm("fjord", {"distil": int(distil)})
    models = models_of(algorithm)
    flats = [flat_of(models, initial)]
    for number in range(1, rounds + 1):
        flats.append(our_round(algorithm, models, flats[-1], number))
    return [arrays_from(models, flat) for flat in flats[1:]]


@pytest.mark.parametrize("distil", [False, True])
def test_fjord_is_the_papers_rule_by_coordinate(initial: Arrays, distil: bool) -> None:
    draws = [drawn(number) for number in (1, 2, 3)]
    of_west = draws[0][PRESENT[0].index("west")]
    assert len(set(of_west)) > 1  # the widest device does draw
    ours = our_rounds(initial, 3, distil)
    for rounds in (1, 3):
        assert_fjord(initial, ours[:rounds], draws[:rounds], distil=distil)
    with pytest.raises(AssertionError, match="after round 1"):
        assert_fjord(initial, ours[:1], draws[:1], distil=not distil)
