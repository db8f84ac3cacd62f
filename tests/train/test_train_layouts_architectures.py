"""Tiers that name architectures: models apart under the algorithms for them, refused under all others."""

import pytest

from mhfl_mq.errors import LayoutError
from mhfl_mq.families import Cut, Plan, make_algorithm
from mhfl_mq.segments import Tier
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.wind import TASK

MIXED = (Tier("narrow", 0.25), Tier("other", architecture="mlp"), Tier("same", architecture="mlp"))


@pytest.mark.parametrize("cut", [Cut.NESTED, Cut.WHOLE, Cut.RANKED])
@pytest.mark.parametrize("tiers", [MIXED, MIXED[::-1]])
def test_where_all_tiers_are_made_of_one_model_an_architecture_is_refused_with_a_remedy(
    cut: Cut, tiers: tuple[Tier, ...]
) -> None:
    with pytest.raises(LayoutError, match=r"names an architecture.*; use an algorithm of the native or distillation"):
        TaskModels(TASK, tiers, Plan(cut=cut))


def test_models_apart_share_no_coordinate_also_when_they_are_of_one_architecture() -> None:
    models = TaskModels(TASK, MIXED, make_algorithm("fedgroups", {"distil": 0}).plan)
    assert models.layout.holds == ((0,), (1,), (2,))
    assert models.layout.lengths[1] == models.layout.lengths[2] == 8549 - 2400
    assert sum(models.layout.lengths) == models.layout.total
