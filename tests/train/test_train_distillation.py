"""The distillation family through the training child's jobs: arrays in files, as devices and aggregators have them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mhfl_mq.families import Evaluated, make_algorithm
from mhfl_mq.segments import Accumulator, Bounds, Layout, Span, Tier
from mhfl_mq.train.jobs import Jobs
from mhfl_mq.train.reports import Subject
from tests.train.steps.federation import TASK

TIERS = (Tier("line", architecture="small"), Tier("deep", architecture="tall"), Tier("last"))
OPTIONS = {"steps": 3.0, "batch": 16.0, "align_steps": 2.0, "distill_steps": 3.0}
PAD = 12
"""Bytes before the head in its file, as in a stored version."""


class Sides:
    """An aggregator's jobs and a device's, and the files between them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.algorithm = make_algorithm(name)
        own = {key: value for key, value in OPTIONS.items() if key in self.algorithm.numbers}
        self.algorithm = make_algorithm(name, own)
        self.folder = folder
        self.jobs = Jobs(TASK, None)
        options = self.algorithm.device_options({"steps": 3.0, "batch": 16.0})
        self.subject = Subject.of(TIERS, name, options).document()
        found = self.ask("describe", out=str(folder / "0.f32"), seed=0)
        self.layout = Layout.from_document(found["layout"])

    def ask(self, job: str, **arguments: object) -> dict[str, Any]:
        return self.jobs.run(job, {"subject": self.subject, "shard": "a", "handicap": [1.0, 0], **arguments})

    def round(self, number: int) -> dict[str, float]:
        """Both devices train, the sum is finished in a file; gives the new version's metrics, or the devices'."""
        flat = np.fromfile(self.folder / f"{number - 1}.f32", "<f4")
        total = Accumulator(self.layout.holdings, Bounds(2, 64.0, 1e3))
        singly: list[object] = []
        metrics: dict[str, float] = {}
        for shard, tier in (("a", 0), ("b", 1)):
            base, out = self.folder / f"base-{shard}", self.folder / f"update-{shard}"
            self.layout.take(flat, tier).tofile(base)
            told = self.ask(
                "train",
                shard=shard,
                tier=tier,
                base=[str(base)],
                out=str(out),
                options=dict(self.subject["options"]),
                keep=str(self.folder / f"kept-{shard}"),
                round=number,
            )
            weight = self.algorithm.weight(told["weight"])
            total.fold(out, tier, weight)
            singly.append([str(out), tier, weight])
            metrics |= {f"{name}/{shard}": value for name, value in told["metrics"].items()}
        head, merged = self.folder / "head", self.folder / f"{number}.f32"
        head.write_bytes(b"#" * PAD + flat.tobytes())
        self.algorithm.finalize(total, self.layout, Span(head, PAD, flat.size), merged)
        if self.algorithm.concludes:
            updates = [] if self.algorithm.about.linear else singly
            self.ask("conclude", head=str(head), start=PAD, merged=str(merged), updates=updates, round=number)
        assert np.isfinite(np.fromfile(merged, "<f4")).all()
        if self.algorithm.evaluated is Evaluated.DEVICES:
            return metrics
        found: dict[str, float] = self.ask("evaluate", flat=str(merged))["metrics"]
        return found


@pytest.mark.parametrize("name", ["fedmd", "dsfl", "feddistill", "feddf", "feddf-weights", "fedet"])
def test_two_rounds_through_files(name: str, tmp_path: Path) -> None:
    sides = Sides(name, tmp_path)
    first = sides.round(1)
    second = sides.round(2)
    versions = {(tmp_path / f"{k}.f32").read_bytes() for k in range(3)}
    assert len(versions) == 3
    if sides.algorithm.evaluated is Evaluated.DEVICES:
        assert {"own/accuracy/a", "own/accuracy/b"} <= second.keys()
        assert (tmp_path / "kept-a" / "kept-2.npz").exists()
        assert sides.ask("evaluate", flat=str(tmp_path / "2.f32"))["metrics"] == {}
        aligned = 2 if "align_steps" in sides.algorithm.numbers else 0
        assert (first["steps/a"], second["steps/a"]) == (3, 3 + aligned)
    else:
        assert list(second) == ["accuracy/line", "accuracy/deep", "accuracy/last"]


@pytest.mark.parametrize("name", ["fedmd", "feddistill", "fedet"])
def test_what_a_device_does_is_measured(name: str, tmp_path: Path) -> None:
    cost = Sides(name, tmp_path).ask("probe", tier=1)
    assert 0 < cost["step_s"] < 1
    assert cost["peak_bytes"] > 0
