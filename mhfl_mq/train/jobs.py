"""The jobs of the training child: plain arguments in, plain answers out; arrays in files, by their paths.

Loaded in the child only (it imports torch). The task and the layouts are kept between jobs.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from mhfl_mq.errors import LocalMisuse, TaskError
from mhfl_mq.families import Algorithm, Evaluated
from mhfl_mq.segments import Vector, stored_update
from mhfl_mq.segments.blocks import read_blocks
from mhfl_mq.train.baselines import Setting, run_baseline
from mhfl_mq.train.evaluate import evaluate_tiers
from mhfl_mq.train.kept import read_kept, write_kept
from mhfl_mq.train.loop import shard_luck, train_round
from mhfl_mq.train.model import TaskModels, read_vector, write_vector
from mhfl_mq.train.options import Handicap, TrainOptions
from mhfl_mq.train.probe import probe_tier
from mhfl_mq.train.reports import Participant, Subject
from mhfl_mq.train.steps import Conclusion, Job, PastUpdate, method_of
from mhfl_mq.train.task import Examples, Task

__all__ = ["JOBS", "Jobs"]

Answer = dict[str, Any]
Arguments = Mapping[str, Any]

HELD_OUT: Final = 10
"""One of so many of a device's examples is held out for its own score, where the task names no test examples."""


