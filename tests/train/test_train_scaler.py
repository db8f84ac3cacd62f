"""HeteroFL's scaler: none unless asked for, and then in evaluation as in training."""

import numpy as np
import pytest
import torch
from torch import nn

from mhfl_mq.families import make_algorithm
from mhfl_mq.segments import Tier
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.task import Task
from tests.train.steps.federation import CLASSES, TASK, federate

TIERS = (Tier("small", 0.25), Tier("large", 1.0))


def models_of(task: Task = TASK, **options: float) -> TaskModels:
    return TaskModels(task, TIERS, make_algorithm("heterofl", options).plan)


def sequence(models: TaskModels, tier: int) -> nn.Sequential:
    module = models.build(tier).module
    assert isinstance(module, nn.Sequential)
    return module


def test_no_model_has_a_scaler_that_nobody_asked_for() -> None:
    models = models_of()
    assert not any(layer._forward_hooks for tier in (0, 1) for layer in models.build(tier).module.modules())


@pytest.mark.parametrize("training", [True, False])
def test_a_hidden_layers_outputs_are_multiplied_and_the_heads_are_not_in_both_modes(training: bool) -> None:
    module = sequence(models_of(scaler=1.0), 0).train(training)
    first, head = module[0], module[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(head, nn.Linear)
    inputs = torch.randn(5, 4)
    hidden = (4.0 * (inputs @ first.weight.T + first.bias)).relu()  # 4 of 16 units
    torch.testing.assert_close(module(inputs), hidden @ head.weight.T + head.bias)


def test_the_largest_tier_is_as_it_was() -> None:
    inputs = torch.randn(5, 4)
    scaled, plain = models_of(scaler=1.0), models_of()
    head = plain.initial(0)
    outputs = []
    for models in (scaled, plain):
        model = models.build(1)
        model.put(head)
        outputs.append(model.module(inputs))
    assert torch.equal(*outputs)
    assert np.array_equal(scaled.initial(0), head)  # and comparing with it draws no luck


def test_convolutions_are_scaled_by_their_channels() -> None:
    def conv(width: float) -> nn.Module:
        channels = round(8 * width)
        return nn.Sequential(
            nn.Conv1d(1, channels, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, CLASSES)
        )

    task = Task(
        name="conv",
        model=lambda shape: conv(shape.width),
        device_data=TASK.device_data,
        test_data=TASK.test_data,
        sample=lambda: torch.randn(2, 1, 9),
    )
    module = sequence(models_of(task, scaler=1.0), 0)
    layer, inputs = module[0], torch.randn(2, 1, 9)
    assert isinstance(layer, nn.Conv1d)
    torch.testing.assert_close(layer(inputs), 4 * nn.functional.conv1d(inputs, layer.weight, layer.bias))


def test_the_federations_scores_are_those_of_the_scaled_models() -> None:
    federation = federate("heterofl", {"scaler": 1}, rounds=6)
    scaled = federation.scores()
    federation.models = TaskModels(TASK, TIERS)
    unscaled = federation.scores()
    assert scaled["large"] == unscaled["large"]
    assert scaled["small"] > unscaled["small"] + 0.05
