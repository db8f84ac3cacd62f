"""FedGroups on the device: what a step lowers, what is said of public examples, and that knowledge crosses groups."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from mhfl_mq.errors import TaskError
from mhfl_mq.segments import Layout, Vector
from mhfl_mq.train.jobs import Jobs
from mhfl_mq.train.loop import train_round
from mhfl_mq.train.probe import probe_tier
from mhfl_mq.train.reports import Subject
from mhfl_mq.train.steps import method_of
from mhfl_mq.train.steps.fedgroups import GroupStepper, softened
from mhfl_mq.train.steps.plain import PlainStepper
from mhfl_mq.train.task import Examples
from tests.train.steps.native_family import CLASSES, TASK, TIERS, Federation, blobs

NAME = "fedgroups"
DEVICES = ((0, blobs(60, 10)), (1, blobs(45, 11)), (0, blobs(30, 12)))
LACKING = ((0, blobs(60, 20, (0, 1))), (0, blobs(60, 21, (0, 1))), (1, blobs(60, 22)), (1, blobs(60, 23)))
"""The first group's devices have never seen class 2."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begin(federation: Federation, device: int) -> GroupStepper:
    torch.manual_seed(5)
    stepper = method_of(NAME).begin(federation.job(device))
    assert isinstance(stepper, GroupStepper)
    return stepper


def model_of(federation: Federation, tier: int) -> Vector:
    """The coordinates of a tier's own model."""
    (low, high) = federation.models.layout.runs[tier][-1]
    start = max(low, federation.models.layout.where("~logits")[1]) if federation.algorithm.plan.own else low
    return federation.flat[start:high]


def test_the_loss_is_the_tasks_and_the_divergence_from_the_consensus_on_public_examples() -> None:
    federation = Federation(NAME, {"distil": 0.5, "temperature": 3.0}, DEVICES).round()
    stepper, batch = begin(federation, 0), blobs(16, 30)
    other = begin(federation, 0)
    loss = stepper.loss(batch)
    index = torch.from_numpy(next(other._chosen))
    said = torch.from_numpy(federation.own("logits")[index])
    wanted = said ** (1 / 3)
    wanted = wanted / wanted.sum(dim=1, keepdim=True)
    assert TASK.public_data is not None
    scores = stepper.module(TASK.public_data(None).inputs[index])
    own = torch.log_softmax(scores / 3, dim=1)
    divergence = 9 * (wanted * (wanted.log() - own)).sum(dim=1).mean()
    expected = cross_entropy(stepper.module(batch.inputs), batch.targets) + 0.5 * divergence
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_before_the_first_consensus_nothing_is_distilled_but_a_step_costs_what_it_will() -> None:
    """Trap: a probe that sees version 0 would measure half of a step."""
    stepper, batch, seen = begin(Federation(NAME, devices=DEVICES), 0), blobs(16, 30), []
    stepper.module.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    loss = stepper.loss(batch).item()
    assert seen == [16, 16]
    assert loss == cross_entropy(stepper.module(batch.inputs), batch.targets).item()


def test_a_device_says_the_trained_models_softmax_of_every_public_example() -> None:
    federation = Federation(NAME, devices=DEVICES)
    stepper = begin(federation, 1)
    for _ in range(3):
        stepper.step(blobs(16, 31))
    update = stepper.finish().update
    start, stop = federation.models.layout.place("~logits", 1)
    assert TASK.public_data is not None
    stepper.module.eval()
    with torch.no_grad():
        expected = torch.softmax(stepper.module(TASK.public_data(None).inputs), dim=1).numpy()
    np.testing.assert_array_equal(update[start:stop].reshape(expected.shape), expected)


def test_the_consensus_is_the_mean_of_all_groups_weighted_by_examples() -> None:
    federation = Federation(NAME, devices=DEVICES).round()
    stop = federation.own("logits").size
    said = sum(
        len(DEVICES[d][1]) * trained.update[:stop].astype(np.float64) for d, trained in federation.trained.items()
    )
    np.testing.assert_allclose(federation.own("logits").reshape(-1), said / 135, rtol=1e-5)
    np.testing.assert_allclose(federation.own("logits").sum(axis=1), 1.0, rtol=1e-5)


