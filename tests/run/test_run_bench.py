"""The bench: a merge is what plain arithmetic gives, segments are cuts of one file, a release frees all."""

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from mhfl_mq.errors import LocalMisuse, StoreError, TrainingFailed
from mhfl_mq.families import make_algorithm
from mhfl_mq.policy import Limits
from mhfl_mq.run.bench import Bench
from mhfl_mq.segments import Accumulator, Axis, Bounds, Form, Layout, Parameter, Tier, Vector
from mhfl_mq.segments.compact import pack
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.models import Models
from mhfl_mq.wire.blobs import build_manifest


class Table:
    """A bench with the stores around it."""

    def __init__(self, layout: Layout, blobs: Blobs, folder: Path, largest_value: float = 10.0) -> None:
        self.layout, self.blobs, self.folder = layout, blobs, folder
        (folder / "models").mkdir()
        self.models = Models(folder / "models")
        self.fails = False
        self.bench = Bench(
            layout=layout,
            algorithm=make_algorithm("heterofl"),
            models=self.models,
            blobs=blobs,
            scratch=folder,
            evaluate=self._evaluate,
            largest_value=largest_value,
        )

    async def _evaluate(self, flat: Path) -> Mapping[str, float]:
        if self.fails:
            raise TrainingFailed("the child died")
        return {"mean": float(np.fromfile(flat, "<f4").mean())}

    def model(self, flat: Vector) -> str:
        return self.models.put(flat, self.layout.document())

    def update(self, delta: Vector) -> str:
        manifest = build_manifest(delta.tobytes(), 64)
        self.blobs.put(manifest, delta.tobytes())
        return manifest.blob_id


@pytest.fixture
def table(layout: Layout, blobs: Blobs, tmp_path: Path) -> Table:
    return Table(layout, blobs, tmp_path)


@pytest.mark.parametrize("thread_from", [0, 10**9])
def test_a_merge_is_the_weighted_mean_of_each_segments_holders(
    virtual: asyncio.Runner, table: Table, thread_from: int
) -> None:
    luck = np.random.default_rng(7)
    head = luck.integers(-9, 9, 100).astype(np.float32)
    deltas = [(0, 2.0), (0, 1.0), (1, 5.0)]
    updates = [luck.integers(-9, 9, table.layout.lengths[tier]).astype(np.float32) for tier, _ in deltas]

    async def main() -> Vector:
        table.bench.open_fold(3, table.model(head), 3)
        for (tier, weight), delta in zip(deltas, updates, strict=True):
            await table.bench.fold(3, tier, table.update(delta), weight)
        merged = await table.bench.merge(3)
        flat = table.models.open(merged.model).read(0, 100)
        assert merged.metrics == {"mean": pytest.approx(flat.mean())}
        return flat

    with mock.patch("mhfl_mq.run.bench.THREAD_FROM", thread_from):
        flat = virtual.run(main())
    expected = head.astype(np.float64)
    expected[:40] += (2 * updates[0] + updates[1] + 5 * updates[2][:40].astype(np.float64)) / 8
    expected[40:] += updates[2][40:]
    assert np.array_equal(flat, expected.astype(np.float32))
    assert not list(table.folder.glob("merge-*"))


@pytest.mark.parametrize("weights", [(1.0, 3.0, 100.0), (100.0, 1.0, 3.0), (3.0, 100.0, 1.0)])
def test_a_merge_follows_from_what_was_counted_alone_and_loses_no_small_step(
    virtual: asyncio.Runner, table: Table, weights: tuple[float, ...]
) -> None:
    """A heavy update that comes late makes the grid coarser for all, as if it had come first."""
    luck = np.random.default_rng(3)
    steps = {weight: (luck.normal(size=100) * 1e-6).astype(np.float32) for weight in sorted(weights)}

    async def main() -> Vector:
        table.bench.open_fold(3, table.model(np.zeros(100, np.float32)), 3)
        for weight in weights:
            await table.bench.fold(3, 1, table.update(steps[weight]), weight)
        merged = await table.bench.merge(3)
        table.bench.release(3)
        return table.models.open(merged.model).read(0, 100)

    flat = virtual.run(main())
    exact = sum(weight * step.astype(np.float64) for weight, step in steps.items()) / 104
    # Half a float32 of the result, and for each of three updates half of the grid for weights up to 128, over 104.
    allowed = np.spacing(np.abs(flat)) / 2 + 1.5 * Bounds(3, 128.0, 10.0).grid / 104
    assert (np.abs(flat - exact) <= allowed).all()
    ordered = Accumulator(table.layout.lengths, Bounds(3, 128.0, 10.0))
    for weight, step in steps.items():
        ordered.fold(step, 1, weight)
    expected = np.empty(100, np.float32)
    ordered.finalize(np.zeros(100, np.float32), expected)
    assert np.array_equal(flat, expected)


