"""`kill -9` of each part at random instants, over a real broker: nothing accepted is lost or counted twice.

What was accepted is known from the devices, which write down each receipt: the aggregator is not its own witness.
"""

import json
import random
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from mhfl_mq.store.models import Models
from mhfl_mq.store.view import open_view, verify_folder
from mhfl_mq.testing.light import light_layout, light_update, receipted

pytestmark = [pytest.mark.broker]

LENGTHS = (300, 20_000)
DEVICES = 3
LONGEST_WAIT_S = 0.4  # of a random instant: a round takes about as long


class Federation(Protocol):
    """What these tests use of the fixture."""

    folder: Path
    state: Path

    def start(self, name: str) -> None: ...
    def kill(self, name: str) -> None: ...
    def restart(self, name: str) -> None: ...
    def rounds(self) -> int: ...
    def await_rounds(self, count: int) -> None: ...
    def await_all_counted(self, after: int) -> None: ...
    def stop(self) -> None: ...


def kill_at_random(federation: Federation, victim: str, instants: int, seed: int) -> None:
    """Kill and restart a part (a device: any of them) at random instants; training must go on after each."""
    luck = random.Random(seed)
    federation.await_rounds(2)
    for _ in range(instants):
        part = f"device-{luck.randrange(DEVICES)}" if victim == "device" else victim
        time.sleep(luck.random() * LONGEST_WAIT_S)  # the instant is the test's input, not a wait for something
        federation.kill(part)
        federation.restart(part)
        before = federation.rounds()
        federation.await_rounds(before + 2)
        federation.await_all_counted(before + 1)  # the round that was open may have counted what was killed then
    federation.stop()


def ledger_lines(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state / "ledger.jsonl").read_text().splitlines()]


Pairs = list[tuple[int, str]]
"""Rounds and devices."""


def promised(folder: Path) -> dict[str, list[int]]:
    """The rounds of which each device was told that its update is counted."""
    return {name: receipted(folder / name) for name in (f"light-{number:03}" for number in range(DEVICES))}


def check_promises(promises: dict[str, list[int]], counted: Pairs, committed: set[int]) -> None:
    """Every receipt is kept: the ledger has its update, once, and a version is made of it (no round aborts here)."""
    assert len(counted) == len(set(counted)), "an update was counted twice"
    for device, numbers in promises.items():
        assert numbers, f"{device} got no receipt at all"
        lost = [number for number in numbers if (number, device) not in counted]
        assert not lost, f"{device} has receipts for rounds {lost}, of which the ledger counts no update of it"
        unmade = [number for number in numbers if number not in committed]
        assert not unmade, f"{device} has receipts for rounds {unmade}, of which no version was made"


def check(folder: Path, state: Path) -> None:
    """Everything that must hold after any kills."""
    verify_folder(state)
    lines = ledger_lines(state)
    opened = [line["facts"]["round"] for line in lines if line["kind"] == "round.open"]
    assert opened == sorted(set(opened)), "a round number was used twice"
    counted = [line["facts"] for line in lines if line["kind"] == "update.count"]
    models = Models(state / "models")
    bounds = light_layout(LENGTHS).segment_bounds
    with open_view(state) as view:
        versions = [one.added for one in view.versions()]
        open_round = view.restore().open_round
    made = {one.round for one in versions if one.round} | (set() if open_round is None else {open_round.opened.round})
    check_promises(promised(folder), [(facts["round"], facts["device"]) for facts in counted], made)
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


@pytest.mark.parametrize("victim", ["device", "aggregator", "broker"])
def test_two_kills_lose_nothing_and_training_goes_on(federation: Federation, victim: str) -> None:
    kill_at_random(federation, victim, 2, seed=1)
    check(federation.folder, federation.state)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["device", "aggregator", "broker"])
def test_twenty_kills_lose_nothing_and_training_goes_on(federation: Federation, victim: str) -> None:
    kill_at_random(federation, victim, 20, seed=2)
    check(federation.folder, federation.state)


@pytest.mark.parametrize(
    ("promises", "counted", "committed", "says"),
    [
        ({"ada": [1, 2]}, [(1, "ada"), (2, "bob")], {1, 2}, "ada has receipts for rounds \\[2\\], of which the ledger"),
        ({"ada": [1, 2]}, [(1, "ada"), (2, "ada")], {1}, "ada has receipts for rounds \\[2\\], of which no version"),
        ({"ada": [1]}, [(1, "ada"), (1, "ada")], {1}, "an update was counted twice"),
        ({"ada": []}, [], set(), "ada got no receipt at all"),
    ],
)
def test_a_promise_that_is_not_kept_is_seen(
    promises: dict[str, list[int]], counted: Pairs, committed: set[int], says: str
) -> None:
    with pytest.raises(AssertionError, match=says):
        check_promises(promises, counted, committed)
