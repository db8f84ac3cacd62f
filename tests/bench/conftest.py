"""Made-up costs, and the document of a cell, for the tests of the benchmark."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from mhfl_mq.bench.fleet import Cost
from mhfl_mq.policy import Tier

MakeDocument = Callable[..., dict[str, Any]]


@pytest.fixture
def tiers() -> tuple[Tier, ...]:
    """Three tiers without budgets."""
    return (Tier("small", 0.0625), Tier("medium", 0.25), Tier("large", 1.0))


@pytest.fixture
def costs() -> list[Cost]:
    """What they cost, in whole numbers that are easy to think with."""
    return [Cost(0.001, 100_000, 1_000), Cost(0.004, 400_000, 10_000), Cost(0.016, 1_600_000, 100_000)]


@pytest.fixture
def document() -> MakeDocument:
    """Makes the document of a cell whose tiers have these accuracies in every round."""

    def make(method: str, seed: int, accuracy: Mapping[str, float], **changed: Any) -> dict[str, Any]:
        values = list(accuracy.values())
        return {
            "format": 1,
            "cell": {"data": "wind", "constraint": "memory", "method": method, "seed": seed},
            "fingerprint": "",
            "outcome": "done",
            "why": "",
            "tiers": [{"name": name, "devices": 2} for name in accuracy],
            "accuracy": dict(accuracy),
            "mean": sum(values) / len(values),
            "of_devices": values[0],
            "largest": accuracy.get("large"),
            "seconds_to_target_simulated": None,
            "stability": {"mean": 0.5, "variance": 0.01, "worst_tenth": 0.4},
            "participation": 1.0,
            "bytes_up": 4_000_000,
            "bytes_down": 8_000_000,
            "compute_s_simulated": 40.0,
            "compute_s_real": 4.0,
            "energy_j_estimate": 400.0,
            "aborted": [],
            "curve": [{"round": k, "seconds": 10.0 * k, "accuracy": dict(accuracy)} for k in (1, 2, 3)],
            "devices": [{}, {}, {}, {}],
            **changed,
        }

    return make
