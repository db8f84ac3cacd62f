"""Who sees single updates: the aggregator's step of an algorithm that is not linear, and nobody else's."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.families import Algorithm, algorithm_names, make_algorithm
from mhfl_mq.families.native.fedtgp import FedTGP
from mhfl_mq.run.bench import Bench
from mhfl_mq.segments import Axis, Layout, Parameter, Span, Tier
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.models import Models
from mhfl_mq.wire.blobs import build_manifest

LAYOUT = Layout(
    (Tier("one"),), {}, (Parameter("~prototypes", (Axis(2), Axis(2))), Parameter("~shares", (Axis(2),))), whole=True
)
UPDATE = np.array([1, 2, 0, 0, 1, 0], np.float32)


class _Linear(FedTGP):
    """The same, but that it says of itself that the sum is enough."""

    __slots__ = ()
    ABOUT = make_algorithm("fedproto").about


@pytest.mark.parametrize(("algorithm", "seen"), [(make_algorithm("fedtgp"), 2), (_Linear(), 0)])
def test_single_updates_are_handed_to_a_step_that_is_not_linear_and_to_no_other(
    virtual: asyncio.Runner, blobs: Blobs, tmp_path: Path, algorithm: Algorithm, seen: int
) -> None:
    calls: list[list[tuple[list[float], int, float]]] = []

    async def conclude(
        *, head: Span, merged: Path, updates: Sequence[tuple[Path, int, float]], round_number: int
    ) -> None:
        calls.append([(np.fromfile(path, "<f4").tolist(), tier, weight) for path, tier, weight in updates])
        assert np.fromfile(merged, "<f4").tolist() == UPDATE.tolist()

    async def evaluate(flat: Path) -> Mapping[str, float]:
        return {}

    (tmp_path / "models").mkdir()
    models = Models(tmp_path / "models")
    bench = Bench(
        layout=LAYOUT,
        algorithm=algorithm,
        models=models,
        blobs=blobs,
        scratch=tmp_path,
        evaluate=evaluate,
        largest_value=10.0,
        conclude=conclude,
    )
    manifest = build_manifest(UPDATE.tobytes(), 64)
    blobs.put(manifest, UPDATE.tobytes())

    async def main() -> None:
        bench.open_fold(1, models.put(np.zeros(LAYOUT.total, np.float32), LAYOUT.document()), 2)
        for weight in (3.0, 4.0):
            await bench.fold(1, 0, manifest.blob_id, weight)
        await bench.merge(1)

    virtual.run(main())
    assert calls == [[(UPDATE.tolist(), 0, 3.0), (UPDATE.tolist(), 0, 4.0)][:seen]]


def test_those_that_look_at_single_updates_say_that_they_are_not_linear() -> None:
    singly = {name for name in algorithm_names() if not make_algorithm(name).about.linear}
    assert singly == {"fedtgp", "feddf-weights"}
    assert all(make_algorithm(name).concludes for name in singly)
