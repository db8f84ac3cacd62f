"""Golden check: FedRolex, a roll of each new version, is the windows of its paper in the model's own channels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.families import make_algorithm
from mhfl_mq.segments import Accumulator, Bounds, Vector
from mhfl_mq.segments.roll import next_steps, rolled
from mhfl_mq.train.model import TaskModels
from tests.golden.comparisons import assert_fedrolex
from tests.golden.network import PER_GROUP, Arrays
from tests.golden.ours import arrays_from, flat_of, models_of, our_round


@pytest.fixture(scope="module")
def units() -> TaskModels:
    """The layout says single channels; the norms' groups are channels of their own in it."""
    return models_of(make_algorithm("fedrolex"))


def unrolled(models: TaskModels, flat: Vector, rolls: int, step: int) -> Vector:
    """A version that was rolled so many times, back in the full model's own order."""
    back = {group: -moved * rolls for group, moved in next_steps(models.layout, step).items()}
    return rolled(models.layout, flat, back)


def offsets(models: TaskModels, rounds: int, step: int) -> list[tuple[int, int]]:
    """Where the windows of streams A and B begin in each round, in channels of the network."""
    steps = next_steps(models.layout, step)
    groups = models.layout.groups
    per_round = []
    for stream, channels in ((stream_of(models, "conv1.weight"), 8), (stream_of(models, "conv3.weight"), 16)):
        per_round.append(steps[stream] * (channels // groups[stream][-1]))
    a, b = per_round
    return [(a * r % 8, b * r % 16) for r in range(rounds)]


def stream_of(models: TaskModels, name: str) -> str:
    group = next(p for p in models.layout.parameters if p.name == name).axes[0].group
    assert group is not None
    return group


def our_rounds(initial: Arrays, models: TaskModels, rounds: int, step: int) -> Sequence[dict[str, Vector]]:
    algorithm = make_algorithm("fedrolex", {"roll_step": step})
    flats = [flat_of(models, initial)]
    for number in range(1, rounds + 1):
        flats.append(our_round(algorithm, models, flats[-1], number))
    return [arrays_from(models, unrolled(models, flat, r, step)) for r, flat in enumerate(flats[1:], 1)]


@pytest.mark.parametrize(("rounds", "step"), [(1, 1), (3, 1), (3, 2)])
def test_fedrolex_is_the_papers_rule_by_coordinate(units: TaskModels, initial: Arrays, rounds: int, step: int) -> None:
    begins = offsets(units, rounds, step)
    assert all(a % PER_GROUP == b % PER_GROUP == 0 for a, b in begins)
    assert len(set(begins)) == rounds  # the window does move
    ours = our_rounds(initial, units, rounds, step)
    assert_fedrolex(initial, ours, begins)
    assert max(float(np.abs(ours[-1][name] - initial[name]).max()) for name in initial) > 0.01


def test_windows_that_stay_are_told_apart(units: TaskModels, initial: Arrays) -> None:
    with pytest.raises(AssertionError, match="after round 2"):
        assert_fedrolex(initial, our_rounds(initial, units, 2, 1), [(0, 0), (0, 0)])


def test_an_array_and_a_file_become_the_same_version(units: TaskModels, initial: Arrays, tmp_path: Path) -> None:
    head = flat_of(units, initial)
    total = Accumulator(units.layout.holdings, Bounds(2, 1.0, 1.0))
    total.fold(np.full(units.layout.lengths[1], 0.25, np.float32), 1, 1.0)
    algorithm, new = make_algorithm("fedrolex"), np.empty_like(head)
    algorithm.finalize(total, units.layout, head, new)
    algorithm.finalize(total, units.layout, head, tmp_path / "new.f32")
    assert (tmp_path / "new.f32").read_bytes() == new.tobytes()