def test_tiers_that_are_no_prefixes_are_cut_judged_and_merged_segment_by_segment(
    virtual: asyncio.Runner, blobs: Blobs, tmp_path: Path
) -> None:
    own = tuple(Parameter(f"{tier}:head", (Axis(size),), only=k) for k, (tier, size) in enumerate((("a", 2), ("b", 3))))
    layout = Layout((Tier("a", 0.5), Tier("b")), {"g": (1, 2)}, (*own, Parameter("body", (Axis(2, group="g"),))))
    table = Table(layout, blobs, tmp_path)  # body 1, body 1 more, a:head 2, b:head 3

    async def main() -> Vector:
        base = table.model(np.zeros(7, np.float32))
        source = table.bench.segments(base, 64)
        assert [one.size for one in source.manifests] == [4, 4, 8, 12]
        table.bench.open_fold(1, base, 2)
        small, large = table.update(np.full(3, 2, np.float32)), table.update(np.full(5, 4, np.float32))
        assert table.bench.fault_in_update(small, 0) == table.bench.fault_in_update(large, 1) == ""
        assert "3 coordinates, its tier has 5" in table.bench.fault_in_update(small, 1)
        await table.bench.fold(1, 0, small, 1.0)
        await table.bench.fold(1, 1, large, 1.0)
        return table.models.open((await table.bench.merge(1)).model).read(0, 7)

    assert virtual.run(main()).tolist() == [3, 4, 2, 2, 4, 4, 4]


@pytest.mark.parametrize("weight", [math.nextafter(2.0**19, 0), 2.0**19, math.nextafter(2.0**19, math.inf), 3.0])
def test_any_weight_can_be_folded_also_one_beside_a_power_of_two(
    virtual: asyncio.Runner, table: Table, weight: float
) -> None:
    async def main() -> Vector:
        table.bench.open_fold(1, table.model(np.zeros(100, np.float32)), 1)
        await table.bench.fold(1, 1, table.update(np.ones(100, np.float32)), weight)
        return table.models.open((await table.bench.merge(1)).model).read(0, 100)

    assert virtual.run(main()).tolist() == [1.0] * 100


def test_with_the_default_limits_a_step_of_a_millionth_keeps_five_digits(
    virtual: asyncio.Runner, layout: Layout, blobs: Blobs, tmp_path: Path
) -> None:
    table = Table(layout, blobs, tmp_path, largest_value=Limits().largest_value)
    luck = np.random.default_rng(5)
    steps = [(luck.uniform(1, 2, 100) * 1e-6).astype(np.float32) for _ in range(6)]

    async def main() -> Vector:
        table.bench.open_fold(1, table.model(np.zeros(100, np.float32)), 6)
        for step in steps:
            await table.bench.fold(1, 1, table.update(step), 1.0)
        return table.models.open((await table.bench.merge(1)).model).read(0, 100)

    assert virtual.run(main()) == pytest.approx(np.mean(steps, axis=0, dtype=np.float64), rel=1e-6)


def test_segments_are_read_out_of_the_models_file(table: Table) -> None:
    flat = np.arange(100, dtype=np.float32)
    source = table.bench.segments(table.model(flat), 64)
    read = [b"".join(source.read(k, i) for i in range(one.chunks)) for k, one in enumerate(source.manifests)]
    assert read == [flat[:40].tobytes(), flat[40:].tobytes()]
    source.served.close()


