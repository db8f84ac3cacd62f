"""What an operator does to a running federation: go back to an old version, read the record, stop it at any moment."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mhfl_mq.store.device import DeviceStore
from mhfl_mq.testing.plant import Plant
from mhfl_mq.testing.processes import Processes

pytestmark = [pytest.mark.broker]

LIGHT = Path(__file__).with_name("light.yaml")


# ---- versions and the record ----------------------------------------------------------------------------------


def test_a_rollback_of_a_running_federation_is_a_new_version_that_devices_install(plant: Plant) -> None:
    plant.aggregator()
    plant.device("d1", 0, env={"MHFL_LIGHT_TRAIN_S": "0.3"})
    plant.await_counted("d1")
    plant.await_rounds(2)
    reason = "accuracy of the night shift fell"
    done = plant.mhfl("model", "rollback", 1, "--reason", reason, "--state", plant.state, "--json")
    assert done.code == 0, done
    rolled = json.loads(done.out)
    assert (rolled["to"], rolled["reason"]) == (1, reason)
    entry = plant.await_entry("model.rollback", version=rolled["version"])
    assert (entry["reason"], entry["to"], entry["model"]) == (reason, 1, rolled["model"])
    assert entry["who"]

    def parents() -> dict[int, int]:
        return {one["version"]: one["parent"] for one in plant.entries("model.add")}

    plant.processes.until(lambda: rolled["version"] in parents().values(), "training that goes on from it")
    listed = json.loads(plant.mhfl("model", "list", "--state", plant.state, "--json").out)
    by_number = {one["version"]: one for one in listed}
    assert [one["version"] for one in listed] == list(range(len(listed)))
    assert by_number[rolled["version"]]["model"] == by_number[1]["model"]
    assert by_number[rolled["version"]]["origin"] == "rollback"
    assert by_number[rolled["version"] + 1]["parent"] == rolled["version"]
    plant.await_counted("d1")
    plant.processes.stop()
    plant.verify()


def test_after_a_rollback_of_an_idle_federation_devices_hold_the_old_weights(plant: Plant) -> None:
    """Nothing is trained after it: what lies on the device's disk is what it installed."""
    plant.aggregator("--rounds", 3)
    plant.device("d1", 1)
    assert plant.processes.ended("aggregator") == 0
    done = plant.mhfl("model", "rollback", 1, "--reason", "as it was", "--state", plant.state, "--json")
    assert done.code == 0, done
    assert json.loads(done.out)["version"] == 4
    policy = plant.folder / "rests.yaml"
    policy.write_text(LIGHT.read_text().replace("quorum: {min: 1,", "quorum: {min: 2,"))
    plant.aggregator(policy=policy)
    store = plant.folder / "d1" / "blobs"
    values = light_values(plant, 1)

    def holds_it() -> bool:
        sizes = sorted(path.stat().st_size for path in store.glob("*.blob"))
        firsts = {path.read_bytes()[:4] for path in store.glob("*.blob")}
        return sizes == [1200, 78_800] and firsts == {values}

    plant.processes.until(holds_it, "weights of version 1 on the device")
    plant.processes.stop()
    plant.verify()


def light_values(plant: Plant, version: int) -> bytes:
    """The first coordinate of a version, as the device stores it: all coordinates are equal with one device."""
    out = plant.folder / "exported.safetensors"
    words = ["model", "export", version, out, "--tier", "tier0", "--state", plant.state, "--force"]
    assert plant.mhfl(*words).code == 0
    return out.read_bytes()[-4:]


def test_a_rollback_that_cannot_be_done_is_told_at_once(plant: Plant) -> None:
    plant.aggregator()
    plant.await_entry("aggregator.start")
    done = plant.mhfl("model", "rollback", 7, "--reason", "x", "--state", plant.state)
    assert done.code == 3
    assert "error: there is no version 7\n" in done.err
    assert "there are versions 0 to 0" in done.err
    plant.processes.stop()


