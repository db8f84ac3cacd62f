"""FedProto on the device: what a step lowers, what is sent, what stays, and that unlike models learn of each other."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mhfl_mq.errors import LayoutError, LocalMisuse, TaskError, TrainingFailed
from mhfl_mq.segments import Tier
from mhfl_mq.train.loop import train_round
from mhfl_mq.train.model import arrays_of
from mhfl_mq.train.steps import method_of
from mhfl_mq.train.steps.fedproto import PrototypeStepper, nearness
from mhfl_mq.train.task import Examples
from tests.train.steps.native_family import CLASSES, FEATURES, TASK, TIERS, Federation, blobs, deep

DEVICES = ((0, blobs(60, 10, (0, 1))), (1, blobs(45, 11, (1, 2))), (1, blobs(30, 12, (0, 2))))
NAME = "fedproto"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begin(federation: Federation, device: int) -> PrototypeStepper:
    torch.manual_seed(5)
    stepper = method_of(NAME).begin(federation.job(device))
    assert isinstance(stepper, PrototypeStepper)
    return stepper


def features_of(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the last layer gets, written out."""
    assert isinstance(module, nn.Sequential)
    found: torch.Tensor = module[:-1](inputs)
    return found


def test_nothing_of_a_model_travels_whatever_its_architecture() -> None:
    models = Federation(NAME, devices=DEVICES).models
    assert models.layout.lengths == ((CLASSES * (FEATURES + 1)),) * 2
    assert set(models.layout.shapes(0)) == {"~prototypes", "~shares"}


def test_the_loss_is_cross_entropy_and_lambda_times_the_square_to_the_class_prototype() -> None:
    federation = Federation(NAME, {"lambda": 3.0}, DEVICES).round([1])  # nobody has class 0
    stepper, batch = begin(federation, 0), blobs(16, 20, (0, 1))
    loss = stepper.loss(batch)
    features = features_of(stepper.module, batch.inputs)
    prototypes = torch.from_numpy(federation.own("prototypes"))
    squares = (features - prototypes[batch.targets]).square()
    squares[batch.targets == 0] = 0.0
    expected = cross_entropy(stepper.module(batch.inputs), batch.targets) + 3.0 * squares.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_any_prototype_the_loss_is_the_tasks_alone() -> None:
    stepper, batch = begin(Federation(NAME, {"lambda": 1e5}, DEVICES), 0), blobs(16, 20)
    assert stepper.loss(batch).item() == cross_entropy(stepper.module(batch.inputs), batch.targets).item()


def test_the_prototypes_are_those_of_the_trained_model_in_evaluation_mode() -> None:
    """Trap: the released code takes features in train mode, while the weights move, with their graphs."""
    federation = Federation(NAME, devices=DEVICES)
    stepper = begin(federation, 1)
    examples = DEVICES[1][1]
    for _ in range(3):
        stepper.step(examples)
    update = stepper.finish().update
    stepper.module.eval()
    with torch.no_grad():
        features = features_of(stepper.module, examples.inputs).numpy()
    targets = examples.targets.numpy()
    start, stop = federation.models.layout.place("~prototypes", 1)
    sent, shares = update[start:stop].reshape(CLASSES, FEATURES), update[stop:]
    for label in (1, 2):
        share = (targets == label).mean()
        np.testing.assert_allclose(shares[label], share, rtol=1e-6)
        np.testing.assert_allclose(sent[label], share * features[targets == label].mean(axis=0), rtol=1e-4, atol=1e-6)
    assert not sent[0].any()
    assert shares[0] == 0.0


