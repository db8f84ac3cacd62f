"""FedMD and DS-FL on the device: align, train, say; the model stays."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss, log_softmax, softmax

from mhfl_mq.errors import LayoutError, LocalMisuse, TaskError
from mhfl_mq.families import make_algorithm
from mhfl_mq.segments import Tier
from mhfl_mq.train.minibatches import batches
from mhfl_mq.train.model import TaskModels, arrays_of
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import method_of
from mhfl_mq.train.steps.public import public_of
from mhfl_mq.train.task import Task
from tests.train.steps.federation import blobs, federate

BOTH = pytest.mark.parametrize("name", ["fedmd", "dsfl"])
FOREIGN = (Tier("line", architecture="small"), Tier("deep", architecture="tall"))


@BOTH
def test_the_first_round_has_no_consensus_and_no_alignment(name: str) -> None:
    federation = federate(name)
    assert not federation.flat.any()
    metrics = federation.train("a").metrics
    assert (metrics["align_steps"], metrics["steps"]) == (0, 20)


@BOTH
def test_alignment_steps_are_counted_and_timed(name: str) -> None:
    federation = federate(name, {"align_steps": 7}, rounds=1)
    metrics = federation.train("a").metrics
    assert (metrics["align_steps"], metrics["steps"]) == (7, 27)
    assert metrics["seconds"] > 0


@BOTH
def test_the_rounds_of_the_warm_up_are_private_training_alone(name: str) -> None:
    federation = federate(name, {"align_steps": 7, "warmup_rounds": 2}, rounds=1)
    assert federation.flat.any()
    steps = []
    for _ in range(2):
        federation.round()
        steps.append([result.metrics["align_steps"] for result in federation.trained.values()])
    assert steps == [[0, 0, 0], [7, 7, 7]]


@BOTH
def test_a_round_is_the_written_out_one(name: str) -> None:
    """Against plain torch: the kept model, steps to the consensus, steps on private data, then a word on all."""
    training = TrainOptions(steps=4, batch=16, rate=0.1)
    federation = federate(name, {"align_steps": 3}, rounds=1, training=training)
    job = federation.job("b")
    result = federation.train("b")

    module = federation.models.build(1).module
    for key, array in arrays_of(module).items():
        array[...] = job.kept[key]
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    consensus = torch.from_numpy(job.base.reshape(80, 3))

    def descend(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    public = public_of(job.models).inputs
    chosen = batches(80, 16, job.chance())
    for _ in range(3):
        index = torch.from_numpy(next(chosen))
        scores, wanted = module(public[index]), consensus[index]
        if name == "fedmd":
            descend(l1_loss(scores, wanted))
        else:
            descend((wanted * (wanted.log() - log_softmax(scores, dim=1))).sum(dim=1).mean())
    chosen = batches(60, 16, np.random.default_rng(job.seeds))
    for _ in range(4):
        index = torch.from_numpy(next(chosen))
        descend(cross_entropy(module(job.examples.inputs[index]), job.examples.targets[index]))
    with torch.no_grad():
        said = module(public) if name == "fedmd" else softmax(module(public), dim=1)
    np.testing.assert_allclose(result.update.reshape(80, 3), said.numpy(), atol=1e-5)
    for key, array in arrays_of(module).items():
        np.testing.assert_allclose(result.kept[key].astype(np.float32), array, atol=1e-5)


@BOTH
def test_a_round_that_is_trained_again_is_the_same_bit_for_bit(name: str) -> None:
    federation = federate(name, rounds=2)
    first, again = federation.train("a"), federation.train("a")
    assert first.update.tobytes() == again.update.tobytes()
    assert all(first.kept[key].tobytes() == again.kept[key].tobytes() for key in first.kept)


@BOTH
def test_a_device_goes_on_with_the_model_that_it_kept_and_one_of_another_kind_is_begun_anew(name: str) -> None:
    federation = federate(name, rounds=1)
    kept = federation.kept["a"]
    assert federation.train("a").update.tobytes() != federate(name).train("a").update.tobytes()
    federation.kept["a"] = {}
    anew = federation.train("a").update
    federation.kept["a"] = federation.kept["b"]  # of the other tier: other shapes
    assert federation.train("a").update.tobytes() == anew.tobytes()
    federation.kept["a"] = {key: array for key, array in kept.items() if "bias" not in key}
    assert federation.train("a").update.tobytes() == anew.tobytes()


@BOTH
def test_nothing_of_a_model_travels(name: str) -> None:
    federation = federate(name, tiers=FOREIGN)
    assert [parameter.name for parameter in federation.models.layout.parameters] == ["~logits"]
    assert set(federation.models.layout.lengths) == {80 * 3}


@BOTH
def test_the_consensus_does_not_depend_on_the_order_of_the_devices(name: str) -> None:
    one, other = federate(name), federate(name)
    one.round("abc")
    other.round("cab")
    assert one.flat.tobytes() == other.flat.tobytes()


@BOTH
def test_devices_learn_classes_that_they_never_saw_from_each_other(name: str) -> None:
    """No device has all classes; unrelated architectures."""
    together = federate(name, tiers=FOREIGN, rounds=6).scores()
    alone = federate(name, {"align_steps": 0}, tiers=FOREIGN, rounds=6).scores()
    assert max(alone.values()) < 0.68  # two classes of three
    assert min(together.values()) > 0.75


@BOTH
def test_the_aggregator_cannot_score_what_it_has_not(name: str) -> None:
    federation = federate(name)
    method = method_of(name)
    with pytest.raises(LocalMisuse, match="only the devices"):
        method.score(federation.models, 0, federation.flat, federation.job("a").examples)


@BOTH
def test_a_task_without_public_data_or_with_differing_classes_is_refused(name: str) -> None:
    task = federate(name).models.task
    plan = make_algorithm(name).plan
    for public in (None, blobs(0, 0)):
        with pytest.raises(TaskError, match="no public data"):
            TaskModels(task, FOREIGN, plan, public)
    odd = Task(
        "odd",
        task.model,
        task.device_data,
        sample=task.sample,
        architectures={"small": lambda: nn.Linear(4, 3), "tall": lambda: nn.Linear(4, 4)},
    )
    with pytest.raises((TaskError, LayoutError), match=r"classes.*line 3, deep 4"):
        TaskModels(odd, FOREIGN, plan, blobs(8, 0))