def test_a_tampered_ledger_is_found_with_its_line(plant: Plant) -> None:
    plant.aggregator()
    plant.device("d1", 0)
    plant.await_rounds(2)
    running = plant.mhfl("ledger", "verify", "--state", plant.state, "--json")
    assert json.loads(running.out)["ok"] is True
    plant.processes.stop()
    shown = plant.mhfl("ledger", "show", "--kind", "round.*", "--round", 1, "--state", plant.state, "--json")
    kinds = [json.loads(line)["kind"] for line in shown.out.splitlines()]
    assert kinds == ["round.open", "round.commit"]
    ledger = plant.state / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace("d1", "d2").replace("assign", "assign ")
    changed = [index for index, line in enumerate(ledger.read_text().splitlines(keepends=True)) if line != lines[index]]
    ledger.write_text("".join(lines))
    done = plant.mhfl("ledger", "verify", "--state", plant.state)
    assert done.code == 9
    assert changed
    assert f"ledger.jsonl:{changed[0] + 1}" in done.err
    assert "Traceback" not in done.err


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------

SOON_S = 10.0
GOOD = {0, 130}
"""0: ended in good order; 130: interrupted before there was anything to end."""
PYTHONS_OWN = {-signal.SIGINT, 1}
"""Interrupted while Python itself started: not a line of ours had run."""


def interrupted(processes: Processes, name: str, after_s: float) -> int:
    """Ctrl-C at an instant; the code and nothing left behind."""
    time.sleep(after_s)  # the instant is the test's input, not a wait for something
    processes.interrupt(name)
    code = processes.ended(name, SOON_S)
    text = processes.log(name)
    processes.log_file(name).unlink()
    if code in PYTHONS_OWN:
        assert not text or "KeyboardInterrupt" in text, text
        return code
    assert code in GOOD, f"{code} after {after_s} s\n{text}"
    assert "Traceback" not in text
    assert "unexpected" not in text
    return code


INSTANTS = sorted(random.Random(7).random() * 1.5 for _ in range(3))


@pytest.mark.parametrize("command", ["aggregator", "device", "broker"])
def test_ctrl_c_at_any_moment_ends_a_command_in_good_order(plant: Plant, command: str) -> None:
    starts: dict[str, Callable[[], None]] = {
        "aggregator": plant.aggregator,
        "device": lambda: plant.device("device"),
        "broker": lambda: plant.start("broker", "broker", "--folder", plant.folder / "second"),
    }
    if command == "device":
        plant.aggregator()
    for after_s in (0.0, *INSTANTS):
        starts[command]()
        interrupted(plant.processes, command, after_s)
        alive = {pid: line for pid, line in plant.processes.descendants().items() if command in line}
        assert not alive
    if command != "broker":
        starts[command]()
    if command == "aggregator":
        plant.device("d1")
        plant.await_rounds(1)
        plant.processes.stop()
        plant.verify()
    elif command == "device":
        plant.await_counted("device")
        plant.processes.stop()
        with DeviceStore(plant.folder / "device", 1, time.monotonic) as store:
            assert store.load().tier == 1
    else:
        plant.start("last", "broker", "--folder", plant.folder / "third")
        plant.await_log("last", "# for devices")
        plant.processes.interrupt("last")
        assert plant.processes.ended("last", SOON_S) == 0


@pytest.mark.parametrize("command", ["aggregator", "device"])
def test_a_second_ctrl_c_forces(plant: Plant, command: str) -> None:
    """A process that cannot end in good order, because it is stopped in the middle, ends all the same."""
    plant.aggregator()
    plant.device("device", 0)
    plant.await_counted("device")
    pid = plant.processes.process(command).pid
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    assert plant.processes.ended(command, SOON_S) in (0, 130, 143)
    plant.processes.close()
    # A process that was forced may leave the ledger's file behind the database: the next one completes it.
    lives = len(plant.entries("aggregator.start"))
    plant.aggregator()
    plant.processes.until(lambda: len(plant.entries("aggregator.start")) > lives, "another life of the aggregator")
    plant.processes.stop("aggregator")
    plant.verify()
