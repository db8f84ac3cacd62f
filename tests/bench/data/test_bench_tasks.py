"""The benchmark's tasks: on the wind farm that ships, and on the other sets where they are."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mhfl_mq.bench.data import BENCH_SETS, BenchSet, find_set, make_task, task_name
from mhfl_mq.bench.data.windfarm import WIND
from mhfl_mq.errors import TaskError
from mhfl_mq.train import wind
from mhfl_mq.train.task import Examples, Task, load_task


def rows(examples: Examples) -> set[bytes]:
    """Each input as bytes."""
    return {one.numpy().tobytes() for one in examples.inputs}


def local_test(task: Task, shard: str) -> Examples:
    """A device's own test records."""
    assert task.local_test is not None
    return task.local_test(shard, None)


def parts_of(task: Task) -> tuple[Examples, Examples]:
    """The public and the test part."""
    assert task.public_data is not None
    assert task.test_data is not None
    return task.public_data(None), task.test_data(None)


@pytest.mark.parametrize("split", WIND.splits)
@pytest.mark.parametrize("validation", [False, True])
def test_devices_public_part_and_scored_part_have_no_record_in_common(split: str, validation: bool) -> None:
    task = make_task(WIND, None, 12, 3, split, validation)
    devices = [task.device_data(f"{k}/12", None) for k in range(12)]
    public, scored = parts_of(task)
    assert min(len(one) for one in devices) > 0
    assert sum(len(one) for one in devices) == len(task.device_data("", None))
    together = [rows(one) for one in (*devices, public, scored)]
    assert len(set().union(*together)) == sum(len(one) for one in together)
    training = 4800 - (len(scored) if validation else 0)
    assert sum(len(one) for one in devices) + len(public) == training
    assert len(public) == pytest.approx(training / 10, abs=1)
    assert not public.targets.any()


def test_validation_takes_a_sixth_of_the_training_part_and_nothing_of_the_test_part() -> None:
    early, late = (make_task(WIND, None, 12, 0, validation=v) for v in (False, True))
    validation, test = parts_of(late)[1], parts_of(early)[1]
    assert len(test) == 2000
    assert len(validation) == 800
    assert not rows(validation) & rows(test)
    assert len(set(validation.targets.tolist())) == wind.CLASSES


def test_inputs_are_scaled_as_the_demos_task_scales_them() -> None:
    scored = parts_of(make_task(WIND, None, 1, 0))[1]
    theirs = wind.test_data(None)
    assert torch.equal(scored.inputs, theirs.inputs)
    assert torch.equal(scored.targets, theirs.targets)


def test_a_device_is_scored_on_its_own_turbine() -> None:
    task = make_task(WIND, None, 12, 0)
    windows = [local_test(task, f"{k}/12") for k in range(12)]
    assert [len(one) for one in windows] == [500] * 12
    assert torch.equal(windows[0].inputs, windows[1].inputs)  # winter and summer of one turbine
    assert torch.equal(windows[0].inputs, windows[8].inputs)  # device 8 shares its natural device with device 0
    assert not rows(windows[0]) & rows(windows[2])
    assert len(local_test(task, "0/3")) == 1500  # natural devices 0, 3 and 6 in one: three turbines


@pytest.mark.parametrize("split", ["dirichlet", "classes"])
def test_with_a_drawn_mix_a_device_is_scored_on_its_own_mix(split: str) -> None:
    task = make_task(WIND, None, 6, 1, split)
    for k in range(6):
        own, scored = (
            np.bincount(one.targets.numpy(), minlength=wind.CLASSES) / len(one)
            for one in (task.device_data(f"{k}/6", None), local_test(task, f"{k}/6"))
        )
        assert np.abs(own - scored).max() < 0.02


