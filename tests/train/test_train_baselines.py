"""The reference runs that a federation is compared with."""

from collections.abc import Sequence

import numpy as np
import pytest

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.families.registry import make_algorithm
from mhfl_mq.segments import Accumulator, Bounds, Tier
from mhfl_mq.train.baselines import LAST, Setting, run_baseline
from mhfl_mq.train.evaluate import evaluate_tiers
from mhfl_mq.train.loop import shard_luck, train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.reports import BASELINES, Participant
from mhfl_mq.train.steps import Job
from mhfl_mq.train.steps.plain import Plain
from mhfl_mq.train.task import load_task

DEVICES = (Participant("a", 0), Participant("bb", 1), Participant("ccc", 2))
OPTIONS = TrainOptions(steps=10, batch=16, rate=0.1, seed=4)


@pytest.fixture
def setting(toy: str, tiers: Sequence[Tier]) -> Setting:
    models = TaskModels(load_task(toy), tiers)
    devices = [(who, models.task.device_data(who.shard, None)) for who in DEVICES]
    assert models.task.test_data is not None
    return Setting(models, devices, models.task.test_data(None), 4, OPTIONS, 4, make_algorithm("heterofl"))


def by_hand(setting: Setting, tiers_of: Sequence[int | None]) -> list[dict[str, float]]:
    """Rounds written out: every device in its tier (None: stays away); each round's scores."""
    models = setting.models
    lengths = models.layout.lengths
    flat, found = models.initial(setting.initial_seed), []
    for number in range(1, setting.rounds + 1):
        total = Accumulator(lengths, Bounds(len(tiers_of), 1.0, 1e4))
        for (who, data), tier in zip(setting.participants, tiers_of, strict=True):
            if tier is not None:
                job = Job(models, tier, flat[: lengths[tier]].copy(), data, OPTIONS, {}, number, shard_luck(who.shard))
                total.fold(train_round(Plain(), job).update, tier, 1.0)
        new = np.empty_like(flat)
        total.finalize(flat, new)
        flat = new
        found.append(evaluate_tiers(Plain(), models, flat, setting.test))
    return found


@pytest.mark.parametrize(
    ("kind", "tiers_of", "shown"),
    [
        ("smallest-on-all", (0, 0, 0), ("small",)),
        ("exclusive-largest", (None, None, 2), ("large",)),
        ("same-tiers", (0, 1, 2), ("small", "middle", "large")),
    ],
)
def test_a_federated_baseline_is_its_rounds_by_hand_averaged_over_the_last(
    setting: Setting, kind: str, tiers_of: Sequence[int | None], shown: Sequence[str]
) -> None:
    last = by_hand(setting, tiers_of)[-LAST:]
    report = run_baseline(kind, setting)
    assert set(report.tiers) == set(shown)
    for name in shown:
        assert report.tiers[name] == pytest.approx(np.mean([one[f"accuracy/{name}"] for one in last]))
    assert report.score == report.tiers[shown[-1]]
    assert report.seconds > 0


def test_alone_each_device_trains_from_the_initial_model_and_the_score_is_the_mean(setting: Setting) -> None:
    models, scores = setting.models, []
    for who, data in setting.participants:
        length = models.layout.lengths[who.tier]
        prefix = models.initial(setting.initial_seed)[:length].copy()
        for number in range(1, setting.rounds + 1):
            job = Job(models, who.tier, prefix.copy(), data, OPTIONS, {}, number, shard_luck(who.shard))
            prefix += train_round(Plain(), job).update
        scores.append(Plain().score(models, who.tier, prefix, setting.test))
    report = run_baseline("local-only", setting)
    assert list(report.tiers.values()) == pytest.approx(scores)
    assert report.score == pytest.approx(np.mean(scores))


def test_baselines_are_repeatable(setting: Setting) -> None:
    assert run_baseline("same-tiers", setting).tiers == run_baseline("same-tiers", setting).tiers


def test_a_baseline_that_means_nothing_is_refused(setting: Setting) -> None:
    weak = Setting(setting.models, setting.participants[:2], setting.test, 2, OPTIONS, 4, make_algorithm("heterofl"))
    with pytest.raises(LocalMisuse, match="no device carries the largest tier"):
        run_baseline("exclusive-largest", weak)
    with pytest.raises(LocalMisuse, match=f"give one of {', '.join(BASELINES)}"):
        run_baseline("best-on-all", setting)
    empty = Setting(setting.models, [], setting.test, 2, OPTIONS, 4, make_algorithm("heterofl"))
    with pytest.raises(LocalMisuse, match="2 rounds and 0 devices"):
        run_baseline("same-tiers", empty)
