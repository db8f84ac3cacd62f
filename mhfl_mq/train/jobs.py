"""The jobs of the training child: plain arguments in, plain answers out; arrays in files, by their paths.

Loaded in the child only (it imports torch). The task and the layouts are kept between jobs.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mhfl_mq.errors import LocalMisuse, TaskError
from mhfl_mq.families.registry import make_algorithm
from mhfl_mq.segments import Tier
from mhfl_mq.train.baselines import Setting, run_baseline
from mhfl_mq.train.evaluate import evaluate_tiers
from mhfl_mq.train.loop import shard_luck, train_tier
from mhfl_mq.train.model import TaskModels, read_vector, write_vector
from mhfl_mq.train.options import Handicap, TrainOptions
from mhfl_mq.train.probe import probe_tier
from mhfl_mq.train.reports import Participant
from mhfl_mq.train.task import Examples, Task

__all__ = ["JOBS", "Jobs"]

Answer = dict[str, Any]
Arguments = Mapping[str, Any]


class Jobs:
    """One task's jobs. `folder` is the device's own data folder, None without one."""

    def __init__(self, task: Task, folder: Path | None) -> None:
        self.task = task
        self._folder = folder
        self._models: dict[tuple[Tier, ...], TaskModels] = {}
        self._data: dict[str, Examples] = {}

    def run(self, name: str, arguments: Arguments) -> Answer:
        """Do one job; raises `MhflError`, or whatever the task's own code raises."""
        job = JOBS.get(name)
        if job is None:
            raise LocalMisuse(f"there is no job {name!r}", where="training child")
        return job(self, arguments)

    def hello(self, arguments: Arguments) -> Answer:
        """That the task could be loaded, and under which name."""
        return {"task": self.task.name, "pid": os.getpid()}

    def describe(self, arguments: Arguments) -> Answer:
        """The layout; with `out`, the initial full model of `seed` is written there."""
        models = self._of(arguments["tiers"])
        if arguments["out"]:
            write_vector(Path(arguments["out"]), models.initial(arguments["seed"]))
        return {"layout": models.layout.document(), "metric": self.task.metric_name}

    def count(self, arguments: Arguments) -> Answer:
        """How many examples a shard has, and the layout's digest and names of tiers."""
        models = self._of(arguments["tiers"])
        return {"layout": models.layout.digest, "examples": len(self._shard(arguments["shard"]))}

    def probe(self, arguments: Arguments) -> Answer:
        """What one tier costs here."""
        options = TrainOptions.from_numbers(arguments["options"])
        handicap = Handicap(*arguments["handicap"])
        models, data = self._of(arguments["tiers"]), self._shard(arguments["shard"])
        cost = probe_tier(models, arguments["tier"], data, options, handicap=handicap)
        return {"step_s": cost.step_s, "peak_bytes": cost.peak_bytes}

    def train(self, arguments: Arguments) -> Answer:
        """Train a tier from `base` (files of consecutive segments) and write the delta to `out`."""
        models, tier = self._of(arguments["tiers"]), int(arguments["tier"])
        base = read_vector([Path(path) for path in arguments["base"]], models.layout.lengths[tier])
        result = train_tier(
            self.task,
            models.build(tier),
            base,
            self._shard(arguments["shard"]),
            TrainOptions.from_numbers(arguments["options"]),
            round_number=arguments["round"],
            luck=shard_luck(arguments["shard"]),
            handicap=Handicap(*arguments["handicap"]),
        )
        write_vector(Path(arguments["out"]), result.delta)
        return {"weight": result.weight, "metrics": result.metrics}

    def evaluate(self, arguments: Arguments) -> Answer:
        """Every tier's metric of the full model in the file `flat`, on the task's test data."""
        models = self._of(arguments["tiers"])
        flat = read_vector([Path(arguments["flat"])], models.layout.total)
        return {"metrics": evaluate_tiers(models, flat, self._test())}

    def baseline(self, arguments: Arguments) -> Answer:
        """One baseline, whole: see `mhfl_mq.train.baselines`."""
        participants = [Participant(shard, tier) for shard, tier in arguments["participants"]]
        setting = Setting(
            models=self._of(arguments["tiers"]),
            participants=[(who, self._shard(who.shard)) for who in participants],
            test=self._test(),
            rounds=arguments["rounds"],
            options=TrainOptions.from_numbers(arguments["options"]),
            initial_seed=arguments["seed"],
            algorithm=make_algorithm(arguments["algorithm"], arguments["algorithm_options"]),
        )
        report = run_baseline(arguments["kind"], setting)
        return {"score": report.score, "tiers": dict(report.tiers), "seconds": report.seconds}

    # ---- inside -----------------------------------------------------------------------------------------------

    def _of(self, tiers: Sequence[Sequence[Any]]) -> TaskModels:
        """The models of these tiers; the layout is derived once."""
        wanted = tuple(Tier(name, float(width), int(depth)) for name, width, depth in tiers)
        if wanted not in self._models:
            self._models[wanted] = TaskModels(self.task, wanted)
        return self._models[wanted]

    def _shard(self, shard: str) -> Examples:
        if shard not in self._data:
            self._data[shard] = self.task.device_data(shard, self._folder)
        return self._data[shard]

    def _test(self) -> Examples:
        if self.task.test_data is None:
            raise TaskError("it has no test data", where=f"task {self.task.name!r}", remedy="give it test_data")
        return self.task.test_data(self._folder)


JOBS: Final[dict[str, Callable[[Jobs, Arguments], Answer]]] = {
    "hello": Jobs.hello,
    "describe": Jobs.describe,
    "count": Jobs.count,
    "probe": Jobs.probe,
    "train": Jobs.train,
    "evaluate": Jobs.evaluate,
    "baseline": Jobs.baseline,
}
