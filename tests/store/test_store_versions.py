"""Rolling back is a new version with old weights; a version is written out tier by tier for other tools."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from mhfl_mq.errors import ConfigError, StoreError
from mhfl_mq.protocol.records import VersionAdded
from mhfl_mq.segments.axis import Axis
from mhfl_mq.segments.layout import Layout, Parameter, Tier
from mhfl_mq.segments.pack import Packer
from mhfl_mq.store.ledger import query
from mhfl_mq.store.models import ModelFile, Models
from mhfl_mq.store.state import Store
from mhfl_mq.store.versions import export, plan_rollback
from mhfl_mq.testing.files import FailingFiles, Failure
from mhfl_mq.testing.store_story import STEPS

LAY = Layout(
    (Tier("small", 0.5), Tier("large", 1.0)),
    {"hidden": (2, 4)},
    (
        Parameter("in.weight", (Axis(4, group="hidden"), Axis(3))),
        Parameter("out.bias", (Axis(2),)),
    ),
)


@pytest.fixture
def two(store: Store) -> Store:
    """A store with versions 1 and 2."""
    for step in STEPS[:10]:
        step(store, None)
    return store


def test_a_rollback_is_a_newer_version_with_the_old_weights_and_a_ledger_line(two: Store) -> None:
    added, entry = plan_rollback(two.view, 1, "scrap rate rose", "操作者")
    two.apply([added], [entry])
    first, second, third = [one.added for one in two.view.versions()]
    assert third == VersionAdded(3, 2, first.model, first.layout, "rollback", None, first.metrics, "scrap rate rose")
    assert second.model != third.model
    assert two.restore().head == third
    (line,) = query(two.folder / "ledger.jsonl", kind="model.rollback")
    assert line.facts == {
        "version": 3,
        "to": 1,
        "from": 2,
        "model": first.model,
        "reason": "scrap rate rose",
        "who": "操作者",
    }


def test_a_rollback_can_be_rolled_back(two: Store) -> None:
    for target in (1, 2, 3):
        added, entry = plan_rollback(two.view, target, "drill", "op")
        two.apply([added], [entry])
    versions = {one.added.version: one.added for one in two.view.versions()}
    assert versions[4].model == versions[2].model
    assert versions[5].model == versions[1].model


@pytest.mark.parametrize(
    ("version", "reason", "verdict"),
    [
        (9, "why", r"no version 9; there are versions 1 to 2"),
        (2, "why", "has the weights of version 2 already"),
        (1, "  ", "needs a reason"),
    ],
)
def test_a_rollback_that_makes_no_sense_says_why(two: Store, version: int, reason: str, verdict: str) -> None:
    with pytest.raises(ConfigError, match=verdict):
        plan_rollback(two.view, version, reason, "op")


@pytest.fixture
def model(store: Store) -> ModelFile:
    models = Models(store.models)
    return models.open(models.put(np.arange(LAY.lengths[-1], dtype=np.float32), LAY.document()))


@pytest.mark.parametrize("tier", [0, 1])
def test_an_exported_tier_opens_elsewhere_and_packs_back_to_the_prefix(
    model: ModelFile, tmp_path: Path, tier: int
) -> None:
    path = tmp_path / "tier.safetensors"
    export(model, LAY.tiers[tier].name, path)
    arrays = safetensors.numpy.load_file(path)
    assert {name: array.shape for name, array in arrays.items()} == LAY.shapes(tier)
    assert np.array_equal(Packer(LAY, tier).gather(arrays), model.map(0, LAY.lengths[tier]))
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"layout": LAY.digest, "model": model.digest, "tier": LAY.tiers[tier].name}


def test_an_array_of_one_tier_is_exported_under_the_name_that_its_model_knows(store: Store, tmp_path: Path) -> None:
    own = tuple(Parameter(f"{tier}:head", (Axis(size),), only=k) for k, (tier, size) in enumerate((("a", 2), ("b", 3))))
    layout = Layout((Tier("a", 0.5), Tier("b")), {}, (*own, Parameter("body", (Axis(4),))))
    models = Models(store.models)
    model = models.open(models.put(np.arange(layout.total, dtype=np.float32), layout.document()))
    export(model, "b", tmp_path / "b.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "b.safetensors")
    assert {name: array.tolist() for name, array in arrays.items()} == {"head": [6, 7, 8], "body": [0, 1, 2, 3]}


def test_an_unknown_tier_names_those_that_there_are(model: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tier 'huge'; the tiers are small, large"):
        export(model, "huge", tmp_path / "x")


def test_an_export_that_fails_leaves_the_file_that_was_there(model: ModelFile, tmp_path: Path) -> None:
    path = tmp_path / "tier.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(StoreError, match="exporting"):
        export(model, "small", path, FailingFiles(3, Failure.TORN))
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["tier.safetensors"]


def test_a_plan_made_before_another_version_came_is_refused(two: Store) -> None:
    added, entry = plan_rollback(two.view, 1, "drill", "op")
    two.apply([added], [entry])
    other = replace(added, reason="another operator")
    with pytest.raises(Exception, match="version 3 does not follow version 3"):
        two.apply([other], [entry])
