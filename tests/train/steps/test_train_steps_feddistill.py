"""FedDistill on the device: class means go up, and the model is held near those of all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from mhfl_mq.errors import TaskError
from mhfl_mq.segments import Tier, Vector
from mhfl_mq.train.model import arrays_of
from mhfl_mq.train.steps.feddistill import FedDistillStepper
from mhfl_mq.train.task import Examples
from tests.train.steps.federation import TASK, Federation, blobs, federate

FOREIGN = (Tier("line", architecture="small"), Tier("deep", architecture="tall"))


def told(flat: Vector) -> tuple[Vector, Vector]:
    """The table and the shares of a version or an update."""
    return flat[:9].reshape(3, 3), flat[9:]


def spread(federation: Federation) -> float:
    """How far the devices' mean logits of a class are from the mean of all, over those that have it."""
    table, _ = told(federation.flat)
    apart = []
    for result in federation.trained.values():
        sums, shares = told(result.update)
        apart += [np.square(sums[c] / shares[c] - table[c]).mean() for c in range(3) if shares[c]]
    return float(np.mean(apart))


def test_a_device_sends_the_sums_of_its_logits_and_the_shares_of_its_classes() -> None:
    federation = federate("feddistill")
    result = federation.train("b")
    module = federation.models.build(1).module.eval()
    for name, array in arrays_of(module).items():
        array[...] = result.kept[name]
    data = federation.job("b").examples
    with torch.no_grad():
        logits = module(data.inputs).double().numpy()
    sums, shares = told(result.update)
    for c in range(3):
        rows = logits[data.targets.numpy() == c]
        np.testing.assert_allclose(sums[c], rows.sum(axis=0) / 60, atol=1e-5)
        assert shares[c] == np.float32(len(rows) / 60)
    assert told(federation.flat)[1].tolist() == [0, 0, 0]


def test_the_loss_is_the_tasks_and_gamma_times_the_distance_to_the_row_of_the_class() -> None:
    federation = federate("feddistill", {"gamma": 0.7}, rounds=1)
    job = federation.job("a")
    stepper = FedDistillStepper(job)
    table = torch.from_numpy(told(federation.flat)[0])
    scores = stepper.module(job.examples.inputs)
    expected = cross_entropy(scores, job.examples.targets) + 0.7 * mse_loss(scores, table[job.examples.targets])
    assert float(stepper.loss(job.examples).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_in_a_rehearsal_the_distance_is_computed_before_anybody_told_anything() -> None:
    job = replace(federate("feddistill", {"gamma": 0.7}).job("a"), rehearsal=True)
    stepper = FedDistillStepper(job)
    scores = stepper.module(job.examples.inputs)
    expected = cross_entropy(scores, job.examples.targets) + 0.7 * scores.square().mean()
    assert float(stepper.loss(job.examples).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_t8_a_class_that_nobody_has_told_of_has_no_distance() -> None:
    federation = federate("feddistill")
    federation.round("a")  # has the classes 0 and 1
    job = federation.job("b")  # 1 and 2
    stepper = FedDistillStepper(job)
    only = job.examples.pick(np.flatnonzero(job.examples.targets.numpy() == 2))
    scores = stepper.module(only.inputs)
    assert stepper.loss(only).item() == pytest.approx(float(cross_entropy(scores, only.targets).detach()))
    assert np.isfinite(federation.train("b").update).all()


def test_the_first_round_has_no_distance_at_all() -> None:
    federation = federate("feddistill", {"gamma": 100.0})
    plain = federate("feddistill", {"gamma": 0.0})
    assert federation.train("a").update.tobytes() == plain.train("a").update.tobytes()


def test_rounds_learn_and_bring_what_devices_say_of_a_class_together() -> None:
    federation, free = federate("feddistill", tiers=FOREIGN), federate("feddistill", {"gamma": 0.0}, tiers=FOREIGN)
    federation.round()
    first = np.mean([result.metrics["loss_first"] for result in federation.trained.values()])
    for _ in range(5):
        federation.round()
    for _ in range(6):
        free.round()
    last = np.mean([result.metrics["own/accuracy"] for result in federation.trained.values()])
    assert first > 0.7
    assert last > 0.6  # every device has two classes of three
    assert spread(federation) < 0.5 * spread(free)


def test_the_order_of_the_devices_does_not_matter() -> None:
    one, other = federate("feddistill"), federate("feddistill")
    one.round("abc")
    other.round("bca")
    assert one.flat.tobytes() == other.flat.tobytes()


@pytest.mark.parametrize(
    ("targets", "said"),
    [(torch.zeros(6, 2), "float32 of .6, 2., not class numbers"), (torch.full((6,), 3), "3 to 3.*score 3 classes")],
)
def test_targets_that_are_no_class_numbers_are_refused(targets: torch.Tensor, said: str) -> None:
    data = Examples(blobs(6, 0).inputs, targets)
    with pytest.raises(TaskError, match=said):
        federate("feddistill", task=replace(TASK, device_data=lambda shard, folder: data)).train("a")