def test_a_failed_evaluation_leaves_no_model_and_no_scratch(virtual: asyncio.Runner, table: Table) -> None:
    async def main() -> None:
        base = table.model(np.zeros(100, np.float32))
        table.bench.open_fold(1, base, 1)
        await table.bench.fold(1, 0, table.update(np.ones(40, np.float32)), 1.0)
        table.fails = True
        with pytest.raises(TrainingFailed):
            await table.bench.merge(1)
        assert table.models.digests() == (base,)
        assert not list(table.folder.glob("merge-*"))

    virtual.run(main())


def test_a_release_frees_the_sum_and_every_update_also_those_that_were_never_folded(
    virtual: asyncio.Runner, table: Table
) -> None:
    async def main() -> None:
        table.bench.open_fold(1, table.model(np.zeros(100, np.float32)), 2)
        await table.bench.fold(1, 0, table.update(np.ones(40, np.float32)), 1.0)
        table.update(np.full(40, 2, np.float32))  # came too late to be counted
        table.blobs.begin(build_manifest(bytes(400), 64))  # half received
        table.bench.release(1)
        assert list((table.folder / "blobs").iterdir()) == []
        with pytest.raises(LocalMisuse, match="round 1 has no sum"):
            await table.bench.merge(1)

    virtual.run(main())


def test_a_counted_update_that_is_gone_stops_the_aggregator(virtual: asyncio.Runner, table: Table) -> None:
    async def main() -> None:
        table.bench.open_fold(1, table.model(np.zeros(100, np.float32)), 1)
        with pytest.raises(StoreError, match="a counted update is gone"):
            await table.bench.fold(1, 0, "a" * 64, 1.0)

    virtual.run(main())


@pytest.mark.parametrize(
    ("delta", "fault"),
    [
        (np.ones(40, np.float32), ""),
        (np.ones(39, np.float32), "the update has 39 coordinates, its tier has 40"),
        (np.full(40, np.inf, np.float32), "coordinate 0 is inf"),
        (np.full(40, 11, np.float32), "coordinate 0 is 11, beyond the round's bound of 10"),
    ],
)
def test_an_update_is_judged_by_length_and_numbers(table: Table, delta: Vector, fault: str) -> None:
    assert table.bench.fault_in_update(table.update(delta), 0) == fault


def test_a_compacted_update_is_judged_and_folded_as_it_lies(
    virtual: asyncio.Runner, table: Table, tmp_path: Path
) -> None:
    delta = np.random.default_rng(1).normal(size=100).astype(np.float32)
    packed = pack(delta, Form(8), tmp_path / "packed")
    assert packed.residual is not None
    data = (tmp_path / "packed").read_bytes()

    def blob(data: bytes) -> str:
        manifest = build_manifest(data, 64)
        table.blobs.put(manifest, data)
        return manifest.blob_id

    assert table.bench.fault_in_update(blob(data), 1) == ""
    assert "the update has 100 coordinates, its tier has 40" in table.bench.fault_in_update(blob(data), 0)
    assert "another size" in table.bench.fault_in_update(blob(data[:-1]), 1)
    assert "its header alone is" in table.bench.fault_in_update(blob(data[:30]), 1)
    scales = slice(36, 40)
    bad = data[: scales.start] + np.float32(np.nan).tobytes() + data[scales.stop :]
    assert "scale 0 is nan" in table.bench.fault_in_update(blob(bad), 1)

    async def main() -> Vector:
        table.bench.open_fold(3, table.model(np.zeros(100, np.float32)), 2)
        await table.bench.fold(3, 1, blob(data), 1.0)
        await table.bench.fold(3, 1, table.update(delta), 4.0)  # heavier: the sum is made again, with both
        merged = await table.bench.merge(3)
        return table.models.open(merged.model).read(0, 100)

    expected = (delta - packed.residual + 4 * delta.astype(np.float64)) / 5
    assert np.allclose(virtual.run(main()), expected, atol=1e-6)


def test_an_update_that_is_not_there_is_at_fault(table: Table) -> None:
    assert table.bench.fault_in_update("a" * 64, 0) == "the update is not on the disk"
