"""A last tier that is the aggregator's own: no device measures it, gets it or holds any of it."""

from collections.abc import Mapping
from typing import Any

import pytest

from mhfl_mq.families import make_algorithm
from mhfl_mq.segments import Tier
from mhfl_mq.train.client import Worker
from mhfl_mq.train.reports import Subject
from tests.train.steps.federation import federate

SERVERS = ("feddf", "feddf-weights", "fedet")
TIERS = (Tier("line", architecture="small"), Tier("deep", architecture="tall"), Tier("server"))


@pytest.mark.parametrize(("algorithm", "measured"), [("fedet", [0, 1]), ("feddf", [0, 1]), ("heterofl", [0, 1, 2])])
async def test_the_aggregators_own_tier_is_not_measured(
    algorithm: str, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def answer(_: Worker, job: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if job == "probe":
            asked.append(arguments["tier"])
        return {"layout": "", "examples": 1, "step_s": 1.0, "peak_bytes": 1}

    monkeypatch.setattr(Worker, "_job", answer)
    report = await Worker("some:TASK").probe(Subject.of(TIERS, algorithm))
    assert asked == measured
    assert [probe.tier for probe in report.probes] == [TIERS[k].name for k in measured]
    assert not report.left_out


@pytest.mark.parametrize("name", SERVERS)
def test_devices_hold_nothing_of_the_aggregators_model(name: str) -> None:
    assert make_algorithm(name).plan.server
    layout = federate(name, tiers=TIERS).models.layout
    own = {p.name for p in layout.parameters if p.only == 2}
    assert own
    assert all(one.startswith("server:") for one in own)
    for tier in (0, 1):
        assert not own & layout.shapes(tier).keys()
    held = set(layout.holds[0]) | set(layout.holds[1])
    assert set(layout.holds[2]) - held  # a segment that no device subscribes to
