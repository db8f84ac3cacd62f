"""What the demo says before it starts anything, and how it reports; the demo itself is an integration test."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.cli.demo.fleet import Fleet
from mhfl_mq.cli.demo.report import table
from mhfl_mq.cli.signals import run_interruptible
from mhfl_mq.errors import MhflError


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """These tests are about what comes before a process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Fleet, "start_broker", lambda _fleet: pytest.fail("the demo began"))


@pytest.mark.parametrize("file", ["/nope/x.json", "/proc/x.json", "/dev/null/x", "."])
def test_figures_that_cannot_be_written_are_told_before_the_run(mhfl: Any, file: str) -> None:
    done = mhfl("demo", "--json", file)
    assert done.code in (2, 3)  # 2: click knows that it is a folder
    assert file in done.err
    assert not Path("demo-run").exists()


def test_a_figures_file_that_is_there_is_not_harmed_by_the_look(mhfl: Any, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    mhfl("demo", "--json", tmp_path / "old.json", "--broker", "nonsense")
    mhfl("demo", "--json", tmp_path / "new.json", "--broker", "nonsense")
    assert (tmp_path / "old.json").read_text() == "old"
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [("nonsense", 3, "no scheme"), ("mqtt://127.0.0.1:1", 7, "cannot connect: connection refused")],
)
def test_a_broker_that_cannot_be_used_is_told_before_anything_starts(mhfl: Any, url: str, code: int, says: str) -> None:
    done = mhfl("demo", "--broker", url)
    assert done.code == code
    assert says in done.err
    assert not Path("demo-run").exists()


def test_a_folder_that_is_somebody_elses_is_named_and_left_alone(mhfl: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = mhfl("demo", "--folder", tmp_path)
    assert done.code == 3
    assert done.err.splitlines()[0] == f"error: the folder {tmp_path} is not empty, and not a demo's"
    assert mhfl("demo", "--folder", "/proc/x").code == 8


@pytest.mark.parametrize(("code", "ours"), [(7, 7), (-9, 1)])
def test_the_exit_code_of_a_process_that_failed_is_the_demos(tmp_path: Path, code: int, ours: int) -> None:
    fleet = Fleet(tmp_path, "wind", None, Path("default"), 0)
    (tmp_path / "device-1.log").write_text("error: cannot connect\n")
    end = f"import os, signal; os.kill(os.getpid(), signal.SIGKILL) if {code} < 0 else os._exit({code})"
    fleet.processes["device-1"] = subprocess.Popen([sys.executable, "-c", end])
    fleet.processes["device-1"].wait()
    with pytest.raises(MhflError, match=f"device-1 ended with exit code {code}") as raised:
        fleet.check()
    assert raised.value.exit_code == ours


@pytest.mark.parametrize(
    ("rounds", "says"), [(1, "of the only round"), (2, "mean of the last 2 rounds"), (9, "mean of the last 3 rounds")]
)
def test_the_accuracy_says_of_which_rounds_it_is(rounds: int, says: str) -> None:
    record = {
        "rounds": rounds,
        "participation": 1.0,
        "tiers": {"one": {"accuracy": 0.5, "devices": 3, "parameters": 7}},
        "baselines": {},
        "bytes": {"up": 1, "down": 2, "down_if_unicast": 4},
        "seconds": {"first_round": 1.0, "total": 3.0, "train": 9.0},
        "killed": [],
    }
    (title, _, _), (_, _, figures) = table(record)
    assert title.endswith(says)
    assert ["seconds", "first round 1.0, total 3.0, train (all devices) 9.0"] in figures


def test_ctrl_c_cancels_the_work_and_is_raised_when_that_has_ended() -> None:
    ended = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_interruptible(work())
    assert ended == [True]


async def _seven() -> int:
    return 7


async def _fails() -> int:
    raise MhflError("x")


def test_work_that_is_not_interrupted_gives_its_result_or_its_error() -> None:
    assert run_interruptible(_seven()) == 7
    with pytest.raises(MhflError, match="x"):
        run_interruptible(_fails())


async def test_unrelated_models_have_no_baseline_of_sizes_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    from mhfl_mq.cli.demo.command import _baselines
    from mhfl_mq.policy import Algorithm, Policy, Tier

    tiers = (Tier("mlp", 1.0, architecture="mlp"), Tier("lstm", 1.0, architecture="lstm"))
    for name in ("fedproto", "fedgroups"):
        assert await _baselines(Policy("p", tiers, Algorithm(name)), [], {}, 3, None, 0) == {}
        assert f"the tiers of {name} are no sizes of one model" in capsys.readouterr().err
