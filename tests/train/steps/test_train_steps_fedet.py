"""Fed-ET's torch half: votes of the devices, the large model's training, shared heads."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from mhfl_mq.segments import Tier, Vector
from mhfl_mq.train.minibatches import batches
from mhfl_mq.train.model import arrays_of
from mhfl_mq.train.steps import Conclusion, method_of
from mhfl_mq.train.steps.public import public_of
from tests.train.steps.federation import TASK, Federation, federate


def net(*hidden: int) -> nn.Module:
    """An MLP."""
    sizes = (4, *hidden)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 3))


NETS = replace(
    TASK,
    architectures={
        "thin": lambda: net(8),
        "odd": lambda: net(6),
        "tall": lambda: net(12, 8),
        "big": lambda: net(32, 8),
    },
)
TIERS = tuple(Tier(name, architecture=name) for name in ("thin", "odd", "tall", "big"))
DEVICES = {"a": 0, "b": 2, "c": 1}
OWN = 3


def begun(options: Mapping[str, float] | None = None, *, rounds: int = 0) -> Federation:
    return federate("fedet", options, tiers=TIERS, devices=DEVICES, task=NETS, rounds=rounds)


def filled(federation: Federation, flat: Vector, **tables: Vector) -> Vector:
    """A version with these own arrays."""
    flat = flat.copy()
    for name, table in tables.items():
        start, stop = federation.models.layout.where(f"~{name}")
        flat[start:stop] = table.reshape(-1)
    return flat


def concluded(federation: Federation, head: Vector, merged: Vector) -> Vector:
    """What the aggregator's own step makes of them."""
    numbers = federation.algorithm.numbers
    told = Conclusion(federation.models, head, merged, (), federation.options, numbers, 1)
    return method_of("fedet").conclude(told)


def arrays(federation: Federation, flat: Vector, tier: int) -> dict[str, Vector]:
    model = federation.models.build(tier)
    model.put(federation.models.layout.take(flat, tier).copy())
    return {name: array.copy() for name, array in arrays_of(model.module).items()}


def onehot(labels: Vector) -> Vector:
    return np.asarray(np.eye(3, dtype=np.float32)[labels.astype(int)])


LABELS = (np.arange(80) % 3).astype(np.float32)
NOTHING = np.zeros((80, 3), np.float32)


def test_a_device_sends_votes_and_trust_and_again_where_it_disagrees() -> None:
    federation = begun()
    federation.flat = filled(federation, federation.flat, votes=onehot(LABELS) * (np.arange(80) > 9)[:, None])
    job = federation.job("b")
    update = federation.train("b").update
    model = federation.models.build(2)
    model.put(job.base + update)
    with torch.no_grad():
        said = softmax(model.module.eval()(public_of(federation.models).inputs), dim=1).numpy()
    against = (np.arange(80) > 9) & (said.argmax(axis=1) != LABELS)  # of the first ten nothing is known
    assert 0 < against.sum() < 70

    def sent(name: str) -> Vector:
        return update[slice(*federation.models.layout.place(f"~{name}", 2))]

    sure = said.var(axis=1)
    np.testing.assert_allclose(sent("trust"), sure, atol=1e-5)
    np.testing.assert_allclose(sent("votes").reshape(80, 3), sure[:, None] * said, atol=1e-5)
    np.testing.assert_allclose(sent("doubt"), sure * against, atol=1e-5)
    np.testing.assert_allclose(sent("dissent").reshape(80, 3), (sure * against)[:, None] * said, atol=1e-5)


def test_in_the_first_round_nobody_disagrees() -> None:
    federation = begun(rounds=1)
    assert not federation.own("dissent").any()
    assert federation.own("votes").any()


