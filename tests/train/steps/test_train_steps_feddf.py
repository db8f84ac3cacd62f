"""FedDF's torch half: tables of the devices, and what the aggregator's models learn from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax, softmax

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.segments import Tier, Vector
from mhfl_mq.train.minibatches import batches
from mhfl_mq.train.model import TierModel
from mhfl_mq.train.steps import Conclusion, PastUpdate, method_of
from mhfl_mq.train.steps.public import public_of
from tests.train.steps.federation import Federation, federate

TIERS = (Tier("line", architecture="small"), Tier("deep", architecture="tall"), Tier("server"))
BOTH = pytest.mark.parametrize("name", ["feddf", "feddf-weights"])


def told(federation: Federation, flat: Vector, **differs: object) -> Conclusion:
    """What the aggregator's own step would start from at this version."""
    models, options, numbers = federation.models, federation.options, federation.algorithm.numbers
    usual = Conclusion(models, federation.flat, flat, (), options, numbers, 1)
    return replace(usual, **differs)  # type: ignore[arg-type]


def model_of(federation: Federation, flat: Vector, tier: int) -> TierModel:
    model = federation.models.build(tier)
    model.put(federation.models.layout.take(flat, tier).copy())
    return model


def table_in(federation: Federation, value: float) -> Vector:
    """The federation's version with this number everywhere in the table."""
    flat = federation.flat.copy()
    start, stop = federation.models.layout.where("~logits")
    flat[start:stop] = value
    return flat


def test_a_device_sends_its_delta_and_the_probabilities_of_its_trained_model() -> None:
    federation = federate("feddf", tiers=TIERS)
    job = federation.job("b")
    update = federation.train("b").update
    layout = federation.models.layout
    start, stop = layout.place("~logits", 1)
    vector = job.base + update
    model = federation.models.build(1)
    model.put(vector)
    with torch.no_grad():
        said = softmax(model.module.eval()(public_of(federation.models).inputs), dim=1).numpy()
    np.testing.assert_allclose(update[start:stop].reshape(80, 3), said, atol=1e-5)
    plain = federate("feddf-weights", tiers=TIERS).train("b").update
    np.testing.assert_array_equal(np.delete(update, range(start, stop)), plain)


def test_the_aggregators_step_is_the_written_out_one() -> None:
    """Against plain torch: Adam, a cosine, KL to the table's rows, for every tier's model."""
    federation = federate("feddf", {"distill_steps": 5, "distill_batch": 32, "distill_rate": 0.01}, tiers=TIERS)
    table = np.random.default_rng(0).dirichlet(np.ones(3), 80).astype(np.float32)
    flat = table_in(federation, 0.0)
    start, stop = federation.models.layout.where("~logits")
    flat[start:stop] = table.reshape(-1)
    new = method_of("feddf").conclude(told(federation, flat, round_number=4))
    assert new[start:stop].tobytes() == table.tobytes()
    for tier in range(3):
        model = model_of(federation, flat, tier)
        module = model.module.train()
        optimizer = torch.optim.Adam(module.parameters())
        chosen = batches(80, 32, np.random.default_rng(np.random.SeedSequence([0, 4, tier])))
        for step in range(5):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 + np.cos(np.pi * step / 5)) / 2
            index = torch.from_numpy(next(chosen))
            wanted = torch.from_numpy(table)[index]
            said = log_softmax(module(public_of(federation.models).inputs[index]), dim=1)
            optimizer.zero_grad()
            (wanted * (wanted.log() - said)).sum(dim=1).mean().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
        np.testing.assert_allclose(federation.models.layout.take(new, tier), model.take(), atol=1e-5)


def test_single_updates_and_tables_give_the_same_models() -> None:
    tables, weights = federate("feddf", tiers=TIERS, rounds=2), federate("feddf-weights", tiers=TIERS, rounds=2)
    for tier in range(3):
        one = model_of(tables, tables.flat, tier).module.state_dict()
        other = model_of(weights, weights.flat, tier).module.state_dict()
        for name, array in one.items():
            np.testing.assert_allclose(array.numpy(), other[name].numpy(), atol=1e-3)


@BOTH
def test_t8_without_a_teacher_nothing_is_learned_and_nothing_is_nan(name: str) -> None:
    federation = federate(name, tiers=TIERS)
    flat = federation.flat if name == "feddf-weights" else table_in(federation, 0.0)
    assert method_of(name).conclude(told(federation, flat)).tobytes() == flat.tobytes()


def test_t8_examples_of_which_nobody_said_anything_are_left_out() -> None:
    federation = federate("feddf", {"distill_steps": 5}, tiers=TIERS)
    flat = table_in(federation, 0.0)
    start, _ = federation.models.layout.where("~logits")
    flat[start : start + 6] = [0.5, 0.25, 0.25, 0.0, 0.0, 1.0]  # two examples of 80, one with probabilities of 0
    new = method_of("feddf").conclude(told(federation, flat))
    assert np.isfinite(new).all()
    assert new.tobytes() != flat.tobytes()


@BOTH
def test_a_conclusion_is_repeatable_and_leaves_the_merged_version_as_it_was(name: str) -> None:
    federation = federate(name, tiers=TIERS)
    past = [PastUpdate(federation.train("a").update, 0, 1.0)] if name == "feddf-weights" else []
    flat = federation.flat if past else table_in(federation, 1 / 3)
    before = flat.copy()
    first = method_of(name).conclude(told(federation, flat, updates=past))
    torch.manual_seed(1)
    again = method_of(name).conclude(told(federation, flat, updates=past))
    assert first.tobytes() == again.tobytes()
    assert flat.tobytes() == before.tobytes()


@BOTH
def test_the_aggregators_own_model_and_the_devices_learn_what_no_device_knows(name: str) -> None:
    """No device has all three classes, and nobody but the aggregator has its model."""
    federation = federate(name, {"distill_rate": 0.003}, tiers=TIERS)
    assert federation.scores()["server"] < 0.5
    for _ in range(4):
        federation.round()
    assert federation.scores()["server"] > 0.8
    assert federation.scores()["deep"] > 0.75  # its one device has two classes


def test_the_order_of_the_devices_does_not_matter() -> None:
    one, other = federate("feddf", tiers=TIERS), federate("feddf", tiers=TIERS)
    one.round("abc")
    other.round("cba")
    assert one.flat.tobytes() == other.flat.tobytes()


def test_a_loss_that_is_not_finite_fails_the_merge_and_names_the_option() -> None:
    federation = federate("feddf", tiers=TIERS)
    flat = table_in(federation, 1 / 3)
    start, _ = federation.models.layout.where("line:weight")
    flat[start] = np.inf
    with pytest.raises(TrainingFailed, match=r"nan at step 1 of 200.*lower distill_rate"):
        method_of("feddf").conclude(told(federation, flat))
