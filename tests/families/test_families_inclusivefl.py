"""InclusiveFL at the aggregator: momentum distillation, held against the formula written out by tier and layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Algorithm, Evaluated, make_algorithm
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Packer, Parameter, Tier, Vector

DEPTHS = (1, 2, 4)
TIERS = (Tier("one", 1.0, 1), Tier("two", 1.0, 2), Tier("all", 1.0, 0))
W, B, MEAN, OUT = "0.weight", "0.bias", "1.running_mean", "heads.0.weight"
SHAPES = {W: (2, 3), B: (2,), MEAN: (2,)}
Arrays = dict[str, npt.NDArray[np.float64]]
Update = tuple[int, int, Arrays]  # the device's tier, its samples, its delta by the names of its own model


def axes(shape: Sequence[int]) -> tuple[Axis, ...]:
    return tuple(Axis(n) for n in shape)


def build_layout() -> Layout:
    shared = [Parameter("stem.weight", axes((2, 2)))]
    for j in range(DEPTHS[-1] - 1):
        since = next(k for k, depth in enumerate(DEPTHS) if j < depth - 1)
        shared += [Parameter(f"blocks.{j}.{n}", axes(s), since=since) for n, s in SHAPES.items()]
    private = []
    for k, depth in enumerate(DEPTHS):
        own = {f"blocks.{depth - 1}.{n}": s for n, s in SHAPES.items()} | {OUT: (3, 2)}
        private += [Parameter(f"{TIERS[k].name}:{n}", axes(s), only=k) for n, s in own.items()]
    return Layout(TIERS, {}, (*shared, *private))


LAYOUT = build_layout()


def names_of(tier: int) -> dict[str, tuple[int, ...]]:
    """The arrays of a tier's own model."""
    blocks = {f"blocks.{j}.{n}": s for j in range(DEPTHS[tier]) for n, s in SHAPES.items()}
    return {"stem.weight": (2, 2), **blocks, OUT: (3, 2)}


def updates_of(present: Sequence[tuple[int, int]], seed: int = 0) -> list[Update]:
    luck = np.random.default_rng(seed)
    return [
        (tier, samples, {n: luck.integers(-64, 65, s) / 64.0 for n, s in names_of(tier).items()})
        for tier, samples in present
    ]


def vector_of(update: Update) -> Vector:
    tier, _, arrays = update
    return Packer(LAYOUT, tier).gather({n: np.ascontiguousarray(a, np.float32) for n, a in arrays.items()})


def head_of(seed: int = 9) -> Vector:
    return np.random.default_rng(seed).normal(size=LAYOUT.total).astype(np.float32)


def total_of(updates: Sequence[Update]) -> Accumulator:
    total = Accumulator(LAYOUT.holdings, Bounds(cohort=16, weight=1e3, value=2.0))
    for update in updates:
        total.fold(vector_of(update), update[0], float(update[1]))
    return total


def finalized(updates: Sequence[Update], head: Vector, **options: float) -> Vector:
    out = np.empty_like(head)
    make_algorithm("inclusivefl", options).finalize(total_of(updates), LAYOUT, head, out)
    return out


def array(flat: Vector, name: str) -> Vector:
    start, stop = LAYOUT.where(name)
    return flat[start:stop]


def weighted(found: Sequence[tuple[int, npt.NDArray[np.float64]]]) -> npt.NDArray[np.float64] | None:
    """The mean of arrays by samples; None of none."""
    if not found:
        return None
    return np.asarray(np.sum([n * a for n, a in found], axis=0) / sum(n for n, _ in found))


def mean_over(updates: Sequence[Update], name: str, tiers: Sequence[int]) -> npt.NDArray[np.float64] | None:
    return weighted([(n, arrays[name]) for tier, n, arrays in updates if tier in tiers])


def distilled(updates: Sequence[Update], tier: int, local: str, beta: float) -> npt.NDArray[np.float64] | None:
    """The step of an array of a tier's last block, from the updates one by one."""
    here, deeper = DEPTHS[tier] - 1, DEPTHS[tier + 1] - 1
    own = mean_over(updates, f"blocks.{here}.{local}", [tier])
    layers = []
    for j in range(here, deeper + 1):
        among = [tier + 1] if j == deeper else range(tier + 1, len(DEPTHS))
        layers.append(mean_over(updates, f"blocks.{j}.{local}", list(among)))
    found = [layer for layer in layers if layer is not None]
    if own is None or not found:
        return own
    return beta * (sum(found[1:], found[0]) / len(found)) + (1 - beta) * own


