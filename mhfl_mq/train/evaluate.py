"""How good each tier of a full model is on the task's test data."""

from typing import Final

import torch

from mhfl_mq.errors import TaskError
from mhfl_mq.segments import Vector
from mhfl_mq.train.model import TaskModels, TierModel
from mhfl_mq.train.task import Examples, Task

__all__ = ["evaluate_tiers", "score"]

CHUNK: Final = 1024
"""Examples of one forward pass: bounds the memory of activations, and changes no result."""


def score(task: Task, model: TierModel, examples: Examples) -> float:
    """The task's metric of a model on examples, over all of them at once."""
    module = model.module.eval()
    with torch.no_grad():
        parts = [module(examples.inputs[at : at + CHUNK]) for at in range(0, len(examples), CHUNK)]
        return float(task.metric(torch.cat(parts), examples.targets))


def evaluate_tiers(models: TaskModels, flat: Vector, examples: Examples) -> dict[str, float]:
    """`<metric>/<tier>` for every tier of the full model `flat` (float32, the layout's total)."""
    if not len(examples):
        raise TaskError("there is nothing to evaluate on", where=f"task {models.task.name!r}")
    found = {}
    for k, tier in enumerate(models.tiers):
        model = models.build(k)
        model.put(models.layout.take(flat, k))
        found[f"{models.task.metric_name}/{tier.name}"] = score(models.task, model, examples)
    return found
