"""FedPer, FedRep and LG-FedAvg on the device: what travels, what stays, which part a step moves."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mhfl_mq.families import algorithm_class, make_algorithm
from mhfl_mq.segments import Accumulator, Bounds, Tier, Vector
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.loop import train_round
from mhfl_mq.train.model import TaskModels, arrays_of
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import Job, Kept, method_of
from mhfl_mq.train.task import Examples, Task

OPTIONS = TrainOptions(steps=8, batch=16, rate=0.1, seed=3)
TIERS = (Tier("small", 0.5), Tier("large", 1.0))
NAMES = ("fedper", "fedrep", "lg-fedavg")


def model(shape: TierShape) -> nn.Module:
    hidden = round(8 * shape.width)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def data(shard: str, count: int = 60) -> Examples:
    """Each device has its own meaning of the classes, which is what personal heads are for."""
    generator = torch.Generator().manual_seed(len(shard))
    inputs = torch.randn(count, 4, generator=generator)
    return Examples(inputs, (inputs[:, :3].argmax(dim=1) + len(shard)) % 3)


TASK = Task("personal", model, lambda shard, _folder: data(shard), sample=lambda: torch.randn(3, 4))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def models_of(name: str) -> TaskModels:
    return TaskModels(TASK, TIERS, algorithm_class(name).PLAN)


def job(name: str, models: TaskModels, tier: int, base: Vector, kept: Kept | None = None, number: int = 1) -> Job:
    numbers = dict(make_algorithm(name).numbers)
    return Job(models, tier, base, data("a"), OPTIONS, numbers, number, (tier,), kept or {})


@pytest.mark.parametrize(
    ("name", "travels"),
    [("fedper", {"0.weight", "0.bias"}), ("fedrep", {"0.weight", "0.bias"}), ("lg-fedavg", {"2.weight", "2.bias"})],
)
def test_the_layout_holds_the_shared_part_and_the_device_keeps_the_other(name: str, travels: set[str]) -> None:
    models = models_of(name)
    assert set(models.layout.shapes(1)) == travels
    trained = train_round(method_of(name), job(name, models, 1, models.initial(3)))
    assert trained.update.size == models.layout.lengths[1]
    assert trained.kept.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"} - travels
    assert np.abs(trained.update).max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_private_part_goes_on_where_it_was_left(name: str) -> None:
    models = models_of(name)
    base = models.initial(3)
    first = train_round(method_of(name), job(name, models, 1, base))
    stepper = method_of(name).begin(job(name, models, 1, base, first.kept, 2))
    again = stepper.finish()  # no step was made
    assert not again.update.any()
    for array, value in first.kept.items():
        np.testing.assert_array_equal(again.kept[array], value)


@pytest.mark.parametrize("name", NAMES)
def test_without_anything_kept_every_device_begins_with_the_federations_own_model(name: str) -> None:
    models = models_of(name)
    torch.manual_seed(99)  # whatever else was drawn before
    kept = method_of(name).begin(job(name, models, 1, models.initial(3))).finish().kept
    torch.manual_seed(OPTIONS.seed)
    expected = arrays_of(model(TierShape(1.0)))
    for array, value in kept.items():
        np.testing.assert_array_equal(value, expected[array])


def test_what_was_kept_of_other_shapes_is_begun_anew() -> None:
    models = models_of("fedper")
    kept = {"2.weight": np.zeros((3, 4), np.float32), "2.bias": np.zeros(3, np.float32)}
    fresh = method_of("fedper").begin(job("fedper", models, 1, models.initial(3), kept)).finish().kept
    assert fresh["2.weight"].shape == (3, 8)
    assert fresh["2.weight"].any()


def test_fedrep_trains_the_head_on_the_body_as_it_came_and_then_the_body_on_that_head() -> None:
    models = models_of("fedrep")
    stepper = method_of("fedrep").begin(job("fedrep", models, 1, models.initial(3)))
    batch = data("a", 16)
    moved: list[tuple[bool, bool]] = []
    for _ in range(OPTIONS.steps):
        before = stepper.finish()
        stepper.step(batch)
        after = stepper.finish()
        body = not np.array_equal(before.update, after.update)
        head = any(not np.array_equal(before.kept[name], after.kept[name]) for name in before.kept)
        moved.append((head, body))
    assert moved == [(True, False)] * 4 + [(False, True)] * 4


@pytest.mark.parametrize(("share", "heads"), [(0.0, 0), (0.1, 0), (0.25, 2), (0.5, 3), (0.75, 4), (1.0, 5)])
def test_in_a_rehearsal_the_steps_after_the_first_are_of_both_parts_in_their_shares(share: float, heads: int) -> None:
    models = models_of("fedrep")
    usual = job("fedrep", models, 1, models.initial(3))
    todo = replace(usual, options=replace(OPTIONS, steps=5), numbers={"head_share": share}, rehearsal=True)
    stepper = method_of("fedrep").begin(todo)
    moved = []
    for _ in range(5):
        before = stepper.finish().kept
        stepper.step(data("a", 16))
        after = stepper.finish().kept
        moved.append(any(not np.array_equal(before[name], after[name]) for name in before))
    assert moved == [True] * heads + [False] * (5 - heads)


def federate(name: str, rounds: int) -> tuple[float, float, Mapping[str, Kept]]:
    """Mean own score of two devices with contrary classes before the first and after the last round."""
    models, algorithm, method = models_of(name), make_algorithm(name), method_of(name)
    flat, kept = models.initial(3), dict[str, Kept]()
    scores: list[list[float]] = []
    for number in range(1, rounds + 1):
        total = Accumulator(models.layout.holdings, Bounds(4, 100.0, 100.0))
        scores.append([])
        for shard, tier in (("a", 0), ("bb", 1), ("a", 1), ("bb", 0)):
            who = f"{shard}{tier}"
            base = models.layout.take(flat, tier).copy()
            todo = Job(
                models, tier, base, data(shard), OPTIONS, dict(algorithm.numbers), number, (1,), kept.get(who, {})
            )
            trained = train_round(method, todo, own_test=data(shard, 200))
            total.fold(trained.update, tier, algorithm.weight(trained.weight))
            kept[who] = trained.kept
            scores[-1].append(trained.metrics["own/accuracy"])
        new = np.empty_like(flat)
        algorithm.finalize(total, models.layout, flat, new)
        flat = new
    return float(np.mean(scores[0])), float(np.mean(scores[-1])), kept


@pytest.mark.parametrize("name", NAMES)
def test_devices_whose_classes_contradict_each_other_learn_their_own(name: str) -> None:
    first, last, _ = federate(name, 12)
    assert last > max(first + 0.05, 0.7), (first, last)
