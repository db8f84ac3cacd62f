"""The benchmark's tasks: a data set, split over devices, for a seed.

`make_task` gives one. A process that loads tasks by name finds the same one as an attribute of this module, made when
it is asked for; the attribute says the data set, the split, the seed, and whether the validation part stands in for the
test part: `mhfl_mq.bench.data.tasks:hydraulic_valve_natural_s0`, `...:fashion_mnist_dirichlet_s3_validation`
(`task_name` writes it). How many devices there are, a device's shard says: `i/n` is device i of n, from 0.

Of the training part, in this order: a sixth is the validation part (whole units; only if asked for), a tenth of the
rest is the public part without labels, and what remains is the devices' alone. So all algorithms, with and without a
public set, learn from the same records of the devices, and a setting that is chosen on the validation part has never
met the test part.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np
import torch

from mhfl_mq.bench.data import split as splitting
from mhfl_mq.bench.data.base import BenchSet, Records, Whole
from mhfl_mq.bench.data.sets import BENCH_SETS, find_set
from mhfl_mq.errors import TaskError
from mhfl_mq.train.task import Examples, Task

__all__ = ["make_task", "task_name"]

VALIDATION: Final = 6
"""One unit of so many of the training part is the validation part."""
PUBLIC: Final = 10
"""One record of so many of the rest is public."""
LOCAL: Final = 1000
"""Test records that a device with a drawn mix of classes is scored on at most."""

# What luck is for, beside the seed: so that one draw does not follow from another.
_VALIDATION, _PUBLIC, _DEVICES, _LOCAL = range(4)

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
_NAME = re.compile(r"([a-z0-9_]+)_(natural|dirichlet|classes)_s(\d{1,9})(_validation)?")


def make_task(
    bench_set: BenchSet,
    folder: Path | None,
    devices: int,
    seed: int,
    split: str = "",
    validation: bool = False,
) -> Task:
    """The task of a data set whose files lie in `folder`, after a check that it serves so many devices.

    `split`: "natural" (by natural device), "dirichlet" (0.3), "classes" (2 classes a device); empty is the set's
    usual one. Raises `TaskError`: a file is missing or another, no such split, too many devices.
    """
    divided = _Divided(bench_set, folder, split or bench_set.splits[0], seed, validation)
    divided.parts(folder, devices)
    return divided.task()


def task_name(bench_set: BenchSet, seed: int, split: str = "", validation: bool = False) -> str:
    """The name by which another process loads the task; it gives the folder itself (a device's option `--data`)."""
    return f"{__name__}:{_attribute(bench_set, split or bench_set.splits[0], seed, validation)}"


def _attribute(bench_set: BenchSet, split: str, seed: int, validation: bool) -> str:
    return f"{bench_set.name.replace('-', '_')}_{split}_s{seed}{'_validation' if validation else ''}"


def __getattr__(name: str) -> Task:
    """The task that an attribute of this module names."""
    named = _NAME.fullmatch(name)
    if not named:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    bench_set = find_set(named[1].replace("_", "-"))
    return _Divided(bench_set, None, named[2], int(named[3]), bool(named[4])).task()


def __dir__() -> list[str]:
    """What a wrong name is compared with."""
    return [_attribute(s, split, 0, late) for s in BENCH_SETS for split in s.splits for late in (False, True)]


class _Divided:
    """One division of a set: the functions of its task, over records that are loaded when first asked for."""

    def __init__(self, bench_set: BenchSet, folder: Path | None, split: str, seed: int, validation: bool) -> None:
        if split not in bench_set.splits:
            remedy = f"it has {', '.join(bench_set.splits)}"
            raise TaskError(f"no split {split!r}", where=f"the data set {bench_set.name}", remedy=remedy)
        self._set, self._folder, self._split = bench_set, folder, split
        self._seed, self._validation = seed, validation
        self._bases: dict[Path | None, tuple[Whole, Whole, Whole]] = {}
        self._dealt: dict[tuple[Path | None, int], list[Whole]] = {}

    def task(self) -> Task:
        """The task itself."""
        return Task(
            name=_attribute(self._set, self._split, self._seed, self._validation),
            model=self._set.model,
            device_data=self._device_data,
            test_data=self._test_data,
            sample=self._sample,
            public_data=self._public_data,
            local_test=self._local_test,
            architectures=self._set.architectures,
        )

    def parts(self, folder: Path | None, devices: int) -> list[Whole]:
        """The training records of each of so many devices."""
        key = (folder, devices)
        if key not in self._dealt:
            if devices < 1:
                raise TaskError(f"{devices} devices", where=self._where, remedy="give 1 or more")
            found = self._deal(folder, devices)
            if not all(part.size for part in found):
                what = f"no record is left for one of {devices} devices"
                raise TaskError(what, where=self._where, remedy="take fewer devices")
            self._dealt[key] = found
        return self._dealt[key]

    def _deal(self, folder: Path | None, devices: int) -> list[Whole]:
        records, mine = self._records(folder), self._base(folder)[0]
        targets, luck = records.targets[mine], (self._seed, _DEVICES)
        if self._split == "natural":
            dealt = splitting.natural(records.client[mine], targets, self._set.clients, devices, luck)
        elif self._split == "dirichlet":
            dealt = splitting.dirichlet(targets, devices, luck)
        else:
            dealt = splitting.by_class(targets, self._set.classes, devices, luck)
        return [mine[part] for part in dealt]

    def _base(self, folder: Path | None) -> tuple[Whole, Whole, Whole]:
        """The records of all devices together, the public ones, and those that models are scored on."""
        if folder not in self._bases:
            records = self._records(folder)
            train, scored = np.flatnonzero(~records.test), np.flatnonzero(records.test)
            if self._validation:
                strata = (records.client[train], records.targets[train])
                late = splitting.hold_out(records.unit[train], strata, VALIDATION, (self._seed, _VALIDATION))
                train, scored = train[~late], train[late]
            strata = (records.client[train], records.targets[train])
            public = splitting.hold_out(train, strata, PUBLIC, (self._seed, _PUBLIC))
            self._bases[folder] = (train[~public], train[public], scored)
        return self._bases[folder]

    def _records(self, folder: Path | None) -> Records:
        return self._set.load(folder or self._folder)

    def _device_data(self, shard: str, folder: Path | None) -> Examples:
        """One device's training records; of all devices together where the shard is empty."""
        records = self._records(folder)
        if not shard:
            return records.pick(self._base(folder)[0])
        device, devices = self._device(shard)
        return records.pick(self.parts(folder, devices)[device])

    def _test_data(self, folder: Path | None) -> Examples:
        """The test part, or the validation part where that stands in for it."""
        return self._records(folder).pick(self._base(folder)[2])

    def _public_data(self, folder: Path | None) -> Examples:
        """The public records; their targets are all 0 and mean nothing."""
        inputs = self._records(folder).pick(self._base(folder)[1]).inputs
        return Examples(inputs, torch.zeros(len(inputs), dtype=torch.int64))

    def _local_test(self, shard: str, folder: Path | None) -> Examples:
        """A device's share of the test part: of its natural place, or drawn with its own mix of classes."""
        if not shard:
            return self._test_data(folder)
        records, scored = self._records(folder), self._base(folder)[2]
        device, devices = self._device(shard)
        own = self.parts(folder, devices)[device]
        if self._split == "natural":
            return records.pick(scored[np.isin(records.place[scored], records.place[own])])
        luck = (self._seed, _LOCAL, device)
        return records.pick(scored[splitting.draw_alike(records.targets[scored], records.targets[own], LOCAL, luck)])

    def _sample(self) -> torch.Tensor:
        """Two made-up inputs, each other than the next."""
        size = 2 * int(np.prod(self._set.shape))
        return torch.linspace(-2.0, 2.0, size).reshape(2, *self._set.shape).sin()

    def _device(self, shard: str) -> tuple[int, int]:
        part = _SHARD.fullmatch(shard)
        if not part or int(part[1]) >= int(part[2]):
            remedy = "give 'i/n' for device i of n, counted from 0"
            raise TaskError(f"there is no shard {shard!r}", where=self._where, remedy=remedy)
        return int(part[1]), int(part[2])

    @property
    def _where(self) -> str:
        return f"the data set {self._set.name}, split {self._split!r}"
