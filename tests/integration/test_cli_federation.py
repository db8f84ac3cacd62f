"""The demo, whole and real: a broker, an aggregator and devices of three tiers as processes, on real data."""

import json
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.run.status import read_board
from mhfl_mq.store.view import open_view, verify_folder
from mhfl_mq.testing.processes import Processes

pytestmark = [pytest.mark.broker]

DEMO = ["-m", "mhfl_mq", "demo", "--devices", "3", "--rounds", "2", "--no-kills", "--folder", "run"]
MOST_MB = 90.0
"""Of an agent while its child trains: far from torch's 200. An idle one has a benchmark of its own."""


def agents(processes: Processes) -> dict[int, str]:
    """The aggregator and the devices, without their training children."""
    words = (" mhfl_mq aggregator ", " mhfl_mq device ")
    return {pid: line for pid, line in processes.descendants().items() if any(word in line for word in words)}


def looked_at(pid: int) -> tuple[bool, float]:
    """Whether a process has torch in its memory, and its resident megabytes."""
    folder = Path("/proc", str(pid))
    status = re.search(r"VmRSS:\s+(\d+) kB", (folder / "status").read_text())
    return "libtorch" in (folder / "maps").read_text(), int(status[1]) / 1000 if status else 0.0


def test_two_rounds_of_the_demo_end_in_a_table_and_a_file_of_figures(processes: Processes) -> None:
    processes.start("demo", [*DEMO, "--seed", "3", "--json", "figures.json"])
    most: dict[str, float] = {}
    torch: list[str] = []

    def ended() -> bool:
        for pid, line in agents(processes).items():
            try:
                heavy, size = looked_at(pid)
            except OSError:
                continue
            name = " ".join(line.split()[3:5])
            most[name] = max(most.get(name, 0.0), size)
            torch.extend([line] if heavy else [])
        return processes.process("demo").poll() is not None

    processes.until(ended, "end of the demo", 110)
    assert processes.ended("demo") == 0, processes.logs()
    print("resident megabytes:", most)
    assert not torch
    assert len(most) == 4
    assert all(0 < size < MOST_MB for size in most.values()), most
    check_figures(json.loads((processes.folder / "figures.json").read_text()))
    text = processes.log("demo")
    board = read_board(processes.folder / "run" / "aggregator")
    looked = json.loads(processes.run(["-m", "mhfl_mq", "status", "--state", "run/aggregator", "--json"]).out)
    assert board["state"] == "stopped"
    assert board["trainings"] == sum(one["counted"] for one in looked["rounds"])
    shown = processes.run(["-m", "mhfl_mq", "model", "list", "--state", "run/aggregator"]).out.splitlines()
    last = looked["rounds"][-1]["accuracy"]
    assert shown[-1].split()[7:10] == [f"{last[tier]:.4g}" for tier in ("small", "medium", "large")]
    for words in (
        "accuracy",
        "small",
        "medium",
        "large",
        "baseline smallest-on-all",
        "participation",
        "bytes down",
        "mean of the last 2 rounds",
    ):
        assert words in text
    assert (processes.folder / "run" / "demo.png").stat().st_size > 5000
    assert not processes.descendants()
    verify_folder(processes.folder / "run" / "aggregator")


def check_figures(figures: dict[str, Any]) -> None:
    """Every key that scripts may count on."""
    assert figures["rounds"] == 2
    assert 0 < figures["participation"] <= 1
    assert list(figures["tiers"]) == ["small", "medium", "large"]
    for tier in figures["tiers"].values():
        assert 0 < tier["accuracy"] <= 1
        assert 0 <= tier["devices"] <= 3
    joined = sum(tier["devices"] for tier in figures["tiers"].values())
    assert joined in (2, 3)  # two are a quorum, and two rounds may be over before the third is there
    sizes = [tier["parameters"] for tier in figures["tiers"].values()]
    assert sizes == sorted(set(sizes))
    assert set(figures["baselines"]) == {"smallest-on-all", "exclusive-largest"}
    assert all(0 < one["accuracy"] <= 1 for one in figures["baselines"].values())
    assert all(figures["bytes"][way] > 0 for way in ("up", "down", "down_if_unicast"))
    assert figures["seconds"]
    assert all(value >= 0 for value in figures["seconds"].values())
    assert figures["seed"] == 3


def interrupt_the_demo(processes: Processes, after_s: float, said: str = "") -> None:
    """Ctrl-C so long after it said this: it ends soon, leaves nothing running, and what it left can be read."""
    processes.start("demo", DEMO)
    processes.until(lambda: said in processes.log("demo"), f"demo that says {said!r}")
    time.sleep(after_s)  # the instant is the test's input, not a wait for something
    processes.interrupt("demo")
    code = processes.ended("demo", 20)
    text = processes.log("demo")
    processes.log_file("demo").unlink()
    assert code in (0, 130, -signal.SIGINT, 1), text
    if code in (0, 130):
        assert "Traceback" not in text
        for words in ("unexpected", "WARNING", "Exception ignored", "is closed"):
            assert words not in text
    elif code == 1:  # Python itself was starting
        assert "KeyboardInterrupt" in text
    processes.until(lambda: not processes.descendants(), f"end of {processes.descendants()}", 5)
    state = processes.folder / "run" / "aggregator"
    if (state / "ledger.jsonl").exists():
        verify_folder(state)
        with open_view(state) as view:
            view.restore()


def test_ctrl_c_ends_the_demo_and_all_its_processes(processes: Processes) -> None:
    interrupt_the_demo(processes, 5.0)


MEASURING_S = [0.05, 0.5, pytest.param(1.0, marks=pytest.mark.slow), pytest.param(2.0, marks=pytest.mark.slow)]


@pytest.mark.parametrize("after_s", MEASURING_S)
def test_ctrl_c_ends_the_demo_while_it_measures_and_its_child_is_waited_for(
    processes: Processes, after_s: float
) -> None:
    interrupt_the_demo(processes, after_s, "measuring this machine")


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_while_it_trains_the_baselines(processes: Processes) -> None:
    interrupt_the_demo(processes, 2.0, "training the baselines")


INSTANTS = [0.0, 0.1, 0.2, 0.5, *(round(random.Random(seed).random() * 30, 2) for seed in range(8))]


@pytest.mark.slow
@pytest.mark.parametrize("after_s", INSTANTS)
def test_ctrl_c_ends_the_demo_at_any_moment(processes: Processes, after_s: float) -> None:
    interrupt_the_demo(processes, after_s)


@pytest.mark.slow
def test_a_second_ctrl_c_forces_the_demo(processes: Processes) -> None:
    processes.start("demo", DEMO)
    processes.until(lambda: "started the aggregator" in processes.log("demo"), "devices")
    processes.interrupt("demo")
    processes.interrupt("demo")
    assert processes.ended("demo", 20) == 130
    processes.until(lambda: not processes.descendants(), f"end of {processes.descendants()}", 20)
