"""How good the models are that devices carry, each on its own data: what stability is about."""

from collections.abc import Sequence
from pathlib import Path

from mhfl_mq.bench.fleet import Device
from mhfl_mq.segments import Tier, Vector
from mhfl_mq.train.evaluate import score
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.task import Examples, Task

__all__ = ["has_local_test", "local_accuracies"]


def has_local_test(task: Task) -> bool:
    """Whether devices have test examples of their own; if not, each is measured on all test data."""
    return getattr(task, "local_test", None) is not None


def local_accuracies(
    task: Task, folder: Path | None, tiers: Sequence[Tier], flat: Vector, devices: Sequence[Device]
) -> dict[str, float]:
    """The metric of each device's tier, cut from the full model `flat`, on that device's test examples, by device.

    A device without a tier has no model and is left out.
    """
    models = TaskModels(task, tiers)
    common: Examples | None = None
    if not has_local_test(task) and task.test_data is not None:
        common = task.test_data(folder)
    built, on_common, found = {}, {}, {}
    for device in devices:
        if device.tier is None:
            continue
        if device.tier not in built:
            built[device.tier] = models.build(device.tier)
            built[device.tier].put(flat[: models.layout.lengths[device.tier]].copy())
        if common is None:
            examples: Examples = task.local_test(device.shard, folder)  # type: ignore[attr-defined]
            found[device.name] = score(task, built[device.tier], examples)
            continue
        if device.tier not in on_common:
            on_common[device.tier] = score(task, built[device.tier], common)
        found[device.name] = on_common[device.tier]
    return found
