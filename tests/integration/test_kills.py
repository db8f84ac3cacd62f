"""`kill -9` of each part at random instants, over a real broker: nothing accepted is lost or counted twice."""

import json
import random
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from mhfl_mq.store.models import Models
from mhfl_mq.store.view import open_view, verify_folder
from mhfl_mq.testing.light import light_layout, light_update

pytestmark = [pytest.mark.broker]

LENGTHS = (300, 20_000)
LONGEST_WAIT_S = 0.4  # of a random instant: a round takes about as long


class Federation(Protocol):
    """What these tests use of the fixture."""

    state: Path

    def start(self, name: str) -> None: ...
    def kill(self, name: str) -> None: ...
    def restart(self, name: str) -> None: ...
    def rounds(self) -> int: ...
    def await_rounds(self, count: int) -> None: ...
    def await_all_counted(self, after: int) -> None: ...
    def stop(self) -> None: ...


def kill_at_random(federation: Federation, victim: str, instants: int, seed: int) -> None:
    """Kill and restart a part at random instants; training must go on after each."""
    luck = random.Random(seed)
    federation.await_rounds(2)
    for _ in range(instants):
        time.sleep(luck.random() * LONGEST_WAIT_S)  # the instant is the test's input, not a wait for something
        federation.kill(victim)
        federation.restart(victim)
        before = federation.rounds()
        federation.await_rounds(before + 2)
        federation.await_all_counted(before)
    federation.stop()


def ledger_lines(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state / "ledger.jsonl").read_text().splitlines()]


def check(state: Path) -> None:
    """Everything that must hold after any kills."""
    verify_folder(state)
    lines = ledger_lines(state)
    opened = [line["facts"]["round"] for line in lines if line["kind"] == "round.open"]
    assert opened == sorted(set(opened)), "a round number was used twice"
    counted = [line["facts"] for line in lines if line["kind"] == "update.count"]
    pairs = [(facts["round"], facts["device"]) for facts in counted]
    assert len(pairs) == len(set(pairs)), "an update was counted twice"
    models = Models(state / "models")
    bounds = light_layout(LENGTHS).segment_bounds
    with open_view(state) as view:
        versions = [one.added for one in view.versions()]
    flat = models.open(versions[0].model).read(0, LENGTHS[-1]).astype(np.float64)
    for version in versions[1:]:
        mine = [facts for facts in counted if facts["round"] == version.round]
        assert mine
        for segment, (start, stop) in enumerate(bounds):
            holders = [facts["device"] for facts in mine if facts["tier"] >= segment]
            if holders:
                updates = [float(light_update(name, version.round or 0, 1)[0]) for name in holders]
                flat[start:stop] += sum(updates) / len(updates)
        flat = flat.astype(np.float32).astype(np.float64)
        stored = models.open(version.model).read(0, LENGTHS[-1])
        np.testing.assert_array_equal(stored, flat.astype(np.float32), f"version {version.version}")


@pytest.mark.parametrize("victim", ["device-1", "aggregator", "broker"])
def test_two_kills_lose_nothing_and_training_goes_on(federation: Federation, victim: str) -> None:
    kill_at_random(federation, victim, 2, seed=1)
    check(federation.state)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["device-1", "aggregator", "broker"])
def test_twenty_kills_lose_nothing_and_training_goes_on(federation: Federation, victim: str) -> None:
    kill_at_random(federation, victim, 20, seed=2)
    check(federation.state)