EVERYBODY = [(0, 5), (0, 2), (1, 3), (1, 7), (2, 4), (2, 1)]


def assert_made_of(new: Vector, head: Vector, updates: Sequence[Update], beta: float, rate: float = 1.0) -> None:
    """Every array of a version against the formula."""
    expected: Mapping[str, npt.NDArray[np.float64] | None]
    for p in LAYOUT.parameters:
        if not p.private:
            expected = {p.name: mean_over(updates, p.name, range(p.since, len(DEPTHS)))}
        else:
            local = p.name.partition(":")[2]
            _, _, rest = local.removeprefix("blocks.").partition(".")
            mixed = local.startswith("blocks.") and rest != MEAN and p.only < len(DEPTHS) - 1
            step = distilled(updates, p.only, rest, beta) if mixed else mean_over(updates, local, [p.only])
            expected = {p.name: step}
        for name, step in expected.items():
            before, after = array(head, name), array(new, name)
            if step is None:
                assert after.tobytes() == before.tobytes(), name
            else:
                np.testing.assert_allclose(after, before + rate * step.reshape(-1), atol=2e-7, err_msg=name)


# ---- the formula ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.2, 0.7, 1.0, 0.0])
def test_a_last_block_learns_the_mean_step_of_the_deeper_tiers_layers_from_its_place_on(beta: float) -> None:
    updates, head = updates_of(EVERYBODY), head_of()
    assert_made_of(finalized(updates, head, beta=beta), head, updates, beta)


def test_beta_is_a_fifth_unless_the_policy_says_otherwise_and_the_servers_rate_scales_all() -> None:
    updates, head = updates_of(EVERYBODY), head_of()
    assert_made_of(finalized(updates, head), head, updates, 0.2)
    assert_made_of(finalized(updates, head, server_rate=0.5), head, updates, 0.2, 0.5)


def test_next_to_the_deepest_tier_it_is_the_papers_formula_to_the_letter() -> None:
    """Only tier i + 1 has the layers after it, so its mean is the mean of its devices."""
    updates, head = updates_of(EVERYBODY), head_of()
    new = finalized(updates, head)
    deepest = [(n, arrays) for tier, n, arrays in updates if tier == 2]
    of_layers = [weighted([(n, a[f"blocks.{j}.{W}"]) for n, a in deepest]) for j in (1, 2, 3)]
    own = mean_over(updates, f"blocks.1.{W}", [1])
    assert own is not None
    step = 0.2 * np.mean(of_layers, axis=0) + 0.8 * own  # type: ignore[arg-type]
    np.testing.assert_allclose(
        array(new, f"two:blocks.1.{W}"), array(head, f"two:blocks.1.{W}") + step.ravel(), atol=2e-7
    )


def test_a_middle_tiers_layers_are_the_mean_over_all_deeper_tiers_which_is_its_own_where_these_are_absent() -> None:
    updates, head = updates_of([(0, 5), (1, 3), (1, 7)]), head_of()
    new = finalized(updates, head)
    middle = [mean_over(updates, f"blocks.{j}.{B}", [1]) for j in (0, 1)]
    own = mean_over(updates, f"blocks.0.{B}", [0])
    assert own is not None
    step = 0.2 * np.mean(middle, axis=0) + 0.8 * own  # type: ignore[arg-type]
    np.testing.assert_allclose(array(new, f"one:blocks.0.{B}"), array(head, f"one:blocks.0.{B}") + step, atol=2e-7)


def test_the_released_codes_assignment_instead_of_a_sum_would_be_told_apart() -> None:
    """There only the last layer counts, and only by its share of the layers."""
    updates, head = updates_of(EVERYBODY), head_of()
    new = finalized(updates, head)
    last, own = mean_over(updates, f"blocks.3.{W}", [2]), mean_over(updates, f"blocks.1.{W}", [1])
    assert last is not None
    assert own is not None
    wrong = array(head, f"two:blocks.1.{W}") + (0.2 * last / 3 + 0.8 * own).ravel()
    assert not np.allclose(array(new, f"two:blocks.1.{W}"), wrong, atol=1e-3)


