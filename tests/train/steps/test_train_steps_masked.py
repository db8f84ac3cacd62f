"""Devices that lack classes: masked scores, rows that are not sent, and a federation that learns all the same."""

import numpy as np
import pytest
import torch
from torch import nn

from mhfl_mq.errors import LayoutError, TaskError
from mhfl_mq.segments import Vector
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.jobs import Jobs
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.reports import Subject
from mhfl_mq.train.steps import Job
from mhfl_mq.train.steps.masked import MaskedStepper
from mhfl_mq.train.task import Examples
from tests.train.steps.width_family import (
    TIERS,
    Federation,
    assert_order_does_not_matter,
    data,
    mlp,
    task_of,
    up,
)

LACKING = [(0, data(1, classes=(0, 1))), (1, data(2, classes=(1, 2))), (2, data(3, classes=(0,))), (2, data(4))]
NAMES = ("heterofl", "fedrolex", "slimmable")


def federation(name: str = "heterofl", masked: int = 1) -> Federation:
    return Federation(name, {"masked": masked}, devices=LACKING)


def sent(models: TaskModels, tier: int, update: Vector) -> dict[str, Vector]:
    """An update, array by array."""
    model = models.build(tier)
    model.put(update)
    own = {f"~{name}": array for name, array in model.own.items()}
    return {name: p.detach().numpy() for name, p in model.module.named_parameters()} | own


@pytest.mark.parametrize("name", NAMES)
def test_a_device_sends_the_rows_of_its_classes_and_a_one_for_each(name: str) -> None:
    """Each tier says so once for each segment of columns that it holds."""
    here = federation(name)
    head = here.first()
    for device, has in enumerate([(True, True, False), (False, True, True), (True, False, False), (True,) * 3]):
        tier = LACKING[device][0]
        arrays = sent(here.models, tier, here.update(head, device))
        for row, there in enumerate(has):
            assert arrays["4.weight"][row].any() == there
            assert bool(arrays["4.bias"][row]) == there
        rows = {key: array.tolist() for key, array in arrays.items() if key.startswith("~")}
        assert rows == {f"~rows{k}:4": [float(there) for there in has] for k in range(tier + 1)}


def test_scores_of_absent_classes_are_zero_in_the_loss_and_learn_nothing() -> None:
    here = federation()
    base = here.models.layout.take(here.first(), 1).copy()
    stepper = MaskedStepper(Job(here.models, 1, base, LACKING[1][1], here.training, {}, 1))
    batch = LACKING[1][1]
    scores = stepper.module(batch.inputs)
    others = torch.cat([torch.zeros(len(batch), 1), scores[:, 1:]], dim=1)
    expected = nn.functional.cross_entropy(others, batch.targets)
    torch.testing.assert_close(stepper.loss(batch), expected)
    (gradient,) = torch.autograd.grad(stepper.loss(batch), [stepper.module.get_parameter("4.weight")])
    assert not gradient[0].any()
    assert gradient[1:].any()


def test_a_device_of_one_class_still_learns() -> None:
    """With minus infinity in place of 0 its loss would be 0 from the start."""
    here = federation()
    head = here.first()
    base = here.models.layout.take(head, 2).copy()
    stepper = MaskedStepper(Job(here.models, 2, base, LACKING[2][1], here.training, {}, 1))
    losses = [stepper.step(LACKING[2][1]) for _ in range(10)]
    assert losses[0] > 0.5
    assert losses[-1] < losses[0] / 2


def test_rows_of_absent_classes_are_not_sent_though_a_loss_of_the_tasks_own_moves_them() -> None:
    here = federation()
    base = here.models.layout.take(here.first(), 0).copy()
    stepper = MaskedStepper(Job(here.models, 0, base, LACKING[0][1], here.training, {}, 1))
    with torch.no_grad():
        for parameter in stepper.module.parameters():
            parameter.add_(1.0)
    arrays = sent(here.models, 0, stepper.finish().update)
    assert not arrays["4.weight"][2].any()
    assert arrays["4.weight"][:2].all()