def test_one_pass_over_the_examples_makes_them_and_no_graph_is_kept() -> None:
    """Trap: prototypes that keep autograd graphs hold the activations of all batches."""
    stepper, seen = begin(Federation(NAME, devices=DEVICES), 1), []

    def watch(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen.append((len(inputs[0]), module.training, output.requires_grad))

    stepper.module.register_forward_hook(watch)
    stepper.finish()
    assert seen == [(45, False, False)]


def test_the_statistics_of_a_norm_are_not_touched_by_the_pass() -> None:
    stepper = begin(Federation(NAME, devices=DEVICES), 1)
    stepper.step(blobs(16, 1))
    before = {name: buffer.clone() for name, buffer in stepper.module.named_buffers()}
    stepper.finish()
    assert all(torch.equal(buffer, before[name]) for name, buffer in stepper.module.named_buffers())


def test_the_whole_model_is_kept_and_goes_on_where_it_was_left() -> None:
    federation = Federation(NAME, devices=DEVICES).round()
    assert federation.kept[1].keys() == arrays_of(deep()).keys()
    stepper = begin(federation, 1)
    for name, array in arrays_of(stepper.module).items():
        np.testing.assert_array_equal(array, federation.kept[1][name])


def test_a_round_ends_the_same_when_it_is_trained_again() -> None:
    job = Federation(NAME, devices=DEVICES).round().job(1)
    updates = [train_round(method_of(NAME), job).update.tobytes() for _ in range(2)]
    assert updates[0] == updates[1]


def test_the_aggregator_has_no_model_to_score() -> None:
    federation = Federation(NAME, devices=DEVICES)
    with pytest.raises(LocalMisuse, match="only the devices"):
        method_of(NAME).score(federation.models, 0, federation.flat, blobs(3, 1))


def test_the_nearest_prototype_is_what_a_device_uses_where_the_option_says_so() -> None:
    federation = Federation(NAME, {"inference": 1}, DEVICES).round().round()
    stepper, test = begin(federation, 0), blobs(90, 30)
    score = stepper.score(test)
    assert stepper.module.training
    stepper.module.eval()
    with torch.no_grad():
        features = features_of(stepper.module, test.inputs)
    prototypes = torch.from_numpy(federation.own("prototypes"))
    away = torch.stack([(features - prototypes[label]).square().sum(dim=1) for label in range(CLASSES)], dim=1)
    assert score == float((away.argmin(dim=1) == test.targets).float().mean())


def test_a_class_without_a_prototype_is_never_the_nearest() -> None:
    scores = nearness(torch.zeros(2, 2), torch.zeros(3, 2), torch.tensor([False, True, False]))
    assert scores.argmax(dim=1).tolist() == [1, 1]
    assert torch.isfinite(scores).all()


def test_before_the_first_prototype_the_head_is_used() -> None:
    federation = Federation(NAME, {"inference": 1}, DEVICES)
    head = Federation(NAME, {"inference": 0}, DEVICES)
    assert begin(federation, 0).score(blobs(90, 30)) == begin(head, 0).score(blobs(90, 30))


def test_unlike_models_come_to_common_features() -> None:
    """After some rounds, what two architectures make of a class is nearer to each other than without the pull."""

    def apart(weight: float) -> float:
        federation = Federation(NAME, {"lambda": weight}, DEVICES)
        for _ in range(8):
            federation.round()
        plain, other = (
            t.update[: CLASSES * FEATURES].reshape(CLASSES, FEATURES)
            for t in (federation.trained[0], federation.trained[1])
        )
        return float(np.abs(2 * plain[1] - 2 * other[1]).mean())  # class 1 is half of the examples of both

    assert apart(10.0) < 0.5 * apart(0.0)


def test_a_federation_of_unlike_models_learns() -> None:
    federation = Federation(NAME, devices=[(tier, blobs(60, 10 + tier)) for tier in (0, 1)])
    first = float(np.mean(federation.round().scores()))
    for _ in range(7):
        federation.round()
    assert float(np.mean(federation.scores())) > max(0.85, first)


def test_models_of_different_feature_sizes_are_refused_with_a_remedy() -> None:
    odd = replace(
        TASK,
        architectures={
            "plain": TASK.architectures["plain"],
            "deep": lambda: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, CLASSES)),
        },
    )
    with pytest.raises(LayoutError, match=r"differ in features: plain 6, deep 9; let every model end in a layer"):
        Federation(NAME, task=odd, devices=DEVICES)


def test_an_architecture_that_the_task_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(TaskError, match=r"no architecture 'wide'; known are: deep, plain"):
        Federation(NAME, devices=DEVICES, tiers=(*TIERS, Tier("wide", architecture="wide")))


@pytest.mark.parametrize(
    "targets", [torch.zeros(4), torch.zeros(4, 1, dtype=torch.int64), torch.full((4,), 3), torch.full((4,), -1)]
)
def test_targets_that_are_no_class_numbers_are_refused(targets: torch.Tensor) -> None:
    federation = Federation(NAME, devices=[(0, Examples(torch.zeros(4, 4), targets))])
    with pytest.raises(TaskError, match=r"not class numbers from 0 to 2; prototypes are means per class"):
        begin(federation, 0)


def test_features_beyond_the_limit_are_refused_with_a_remedy() -> None:
    federation = Federation(NAME, {"largest_feature": 0.001}, DEVICES)
    with pytest.raises(TrainingFailed, match=r"mean feature of class \d reaches .*limits.largest_value"):
        begin(federation, 0).finish()


def test_tiers_of_widths_are_models_of_their_own_where_their_features_agree() -> None:
    federation = Federation(NAME, tiers=(Tier("one", 0.5), Tier("two", 1.0, architecture="deep")), devices=DEVICES)
    assert federation.round().own("shares").sum() == pytest.approx(1.0)