def test_a_name_gives_another_process_the_same_task() -> None:
    for split in WIND.splits:
        name = task_name(WIND, 4, split, validation=True)
        theirs, mine = load_task(name), make_task(WIND, None, 5, 4, split, validation=True)
        assert theirs.name == mine.name == name.partition(":")[2]
        for shard in ("", "3/5"):
            assert torch.equal(theirs.device_data(shard, None).inputs, mine.device_data(shard, None).inputs)
            assert torch.equal(local_test(theirs, shard).inputs, local_test(mine, shard).inputs)
        for a, b in zip(parts_of(theirs), parts_of(mine), strict=True):
            assert torch.equal(a.inputs, b.inputs)


def test_another_seed_splits_otherwise() -> None:
    one, other = (make_task(WIND, None, 12, seed) for seed in (0, 1))
    assert rows(parts_of(one)[0]) != rows(parts_of(other)[0])
    assert rows(one.device_data("0/12", None)) != rows(other.device_data("0/12", None))


@pytest.mark.parametrize("shard", ["12/12", "x", "1", "-1/3", "1/0", "0/0"])
def test_a_shard_that_does_not_exist_is_refused(shard: str) -> None:
    task = make_task(WIND, None, 12, 0)
    with pytest.raises(TaskError, match="there is no shard"):
        task.device_data(shard, None)
    with pytest.raises(TaskError, match="there is no shard"):
        local_test(task, shard)


def test_what_cannot_be_made_is_refused_with_the_nearest() -> None:
    with pytest.raises(TaskError, match="no split 'clases'") as caught:
        make_task(WIND, None, 12, 0, "clases")
    assert "natural, dirichlet, classes" in caught.value.remedy
    with pytest.raises(TaskError, match="0 devices"):
        make_task(WIND, None, 0, 0)
    with pytest.raises(TaskError, match="no record is left"):
        make_task(WIND, None, 5000, 0)
    with pytest.raises(TaskError, match="no data set 'hydraulic-valv'") as caught:
        find_set("hydraulic-valv")
    assert "'hydraulic-valve'" in caught.value.remedy
    module = "mhfl_mq.bench.data.tasks"
    with pytest.raises(TaskError, match="has no 'wind_natral_s0'") as caught:
        load_task(f"{module}:wind_natral_s0")
    assert "'wind_natural_s0'" in caught.value.remedy
    with pytest.raises(TaskError, match="no data set 'wnd'"):
        load_task(f"{module}:wnd_natural_s0")
    assert not hasattr(sys.modules[module], "something_else")


@pytest.mark.parametrize(
    "bench_set", [one for one in BENCH_SETS if one.name.startswith("hydraulic")], ids=lambda one: one.name
)
def test_the_rig_is_split_by_cooler_and_scored_on_whole_combinations(bench_set: BenchSet, rig: Path) -> None:
    for validation in (False, True):
        task = make_task(bench_set, rig, 12, 0, validation=validation)
        records = bench_set.load(rig)
        devices = [task.device_data(f"{k}/12", None) for k in range(12)]
        public, scored = parts_of(task)
        assert all(len(set(one.targets.tolist())) == 4 for one in devices)
        together = [rows(one) for one in (*devices, public, scored)]
        assert len(set().union(*together)) == sum(len(one) for one in together)
        combination = {records.pick(np.array([k])).inputs.numpy().tobytes(): records.unit[k] for k in range(2205)}
        train = {combination[row] for one in (*devices, public) for row in rows(one)}
        held = {combination[row] for row in rows(scored)}
        assert not train & held
        assert len(train) + len(held) == (108 if validation else 144)
        assert len(set(scored.targets.tolist())) == 4
        cooler = rows(local_test(task, "1/12"))
        assert cooler == rows(local_test(task, "4/12"))
        assert not cooler & rows(local_test(task, "2/12"))


def test_fashion_is_split_by_a_drawn_mix(pictures: Path) -> None:
    fashion = find_set("fashion-mnist")
    task = make_task(fashion, pictures, 12, 0, "classes")
    public, scored = parts_of(task)
    assert (len(public), len(scored)) == (6000, 2500)
    assert all(len(set(task.device_data(f"{k}/12", None).targets.tolist())) == 2 for k in range(12))
    task = make_task(fashion, pictures, 12, 0)
    assert sum(len(task.device_data(f"{k}/12", None)) for k in range(12)) == 54_000
