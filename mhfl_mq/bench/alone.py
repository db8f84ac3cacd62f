"""The baseline without a federation: each device trains its own tier by itself, for as many rounds and steps."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np

from mhfl_mq.bench.federation import LAST, Setting, fast_disk
from mhfl_mq.bench.fleet import Device
from mhfl_mq.bench.methods import ONE_TIER
from mhfl_mq.bench.trainer import Spent
from mhfl_mq.segments import Tier as LayoutTier
from mhfl_mq.train.inprocess import LocalWorker
from mhfl_mq.train.reports import Subject

__all__ = ["Alone", "run_alone"]


class Alone:
    """What became of it: tiers' mean accuracies (over their devices) by round, local accuracies, what it took."""

    def __init__(self) -> None:
        self.curve: dict[int, dict[str, list[float]]] = {}  # round -> tier -> each device's accuracy
        self.local: dict[str, float] = {}
        self.spent: dict[str, Spent] = {}

    def tiers(self, number: int) -> dict[str, float]:
        """Mean accuracy over the devices of each tier after a round."""
        return {tier: fmean(values) for tier, values in self.curve[number].items()}


def run_alone(setting: Setting, worker: LocalWorker, told: Callable[[int], None] = lambda _rounds: None) -> Alone:
    """Train every device that carries a tier; `told` hears how many rounds' worth of work is done."""
    return asyncio.run(_all(setting, worker, told))


async def _all(setting: Setting, worker: LocalWorker, told: Callable[[int], None]) -> Alone:
    result = Alone()
    members = [device for device in setting.devices if device.tier is not None]
    with tempfile.TemporaryDirectory(prefix="mhfl-bench-", dir=fast_disk()) as folder:
        for done, device in enumerate(members, start=1):
            await _one(setting, worker, device, Path(folder), result)
            told(done * setting.rounds // len(members))
    return result


async def _one(setting: Setting, worker: LocalWorker, device: Device, folder: Path, result: Alone) -> None:
    """One device's rounds; its model is one of a single tier, with first weights of its own size."""
    assert device.tier is not None
    named = setting.tiers[device.tier]
    subject = Subject.of(
        [LayoutTier(named.name, named.width, named.depth, named.architecture)], ONE_TIER, setting.options
    )
    spent = result.spent[device.name] = Spent()
    flat, update = folder / "model.f32", folder / "update.f32"
    await worker.describe(subject, seed=setting.seed, out=flat)
    cost, options = setting.costs[device.tier], {**setting.options, "seed": float(setting.seed)}
    for number in range(1, setting.rounds + 1):
        report = await worker.train(
            subject, 0, [flat], update, shard=device.shard, options=options, round_number=number
        )
        (np.fromfile(flat, "<f4") + np.fromfile(update, "<f4")).astype("<f4").tofile(flat)
        spent.trainings += 1
        spent.real_s += report.metrics.get("cpu_s", 0.0)
        spent.compute_s += setting.options.get("steps", 1.0) * cost.step_s * device.profile.slowdown
        if number > setting.rounds - LAST:
            for metric, value in (await worker.evaluate(subject, flat)).items():
                tier = metric.partition("/")[2]
                result.curve.setdefault(number, {}).setdefault(tier, []).append(value)
    (result.local[device.name],) = await worker.local_scores(subject, flat, [(device.shard, 0)])