class Jobs:
    """One task's jobs. `folder` is the device's own data folder, None without one.

    `common_test`: devices that score their own models do so on all test data as well, as a benchmark wants it.
    `began` is called when all is loaded and the first step of a training begins.
    """

    def __init__(
        self,
        task: Task,
        folder: Path | None,
        *,
        common_test: bool = False,
        began: Callable[[], None] = lambda: None,
    ) -> None:
        self._common_test = common_test
        self._began = began
        self.task = task
        self._folder = folder
        self._models: dict[str, TaskModels] = {}
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
        """The layout; with `out`, version 0 of `seed` is written there."""
        subject = Subject.plain(arguments["subject"])
        algorithm, models = self._of(subject)
        if arguments["out"]:
            flat = models.initial(arguments["seed"])
            algorithm.begin(models.layout, flat)
            write_vector(Path(arguments["out"]), flat)
        public = self._public_digest if algorithm.plan.public else ""
        return {"layout": models.layout.document(), "metric": self.task.metric_name, "public": public}

    def count(self, arguments: Arguments) -> Answer:
        """How many examples a shard has, and the layout's digest."""
        _, models = self._of(Subject.plain(arguments["subject"]))
        return {"layout": models.layout.digest, "examples": len(self._shard(arguments["shard"]))}

    def probe(self, arguments: Arguments) -> Answer:
        """What one tier costs here, trained as the algorithm trains it."""
        subject = Subject.plain(arguments["subject"])
        algorithm, models = self._of(subject)
        cost = probe_tier(
            method_of(subject.algorithm),
            models,
            arguments["tier"],
            self._shard(arguments["shard"]),
            TrainOptions.from_numbers(subject.options),
            numbers={**algorithm.numbers, **subject.options},
            handicap=Handicap(*arguments["handicap"]),
        )
        return {"step_s": cost.step_s, "peak_bytes": cost.peak_bytes}

    def train(self, arguments: Arguments) -> Answer:
        """Train a tier from `base` (files of the segments that it holds, in order) and write the update to `out`."""
        subject, tier = Subject.plain(arguments["subject"]), int(arguments["tier"])
        algorithm, models = self._of(subject)
        number, shard = int(arguments["round"]), arguments["shard"]
        keeps = Path(arguments["keep"]) if arguments["keep"] else None
        maker = f"{subject.algorithm} {models.layout.digest} tier {tier}"
        data, own_test, common_test = self._shard(shard), None, None
        if algorithm.evaluated is Evaluated.DEVICES:
            data, own_test = self._with_own_test(shard)
            common_test = self._test() if self._common_test else None
        given = {str(name): float(value) for name, value in arguments["options"].items()}
        numbers = {**algorithm.numbers, **given}
        job = Job(
            models=models,
            tier=tier,
            base=read_vector([Path(path) for path in arguments["base"]], models.layout.lengths[tier]),
            examples=data,
            options=TrainOptions.from_numbers(numbers),
            numbers=numbers,
            round_number=number,
            luck=shard_luck(shard),
            kept=read_kept(keeps, number, maker),
        )
        handicap = Handicap(*arguments["handicap"])
        result = train_round(
            method_of(subject.algorithm),
            job,
            own_test=own_test,
            common_test=common_test,
            handicap=handicap,
            began=self._began,
        )
        if keeps is not None:
            write_kept(keeps, number, maker, result.kept)
        write_vector(Path(arguments["out"]), result.update)
        return {"weight": result.weight, "metrics": result.metrics}

    def evaluate(self, arguments: Arguments) -> Answer:
        """Every tier's metric of the version in the file `flat`, on the task's test data.

        Empty where parts of the models never leave the devices: these report their own.
        """
        subject = Subject.plain(arguments["subject"])
        algorithm, models = self._of(subject)
        if algorithm.evaluated is Evaluated.DEVICES:
            return {"metrics": {}}
        flat = read_vector([Path(arguments["flat"])], models.layout.total)
        return {"metrics": evaluate_tiers(method_of(subject.algorithm), models, flat, self._test())}

    def local_scores(self, arguments: Arguments) -> Answer:
        """The metric of each device's tier of the version in the file `flat`, on that device's own test examples.

        `devices` are shards and tiers. Where the task has no own test examples, on all test data. Empty where parts
        of the models never leave the devices.
        """
        subject = Subject.plain(arguments["subject"])
        algorithm, models = self._of(subject)
        if algorithm.evaluated is Evaluated.DEVICES:
            return {"scores": []}
        method, flat = method_of(subject.algorithm), read_vector([Path(arguments["flat"])], models.layout.total)
        common: dict[int, float] = {}
        scores = []
        for shard, tier in arguments["devices"]:
            vector = models.layout.take(flat, tier)
            if self.task.local_test is not None:
                scores.append(method.score(models, tier, vector, self.task.local_test(shard, self._folder)))
                continue
            if tier not in common:
                common[tier] = method.score(models, tier, vector, self._test())
            scores.append(common[tier])
        return {"scores": scores}

    def conclude(self, arguments: Arguments) -> Answer:
        """The aggregator's own step: makes the file `merged` anew from it, the head, and single updates."""
        subject = Subject.plain(arguments["subject"])
        algorithm, models = self._of(subject)
        layout, merged = models.layout, Path(arguments["merged"])
        past = [
            PastUpdate(_read_update(Path(path), layout.lengths[tier]), int(tier), float(weight))
            for path, tier, weight in arguments["updates"]
        ]
        conclusion = Conclusion(
            models=models,
            head=_read_from(Path(arguments["head"]), int(arguments["start"]), layout.total),
            merged=read_vector([merged], layout.total),
            updates=past,
            options=TrainOptions.from_numbers(subject.options),
            numbers={**algorithm.numbers, **subject.options},
            round_number=int(arguments["round"]),
        )
        write_vector(merged, method_of(subject.algorithm).conclude(conclusion))
        return {}

    def baseline(self, arguments: Arguments) -> Answer:
        """One baseline, whole: see `mhfl_mq.train.baselines`."""
        participants = [Participant(shard, tier) for shard, tier in arguments["participants"]]
        subject = Subject.plain(arguments["subject"])
        algorithm, models = self._of(subject)
        setting = Setting(
            models=models,
            participants=[(who, self._shard(who.shard)) for who in participants],
            test=self._test(),
            rounds=arguments["rounds"],
            options=TrainOptions.from_numbers(subject.options),
            initial_seed=arguments["seed"],
            algorithm=algorithm,
        )
        report = run_baseline(arguments["kind"], setting)
        return {"score": report.score, "tiers": dict(report.tiers), "seconds": report.seconds}

    # ---- inside -----------------------------------------------------------------------------------------------

    def _of(self, subject: Subject) -> tuple[Algorithm, TaskModels]:
        """The algorithm and the models of these tiers; the layout is derived once."""
        algorithm = subject.make()
        public = self._agreed(subject.public) if algorithm.plan.public else None
        key = repr((subject.tiers, algorithm.plan))
        if key not in self._models:
            self._models[key] = TaskModels(self.task, subject.tiers, algorithm.plan, public)
        return algorithm, self._models[key]

    def _agreed(self, digest: str) -> Examples:
        """The public examples, which must be those of this digest; empty: whatever lies here."""
        public = self._public
        if digest and digest != self._public_digest:
            raise TaskError(
                f"the public examples here have the SHA-256 {self._public_digest}, the federation's have {digest}",
                where=f"task {self.task.name!r}",
                remedy="give this device the federation's public set: see Task.public_data",
            )
        return public

    def _shard(self, shard: str) -> Examples:
        if shard not in self._data:
            self._data[shard] = self.task.device_data(shard, self._folder)
        return self._data[shard]

    def _with_own_test(self, shard: str) -> tuple[Examples, Examples]:
        """A device's training examples, and those that its own score is measured on."""
        data = self._shard(shard)
        if self.task.local_test is not None:
            return data, self.task.local_test(shard, self._folder)
        index = np.arange(len(data))
        held = index % HELD_OUT == HELD_OUT - 1
        return data.pick(index[~held]), data.pick(index[held])

    @cached_property
    def _public(self) -> Examples:
        if self.task.public_data is None:
            remedy = "give it public_data, or use an algorithm that needs none"
            raise TaskError("it has no public data", where=f"task {self.task.name!r}", remedy=remedy)
        return self.task.public_data(self._folder)

    @cached_property
    def _public_digest(self) -> str:
        """SHA-256 over the shape and the bytes of the public inputs: all sides must mean the same examples."""
        inputs = np.ascontiguousarray(self._public.inputs.numpy())
        digest = hashlib.sha256(f"{inputs.dtype.str} {inputs.shape}\n".encode())
        digest.update(inputs.data)
        return digest.hexdigest()

    def _test(self) -> Examples:
        if self.task.test_data is None:
            raise TaskError("it has no test data", where=f"task {self.task.name!r}", remedy="give it test_data")
        return self.task.test_data(self._folder)


def _read_update(path: Path, length: int) -> Vector:
    """An update of so many coordinates as it lies, compacted perhaps."""
    vector = np.empty(length, np.float32)
    for start, block in read_blocks(stored_update(path), length):
        vector[start : start + block.size] = block
    return vector


def _read_from(path: Path, start: int, length: int) -> Vector:
    """`length` float32 of a file from byte `start` on."""
    found = np.fromfile(path, "<f4", count=length, offset=start).astype(np.float32, copy=False)
    if found.size != length:
        raise LocalMisuse(f"{found.size} of {length} coordinates from byte {start} on", where=str(path))
    return found


JOBS: Final[dict[str, Callable[[Jobs, Arguments], Answer]]] = {
    "hello": Jobs.hello,
    "describe": Jobs.describe,
    "count": Jobs.count,
    "probe": Jobs.probe,
    "train": Jobs.train,
    "evaluate": Jobs.evaluate,
    "local_scores": Jobs.local_scores,
    "conclude": Jobs.conclude,
    "baseline": Jobs.baseline,
}
