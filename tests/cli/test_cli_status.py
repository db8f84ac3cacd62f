"""`mhfl status` over the state folder of an aggregator that runs, was stopped, or was killed."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mhfl_mq.protocol.records import DeviceSaved, Entry, RoundClosed, RoundOpened, UpdateCounted, VersionAdded
from mhfl_mq.run.clock import SystemClock
from mhfl_mq.run.status import StatusBoard
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.segments import Axis, Layout, Parameter, Tier
from mhfl_mq.store.models import Models
from mhfl_mq.store.state import Store
from mhfl_mq.wire.messages import ProbeResult

LAYOUT = Layout((Tier("small", 0.5), Tier("large", 1.0)), {"h": (2, 4)}, (Parameter("w", (Axis(4, group="h"),)),))
WHY_SMALL = "large.step: 3 s is over 2 s; large.memory: 2 GB is over 1 GB"
WHY_LARGE = (
    "small.step: 1 ms is within 2 s; small.memory: 10 MB is within 1 GB; small.transfer: link not measured yet; "
    "large.step: 2 ms is within 2 s; large.memory: 20 MB is within 1 GB; large.transfer: link not measured yet"
)


class Frozen(SystemClock):
    """A clock that stands where it was set."""

    def __init__(self, at: datetime.datetime) -> None:
        self._at = at

    def now(self) -> datetime.datetime:
        return self._at


def board(folder: Path, at: datetime.datetime, *, connected: bool = True) -> StatusBoard:
    """An aggregator's board in the middle of a round, with one of its two devices here."""
    facts = {
        "state": "in round",
        "round": {"number": 2},
        "present": ["ada"],
        "algorithm": {"name": "fjord", "why": "auto: memory binds"},
    }
    made = StatusBoard(folder, Frozen(at), LAYOUT.lengths, lambda: facts)
    made.watch(Traffic(), lambda: connected)
    made.write()
    return made


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder with two devices, one committed round and an open one."""
    folder = tmp_path / "state"
    with Store(folder, now) as store:
        model = Models(store.models).put(np.zeros(LAYOUT.lengths[-1], np.float32), LAYOUT.document())
        metrics = {"accuracy/small": 0.5, "accuracy/large": 0.75}
        first = VersionAdded(0, None, model, LAYOUT.digest, "initial", None, metrics, "")
        store.apply([first], [Entry("model.initial", {})])
        probe = (ProbeResult("small", 0.1, 1),)
        for name, tier, why in (("ada", 0, WHY_SMALL), ("bob", 1, WHY_LARGE)):
            store.apply([DeviceSaved(name, 1, tier, why, LAYOUT.digest, 100, 0.0, probe)])
        store.apply([RoundOpened(1, 0, "p", 1, (("ada", 0), ("bob", 1)))])
        store.apply([UpdateCounted(1, "ada", 0, "b", 160, 1.0, {"seconds": 4.0})])
        second = VersionAdded(1, 0, model, LAYOUT.digest, "round", 1, metrics, "")
        store.apply([second, RoundClosed(1, "committed", "", 1)])
    return folder


@pytest.mark.parametrize("connected", [True, False])
def test_the_status_says_whether_the_aggregator_has_its_broker(mhfl: Any, state: Path, connected: bool) -> None:
    board(state, now(), connected=connected)
    assert json.loads(mhfl("status", "--state", state, "--json").out)["connected"] is connected
    shown = mhfl("status", "--state", state).out
    assert ("NO CONNECTION TO THE BROKER" in shown) is not connected


def test_an_aggregator_that_does_not_run_has_no_broker(mhfl: Any, state: Path) -> None:
    board(state, now() - datetime.timedelta(hours=1))
    assert json.loads(mhfl("status", "--state", state, "--json").out)["connected"] is False
    assert "BROKER" not in mhfl("status", "--state", state).out


def test_a_running_aggregator_shows_its_round_and_who_is_here(mhfl: Any, state: Path) -> None:
    board(state, now())
    facts = json.loads(mhfl("status", "--state", state, "--json").out)
    assert (facts["running"], facts["state"], facts["round"]) == (True, "in round", {"number": 2})
    assert {one["device"]: one["present"] for one in facts["devices"]} == {"ada": True, "bob": False}
    assert facts["tiers"]["large"]["accuracy"] == 0.75
    text = mhfl("status", "--state", state).out
    assert "aggregator: running, in round; head: version 1" in text
    assert facts["algorithm"] == {"name": "fjord", "why": "auto: memory binds"}
    assert "algorithm: fjord (auto: memory binds)" in text
    assert "devices: 1 of 2 here; participation 50.0%" in text


def test_a_stopped_aggregator_is_not_in_a_round_and_nobody_is_said_to_be_here(mhfl: Any, state: Path) -> None:
    board(state, now()).end()
    facts = json.loads(mhfl("status", "--state", state, "--json").out)
    assert (facts["running"], facts["state"], facts["round"]) == (False, "stopped", None)
    assert [one["present"] for one in facts["devices"]] == [None, None]
    text = mhfl("status", "--state", state).out
    assert "aggregator: stopped; head" in text
    assert "devices: 2 known; " in text
    assert " yes " not in text


def test_a_killed_aggregator_leaves_its_state_unknown(mhfl: Any, state: Path) -> None:
    board(state, now() - datetime.timedelta(minutes=1))
    facts = json.loads(mhfl("status", "--state", state, "--json").out)
    assert (facts["running"], facts["state"], facts["round"]) == (False, "unknown", None)
    assert [one["present"] for one in facts["devices"]] == [None, None]
    text = mhfl("status", "--state", state).out
    assert "not running, and it was not stopped in good order" in text
    assert text.endswith(" (without the last second before a kill)\n")


def test_the_rule_that_decided_a_tier_is_the_one_that_is_shown(mhfl: Any, state: Path) -> None:
    lines = mhfl("status", "--state", state).out.splitlines()
    (ada,) = (line for line in lines if line.startswith("ada "))
    (bob,) = (line for line in lines if line.startswith("bob "))
    assert ada.endswith("large.step: 3 s is over 2 s")
    assert bob.endswith("large.step: 2 ms is within 2 s")


def test_what_compacting_saved_and_lost_is_shown(mhfl: Any, state: Path) -> None:
    assert "last updates" not in mhfl("status", "--state", state).out
    with Store(state, now) as store:
        store.apply([RoundOpened(2, 1, "p", 1, (("ada", 0), ("bob", 1)))])
        said = {"change": 0.0123, "error": 0.00789, "saved_bytes": 120_000.0}
        store.apply([UpdateCounted(2, "bob", 1, "c", 160, 1.0, {**said, "loss": 1.0})])
    made = board(state, now())
    made._saved = 120_000.0
    made.write()
    facts = json.loads(mhfl("status", "--state", state, "--json").out)
    assert {one["device"]: one["compacting"] for one in facts["devices"]} == {"ada": {}, "bob": said}
    text = mhfl("status", "--state", state).out
    lines = text.splitlines()
    assert lines[lines.index("last updates") + 3].split() == ["bob", "1.230%", "0.789%", "120", "kB"]
    assert "bytes: up 0 B (120 kB saved by compacting), down 0 B" in text


def test_bytes_are_shown_in_units(mhfl: Any, state: Path) -> None:
    made = board(state, now())
    made._unicast = 962_624
    made.write()
    out = mhfl("status", "--state", state).out
    assert out.endswith("\nbytes: up 0 B, down 0 B; 963 kB down if sent to each device\n")
