"""InclusiveFL's layout of a task, and a small federation of depths with a last block of their own."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError, TaskError
from mhfl_mq.segments import Layout, Tier
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.model import TaskModels, arrays_of
from mhfl_mq.train.steps import method_of
from mhfl_mq.train.steps.plain import Plain
from tests.train.steps.block_federation import Federation
from tests.train.steps.block_nets import CHANNELS, DEPTHS, conv, data, head, plan_of, steady, task_of

PLAN = plan_of("inclusivefl")
DEVICES = {"a": 0, "b": 1, "c": 1, "d": 2, "e": 0}


@pytest.fixture(scope="module")
def models() -> TaskModels:
    return TaskModels(task_of(), DEPTHS, PLAN)


# ---- the layout -----------------------------------------------------------------------------------------------


def test_a_tiers_last_block_and_head_are_its_own_and_what_lies_below_is_shared(models: TaskModels) -> None:
    held = [{".".join(name.split(".")[:2]) for name in models.layout.shapes(k)} for k in range(3)]
    assert held == [
        {"stem.0", "stem.1", "one:blocks.0", "one:heads.0"},
        {"stem.0", "stem.1", "blocks.0", "two:blocks.1", "two:heads.0"},
        {"stem.0", "stem.1", "blocks.0", "blocks.1", "three:blocks.2", "three:heads.0"},
    ]
    assert {p.name: p.since for p in models.layout.parameters if p.name.endswith("0.weight") and not p.private} == {
        "stem.0.weight": 0,
        "blocks.0.0.weight": 1,
        "blocks.1.0.weight": 2,
    }


def test_every_tier_holds_its_whole_model_and_the_vector_goes_there_and_back(models: TaskModels) -> None:
    flat = np.random.default_rng(0).normal(size=models.layout.total).astype(np.float32)
    for k in range(3):
        model = models.build(k)
        assert models.layout.lengths[k] == sum(array.size for array in arrays_of(model.module).values())
        vector = models.layout.take(flat, k).copy()
        model.put(vector)
        assert model.take().tobytes() == vector.tobytes()
        again = Layout.from_document(models.layout.document())
        assert again.digest == models.layout.digest


def test_shared_arrays_begin_as_the_deepest_tiers_and_private_ones_as_the_tiers_own(models: TaskModels) -> None:
    flat = models.initial(3)
    built = []
    for k in range(3):
        torch.manual_seed(3)
        built.append(arrays_of(models.build(k).module))
    model = models.build(1)
    model.put(models.layout.take(flat, 1).copy())
    for name, array in arrays_of(model.module).items():
        private = name.startswith(("blocks.1.", "heads."))
        np.testing.assert_array_equal(array, built[1 if private else 2][name], err_msg=name)


def test_a_tiers_answer_is_the_deepest_networks_below_and_its_own_block_and_head_above(models: TaskModels) -> None:
    """In place of the masked full model: depths with a last block of their own are no part of each other."""
    flat = np.random.default_rng(1).normal(size=models.layout.total).astype(np.float32)
    nets = []
    for k in range(3):
        model = models.build(k)
        model.put(models.layout.take(flat, k).copy())
        assert isinstance(model.module, ExitNet)
        nets.append(model.module)
    inputs = data("a").inputs
    with torch.no_grad():
        x: Tensor = nets[2].stem(inputs)
        for k, net in enumerate(nets):
            torch.testing.assert_close(net(inputs), net.heads[0](net.blocks[-1](x)))
            x = nets[2].blocks[k](x)


# ---- refused --------------------------------------------------------------------------------------------------


def test_blocks_of_several_shapes_are_refused_since_their_steps_are_mixed() -> None:
    def build(shape: TierShape) -> ExitNet:
        sizes = (CHANNELS, 2 * CHANNELS, 2 * CHANNELS, 2 * CHANNELS)[: shape.depth + 1]
        blocks = [conv(a, b) for a, b in pairwise(sizes)]
        return ExitNet(conv(2, CHANNELS), blocks, [head(sizes[-1])])

    said = r"^blocks\.1\.0\.weight: it is \(16, 16, 3\), and \(16, 8, 3\) in blocks\.0; build all blocks from the"
    with pytest.raises(LayoutError, match=said):
        TaskModels(task_of(build), DEPTHS, PLAN)
    TaskModels(task_of(build), DEPTHS[1:], PLAN)  # nobody's last block is the one that differs


def test_a_block_with_another_kind_of_array_is_refused() -> None:
    def build(shape: TierShape) -> ExitNet:
        blocks = [conv(CHANNELS, CHANNELS), nn.Sequential(nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)), nn.Identity()]
        return ExitNet(conv(2, CHANNELS), blocks[: shape.depth], [head(CHANNELS)])

    with pytest.raises(LayoutError, match=r"^blocks\.1\.1\.bias: it is not there, and \(8,\) in blocks\.0"):
        TaskModels(task_of(build), DEPTHS[:2], PLAN)
    with pytest.raises(LayoutError, match=r"^blocks\.(1\.1\.bias|2): it "):
        TaskModels(task_of(build), DEPTHS, PLAN)


def test_tiers_of_several_widths_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"in tier 'small' it is \(4, 2, 3\), in tier 'all' \(8, 2, 3\).*one width"):
        TaskModels(task_of(), (Tier("small", 0.5, 1), Tier("all")), PLAN)


def test_tiers_that_do_not_grow_in_depth_are_refused() -> None:
    for tiers in ((Tier("one", 1.0, 2), Tier("other", 1.0, 2)), (Tier("all"), Tier("one", 1.0, 1))):
        with pytest.raises(LayoutError, match=r"^tiers: the tiers' models have these numbers of blocks: .*more than"):
            TaskModels(task_of(), tiers, PLAN)


def test_a_model_that_is_not_made_of_blocks_with_one_head_is_refused() -> None:
    exits = task_of(lambda shape: steady(replace(shape, exits=True)))
    with pytest.raises(TaskError, match="not made of blocks with one head after the last"):
        TaskModels(exits, DEPTHS, PLAN)


# ---- together -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_a_federation_learns_in_every_tier(beta: float) -> None:
    federation = Federation(task_of(), DEPTHS, "inclusivefl", DEVICES, {"beta": beta})
    before = federation.scores()
    for _ in range(8):
        federation.round()
    after = federation.scores()
    assert all(late > max(0.8, early + 0.2) for early, late in zip(before, after, strict=True)), (before, after)


def test_the_order_in_which_updates_come_changes_nothing() -> None:
    federation = Federation(task_of(), DEPTHS, "inclusivefl", DEVICES)
    updates = {shard: federation.update(shard, 1) for shard in DEVICES}
    assert federation.merged(updates).tobytes() == federation.merged(dict(reversed(updates.items()))).tobytes()


def test_a_round_of_the_smallest_tier_alone_leaves_all_blocks_and_the_others_last_ones_as_they_are() -> None:
    federation = Federation(task_of(), DEPTHS, "inclusivefl", DEVICES)
    before = federation.flat.copy()
    federation.round(["a", "e"])
    changed = {name for name in federation.models.layout.shapes(2) if _differ(federation, before, name)}
    assert {name.split(".")[0] for name in changed} == {"stem"}
    assert _differ(federation, before, "one:blocks.0.0.weight")
    assert not _differ(federation, before, "two:blocks.1.0.weight")


def _differ(federation: Federation, before: np.ndarray, name: str) -> bool:
    start, stop = federation.models.layout.where(name)
    return not np.array_equal(before[start:stop], federation.flat[start:stop])


def test_a_device_trains_its_model_plainly() -> None:
    assert isinstance(method_of("inclusivefl"), Plain)