# ---- traps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "present",
    [[(0, 5)], [(1, 5)], [(2, 5)], [(0, 1), (2, 6)], [(1, 1), (2, 6)], [(0, 3), (1, 2)]],
    ids=lambda present: "+".join(TIERS[tier].name for tier, _ in present),
)
def test_absent_tiers_keep_their_last_block_and_what_nobody_trained_teaches_nobody(
    present: list[tuple[int, int]],
) -> None:
    updates, head = updates_of(present, seed=3), head_of()
    new = finalized(updates, head)
    assert_made_of(new, head, updates, 0.2)
    for tier in set(range(3)) - {tier for tier, _ in present}:
        (segment,) = [s for s, held in enumerate(range(LAYOUT.segments)) if _alone(held) == tier]
        start, stop = LAYOUT.segment_bounds[segment]
        assert new[start:stop].tobytes() == head[start:stop].tobytes()


def _alone(segment: int) -> int | None:
    """The tier that alone holds a segment of private arrays."""
    names = [LAYOUT.parameters[box.parameter] for box in LAYOUT.boxes if box.segment == segment]
    return names[0].only if names[0].private else None


def test_a_round_of_nobody_changes_nothing() -> None:
    head = head_of()
    assert finalized([], head).tobytes() == head.tobytes()


def test_an_update_of_zeros_counts_on_both_sides() -> None:
    updates, head = updates_of(EVERYBODY), head_of()
    for tier in range(3):
        updates.append((tier, 9, {n: np.zeros(s) for n, s in names_of(tier).items()}))
    assert_made_of(finalized(updates, head), head, updates, 0.2)


def test_running_statistics_of_a_last_block_are_not_mixed_with_those_of_other_layers() -> None:
    updates, head = updates_of(EVERYBODY), head_of()
    mixed, plain = finalized(updates, head, beta=1.0), finalized(updates, head, beta=0.0)
    for name in (f"one:blocks.0.{MEAN}", f"two:blocks.1.{MEAN}", f"one:{OUT}", f"two:{OUT}"):
        assert array(mixed, name).tobytes() == array(plain, name).tobytes()
    for name in (f"one:blocks.0.{W}", f"two:blocks.1.{B}"):
        assert not np.allclose(array(mixed, name), array(plain, name))


def test_it_is_linear_the_sums_of_two_halves_are_the_sum_of_all() -> None:
    """So a sum of masked updates, from which nobody's own can be seen, makes the same version."""
    updates, head = updates_of(EVERYBODY), head_of()
    assert finalized(updates, head).tobytes() == finalized(list(reversed(updates)), head).tobytes()
    algorithm: Algorithm = make_algorithm("inclusivefl")
    assert algorithm.about.linear

    def gain(some: Sequence[Update]) -> npt.NDArray[np.float64]:
        zero = np.zeros(LAYOUT.total, np.float32)
        return finalized(some, zero).astype(np.float64)

    alike = updates_of([(0, 4), (1, 4), (2, 4)], seed=1), updates_of([(0, 4), (1, 4), (2, 4)], seed=2)
    np.testing.assert_allclose(gain([*alike[0], *alike[1]]), (gain(alike[0]) + gain(alike[1])) / 2, atol=1e-6)


def test_a_version_in_a_file_is_made_like_one_in_memory(tmp_path: Path) -> None:
    updates, head = updates_of(EVERYBODY), head_of()
    head.tofile(tmp_path / "head")
    make_algorithm("inclusivefl").finalize(total_of(updates), LAYOUT, tmp_path / "head", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == finalized(updates, head).tobytes()


def test_one_tier_is_fedavg() -> None:
    layout = Layout(
        (Tier("all"),), {}, (Parameter("stem.w", axes((2,))), Parameter("all:blocks.0.w", axes((2,)), only=0))
    )
    total = Accumulator(layout.holdings, Bounds(1, 5.0, 8.0))
    total.fold(np.ones(4, np.float32), 0, 5.0)
    out = np.empty(4, np.float32)
    make_algorithm("inclusivefl").finalize(total, layout, np.zeros(4, np.float32), out)
    assert out.tolist() == [1.0] * 4


# ---- options --------------------------------------------------------------------------------------------------


def test_devices_count_by_their_samples_as_published_and_the_aggregator_scores() -> None:
    algorithm = make_algorithm("inclusivefl")
    assert [algorithm.weight(n) for n in (0, 7)] == [1.0, 7.0]
    assert make_algorithm("inclusivefl", {"weighting": "uniform"}).weight(7) == 1.0
    assert algorithm.evaluated is Evaluated.AGGREGATOR


@pytest.mark.parametrize(
    ("options", "said"),
    [({"betta": 0.3}, "did you mean 'beta'"), ({"beta": 1.5}, "1.5 is not within 0 to 1"), ({"beta": "x"}, "number")],
)
def test_a_wrong_option_is_refused_with_a_hint(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm("inclusivefl", options)