def test_without_the_option_nothing_is_masked_and_the_layout_is_as_it_was() -> None:
    plain, masked = federation(masked=0), federation()
    assert not any(p.name.startswith("~") for p in plain.models.layout.parameters)
    assert masked.models.layout.total == plain.models.layout.total + 3 * len(TIERS)
    everything = Federation("heterofl", {"masked": 1})
    head, same = everything.first(), Federation("heterofl").first()
    arrays = sent(everything.models, 2, everything.update(head, 2))
    expected = sent(plain.models, 2, Federation("heterofl").update(same, 2))
    for name, array in expected.items():  # a device that has all classes trains as without it
        np.testing.assert_array_equal(arrays[name], array)


def test_a_child_keeps_the_layouts_with_and_without_the_option_apart() -> None:
    jobs = Jobs(task_of(), None)
    subjects = [Subject.of(TIERS, "heterofl", {"masked": masked}).document() for masked in (0.0, 1.0, 0.0)]
    found = [jobs.run("count", {"subject": subject, "shard": ""})["layout"] for subject in subjects]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("name", NAMES)
def test_devices_that_lack_classes_learn_together_and_the_order_does_not_matter(name: str) -> None:
    here = federation(name)
    before, after = here.scores(here.first()), here.scores(here.run(12))
    assert after[2] > max(0.7, before[2] + 0.2)
    assert_order_does_not_matter(here)


def test_trap_t1_a_row_that_no_device_has_keeps_its_value_bit_for_bit() -> None:
    here = federation()
    head = here.first()
    new = here.merged(head, [(0, here.update(head, 0)), (2, here.update(head, 2))])  # classes 0 and 1
    was, now = sent(here.models, 2, head), sent(here.models, 2, new)
    assert was["4.weight"][2].tobytes() == now["4.weight"][2].tobytes()
    assert (was["4.weight"][:2, :4] != now["4.weight"][:2, :4]).any()
    assert was["4.weight"][1, 4:].tobytes() == now["4.weight"][1, 4:].tobytes()  # held by a device without class 1


# ---- what cannot be masked ---------------------------------------------------------------------------------------


def test_targets_that_are_no_classes_are_refused_with_what_to_do() -> None:
    here = federation()
    base = here.models.layout.take(here.first(), 0).copy()
    inputs = torch.zeros(2, 4)
    for targets, said in (
        (torch.zeros(2), "not numbers of classes .*leave out .*'masked'"),
        (torch.zeros(2, 1, dtype=torch.int64), "not numbers of classes"),
        (torch.tensor([0, 3]), "its targets are 0 to 3, and its head scores 3 classes"),
        (torch.tensor([-1, 0]), "its targets are -1 to 0"),
    ):
        with pytest.raises(TaskError, match=said):
            MaskedStepper(Job(here.models, 0, base, Examples(inputs, targets), here.training, {}, 1))


class Scaled(nn.Module):
    """Scores of a layer of its own, whose arrays are no rows."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.scale, self.table = nn.Parameter(torch.ones(1)), nn.Parameter(torch.randn(3, inputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x @ self.table.T)


def test_a_head_without_a_row_for_each_class_is_refused_with_what_to_do() -> None:
    def build(shape: TierShape) -> nn.Module:
        return nn.Sequential(nn.Linear(4, up(16, shape)), nn.ReLU(), nn.Linear(up(16, shape), 4), Scaled(4))

    with pytest.raises(
        LayoutError, match=r"^head '3': its arrays are not one row for each class.*leave out .*'masked'"
    ):
        Federation("heterofl", {"masked": 1}, task_of(build))


def test_only_the_option_asks_for_a_head_that_scores_each_example_once() -> None:
    task = task_of(mlp, torch.randn(3, 5, 4))  # scores of every step of a sequence
    TaskModels(task, TIERS)
    with pytest.raises(TaskError, match=r"its output is \(3, 5, 3\) .*not \(n, classes\)"):
        Federation("heterofl", {"masked": 1}, task)
