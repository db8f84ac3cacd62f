"""How good each tier of a version is on the task's test data."""

from mhfl_mq.errors import TaskError
from mhfl_mq.segments import Vector
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.steps.base import Method
from mhfl_mq.train.task import Examples

__all__ = ["evaluate_tiers"]


def evaluate_tiers(method: Method, models: TaskModels, flat: Vector, examples: Examples) -> dict[str, float]:
    """`<metric>/<tier>` for every tier of the version `flat` (float32, the layout's total)."""
    if not len(examples):
        raise TaskError("there is nothing to evaluate on", where=f"task {models.task.name!r}")
    return {
        f"{models.task.metric_name}/{tier.name}": method.score(models, k, models.layout.take(flat, k), examples)
        for k, tier in enumerate(models.tiers)
    }