def test_parameters_of_groups_never_mix() -> None:
    """The small group's model is what FedAvg over its devices gives, whoever else was there."""
    both = Federation(NAME, devices=DEVICES).round()
    alone = Federation(NAME, devices=DEVICES).round([0, 2])
    assert model_of(both, 0).tobytes() == model_of(alone, 0).tobytes()
    deltas = [(len(DEVICES[d][1]), alone.trained[d].update[alone.own("logits").size :]) for d in (0, 2)]
    fresh = model_of(Federation(NAME, devices=DEVICES), 0)
    expected = fresh + sum(n * delta.astype(np.float64) for n, delta in deltas) / 90
    np.testing.assert_allclose(model_of(both, 0), expected, rtol=1e-5, atol=1e-7)


def test_a_group_without_a_device_in_the_round_keeps_its_model_bit_for_bit() -> None:
    federation = Federation(NAME, devices=DEVICES).round()
    before = [model_of(federation, tier).copy() for tier in (0, 1)]
    federation.round([0, 2])
    assert model_of(federation, 1).tobytes() == before[1].tobytes()
    assert model_of(federation, 0).tobytes() != before[0].tobytes()


def test_the_order_of_the_devices_does_not_matter() -> None:
    versions = [Federation(NAME, devices=DEVICES).round(order).round(order).flat for order in ([0, 1, 2], [2, 1, 0])]
    assert versions[0].tobytes() == versions[1].tobytes()


def recall_of(federation: Federation, tier: int, label: int) -> float:
    test = blobs(300, 40, (label,))
    vector = federation.models.layout.take(federation.flat, tier)
    return method_of(NAME).score(federation.models, tier, vector, test)


def test_knowledge_of_a_class_crosses_to_a_group_whose_devices_lack_it() -> None:
    found = {}
    for distil in (0.0, 2.0):
        federation = Federation(NAME, {"distil": distil}, LACKING)
        for _ in range(5):
            federation.round()
        found[distil] = recall_of(federation, 0, 2)
    assert found[0.0] < 0.1
    assert found[2.0] > 0.5


def test_both_groups_learn() -> None:
    federation = Federation(NAME, devices=DEVICES)
    first = federation.scores()
    for _ in range(4):
        federation.round()
    assert min(federation.scores()) > max(0.85, *first)


def test_without_distillation_it_is_fedavg_per_architecture_and_needs_no_public_data() -> None:
    federation = Federation(NAME, {"distil": 0}, DEVICES, task=replace(TASK, public_data=None))
    assert not any(name.startswith("~") for name in federation.models.layout.shapes(0))
    assert type(method_of(NAME).begin(federation.job(0))) is PlainStepper
    for _ in range(4):
        federation.round()
    assert min(federation.scores()) > 0.85


def test_one_child_can_be_asked_about_both_ways() -> None:
    jobs = Jobs(TASK, None)
    names = []
    for distil in (1.0, 0.0, 1.0):
        subject = Subject(TIERS, NAME, {"distil": distil}).document()
        answer = jobs.run("describe", {"subject": subject, "seed": 0, "out": ""})
        names.append((Layout.from_document(answer["layout"]).parameters[0].name, bool(answer["public"])))
    assert names == [("~logits", True), ("plain:0.weight", False), ("~logits", True)]


def test_a_task_without_public_data_is_refused_with_a_remedy() -> None:
    with pytest.raises(TaskError, match=r"no public data; give it public_data"):
        Federation(NAME, devices=DEVICES, task=replace(TASK, public_data=None))


def test_a_round_ends_the_same_when_it_is_trained_again() -> None:
    job = Federation(NAME, devices=DEVICES).round().job(1)
    updates = [train_round(method_of(NAME), job).update.tobytes() for _ in range(2)]
    assert updates[0] == updates[1]


def test_every_tier_can_be_probed() -> None:
    federation = Federation(NAME, devices=DEVICES)
    numbers = dict(federation.algorithm.numbers)
    for tier in (0, 1):
        cost = probe_tier(method_of(NAME), federation.models, tier, DEVICES[0][1], federation.training, numbers=numbers)
        assert cost.peak_bytes > 0


def test_a_table_that_somebody_spoiled_is_still_probabilities() -> None:
    rows = softened(torch.tensor([[-5.0, 0.2, 900.0], [0.0, 0.0, 0.0]]), 1.0)
    assert torch.allclose(rows.sum(dim=1), torch.ones(2))
    assert torch.isfinite(rows).all()
    assert (rows >= 0).all()
    assert rows.shape == (2, CLASSES)


def test_examples_without_labels_are_enough() -> None:
    assert TASK.public_data is not None
    public = TASK.public_data(None)
    changed = replace(TASK, public_data=lambda folder: Examples(public.inputs, public.targets + 7))
    versions = [Federation(NAME, devices=DEVICES, task=task).round().round().flat for task in (TASK, changed)]
    assert versions[0].tobytes() == versions[1].tobytes()