def test_the_aggregators_step_is_the_written_out_one() -> None:
    """Against plain torch: CE with the label, plus diversity times KL to who disagrees, where the label is the same."""
    options = {"distill_steps": 4, "distill_batch": 80, "distill_rate": 0.01, "diversity": 0.3, "share_head": 0}
    federation = begun(options)
    rng = np.random.default_rng(0)
    consensus, dissent = (rng.dirichlet(np.ones(3), 80).astype(np.float32) for _ in range(2))
    dissent[::2] = 0.0  # nobody disagrees
    before = consensus.copy()
    before[20:40] = np.roll(before[20:40], 1, axis=1)  # another label in the last round
    consensus[:5] = 0.0  # nobody is sure of anything
    merged = filled(federation, federation.flat, votes=consensus, dissent=dissent)
    new = concluded(federation, filled(federation, federation.flat, votes=before), merged)

    model = federation.models.build(OWN)
    model.put(federation.models.layout.take(merged, OWN).copy())
    module, public = model.module.train(), public_of(federation.models).inputs
    optimizer = torch.optim.Adam(module.parameters())
    rows = np.arange(5, 80)
    chosen = batches(75, 80, np.random.default_rng(np.random.SeedSequence([0, 1, OWN])))
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + np.cos(np.pi * step / 4)) / 2
        loss = torch.zeros(())
        for x in rows[next(chosen)]:
            scores = module(public[x : x + 1])
            label = int(consensus[x].argmax())
            loss = loss + cross_entropy(scores, torch.tensor([label])) / 75
            if dissent[x].any() and int(before[x].argmax()) == label:
                wanted = torch.from_numpy(dissent[x : x + 1])
                loss = loss + 0.3 * kl_div(log_softmax(scores, dim=1), wanted, reduction="sum") / 75
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
    np.testing.assert_allclose(federation.models.layout.take(new, OWN), model.take(), atol=1e-4)
    for tier in range(OWN):
        same = federation.models.layout.take(new, tier) == federation.models.layout.take(merged, tier)
        assert same.all()


def test_t8_where_nobody_disagrees_the_diversity_term_is_left_out_and_nothing_is_nan() -> None:
    votes = onehot(LABELS)
    results = []
    for diversity in (0.0, 50.0):
        federation = begun({"diversity": diversity})
        head = filled(federation, federation.flat, votes=votes)
        results.append(concluded(federation, head, filled(federation, federation.flat, votes=votes, dissent=NOTHING)))
    assert np.isfinite(results[0]).all()
    assert results[0].tobytes() == results[1].tobytes()


def test_t8_where_nobody_is_sure_of_anything_the_large_model_is_left_alone() -> None:
    federation = begun({"share_head": 0})
    flat = filled(federation, federation.flat, votes=NOTHING)
    assert concluded(federation, flat, flat).tobytes() == flat.tobytes()


def test_the_head_begins_as_the_mean_of_those_of_its_shape_and_goes_back_to_them() -> None:
    federation = begun({"distill_steps": 0})
    flat = federation.flat
    new = concluded(federation, flat, flat)
    old = [arrays(federation, flat, tier) for tier in range(4)]
    now = [arrays(federation, new, tier) for tier in range(4)]
    mean = (old[0]["2.weight"] + old[2]["4.weight"]) / 2  # `thin` and `tall`: 8 features
    for tier, head in ((0, "2"), (2, "4"), (OWN, "4")):
        np.testing.assert_allclose(now[tier][f"{head}.weight"], mean, rtol=1e-6)
        assert now[tier]["0.weight"].tobytes() == old[tier]["0.weight"].tobytes()  # bodies stay
    assert all(now[1][name].tobytes() == old[1][name].tobytes() for name in old[1])  # `odd`: 6 features
    trained = concluded(begun({"distill_steps": 3}), flat, filled(federation, flat, votes=onehot(LABELS)))
    after = [arrays(federation, trained, tier) for tier in range(4)]
    assert after[0]["2.weight"].tobytes() == after[2]["4.weight"].tobytes() == after[OWN]["4.weight"].tobytes()
    assert after[0]["2.weight"].tobytes() != now[0]["2.weight"].tobytes()


def test_where_no_head_is_of_the_large_ones_shape_every_model_keeps_its_own() -> None:
    tiers = (Tier("odd", architecture="odd"), Tier("big", architecture="big"))
    federation = federate("fedet", {"distill_steps": 0}, tiers=tiers, devices={"a": 0}, task=NETS)
    assert concluded(federation, federation.flat, federation.flat).tobytes() == federation.flat.tobytes()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_large_model_learns_what_no_device_knows(share: float) -> None:
    """No device has all three classes."""
    federation = begun({"share_head": share})
    assert federation.scores()["big"] < 0.5
    for _ in range(5):
        federation.round()
    scores = federation.scores()
    assert scores["big"] > 0.75
    assert max(scores["tall"], scores["odd"]) < 0.7  # one device each, of two classes
    assert np.isfinite(federation.flat).all()


def test_the_order_of_the_devices_does_not_matter() -> None:
    one, other = begun(), begun()
    for order in ("abc", "cab"):
        one.round(order)
        other.round(order[::-1])
    assert one.flat.tobytes() == other.flat.tobytes()
