"""Every write fails once: the Nth call of the disk, the Nth statement of the database, the Nth byte of a full disk.

Whatever fails, the folder then holds what some number of whole steps leave: the old state or the new one, a ledger
that verifies, no version without its model; and the story goes on from there to the same end.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mhfl_mq.errors import StoreError, StoreFull
from mhfl_mq.store.schema import connect
from mhfl_mq.store.state import Store
from mhfl_mq.testing.database import FailingDatabase, Fate
from mhfl_mq.testing.files import FailingFiles, Failure
from mhfl_mq.testing.store_story import STEPS, Snapshot, go_on, now, play

MOST = 1000  # calls: far above what the story makes, so that a loop that never runs clean is seen
RUNNER = Path(__file__).with_name("crash_runner.py")


@pytest.fixture(autouse=True)
def unmeasured_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed saves no coverage, and measuring doubles a start."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


def fail_each(folder: Path, expected: list[Snapshot], run: Callable[[Path, int], bool]) -> list[int]:
    """Run the story with failure 1, 2, 3, ... until none is reached; how many steps each failure left."""
    left: list[int] = []
    for nth in range(1, MOST):
        place = folder / str(nth)
        if not run(place, nth):
            return left
        left.append(go_on(place, expected))
    raise AssertionError("no run passed clean")


def confirmed_steps(place: Path, files: FailingFiles | None, database: FailingDatabase | None) -> int:
    """Play until something fails; how many steps were confirmed."""
    done = 0
    try:
        with Store(place, now, files=files, connect=database or connect) as store:
            for step in STEPS:
                step(store, files)
                done += 1
    except StoreError as error:
        if str(place) not in error.where or not error.remedy:
            raise AssertionError("an error without a place or a remedy") from error
    return done


@pytest.mark.parametrize("failure", [Failure.FULL, Failure.TORN, Failure.BAD])
def test_whatever_call_of_the_disk_fails_the_state_is_old_or_new(
    ram: Path, expected: list[Snapshot], failure: Failure
) -> None:
    confirmed = []

    def run(place: Path, nth: int) -> bool:
        files = FailingFiles(nth, failure)
        confirmed.append(confirmed_steps(place, files, None))
        return files.failed

    left = fail_each(ram, expected, run)
    assert set(left) == set(range(len(STEPS) + 1))
    assert all(kept in (done, done + 1) for kept, done in zip(left, confirmed, strict=False))


@pytest.mark.parametrize("fate", [Fate.REFUSED, Fate.DONE_AND_REFUSED])
def test_whatever_statement_of_the_database_fails_the_state_is_old_or_new(
    ram: Path, expected: list[Snapshot], fate: Fate
) -> None:
    confirmed = []

    def run(place: Path, nth: int) -> bool:
        database = FailingDatabase(nth, fate)
        confirmed.append(confirmed_steps(place, None, database))
        return database.failed

    left = fail_each(ram, expected, run)
    assert set(left) >= set(range(len(STEPS)))
    assert all(kept in (done, done + 1) for kept, done in zip(left, confirmed, strict=False))


@pytest.mark.parametrize(
    "death", ["kill", "kill torn", "killed before", "killed after"], ids=lambda one: one.replace(" ", "-")
)
def test_wherever_the_process_is_killed_the_state_is_old_or_new(
    ram: Path, expected: list[Snapshot], death: str
) -> None:
    told = subprocess.run(
        [sys.executable, str(RUNNER), "kill", str(ram), death], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    confirmed, left = json.loads(told.stdout)
    assert set(left) >= set(range(len(STEPS)))
    assert all(kept in (done, done + 1) for kept, done in zip(left, confirmed, strict=True))


def test_wherever_a_disk_fills_up_it_is_told_and_the_state_is_old_or_new(ram: Path, expected: list[Snapshot]) -> None:
    """A real limit of the operating system on every file, so that SQLite's own writes are torn as well."""
    told = subprocess.run([sys.executable, str(RUNNER), "full", str(ram)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    confirmed, left, errors = json.loads(told.stdout)
    assert len(set(left)) > len(STEPS) // 2
    assert all(kept in (done, done + 1) for kept, done in zip(left, confirmed, strict=True))
    assert all(errors)


@pytest.mark.parametrize("name", ["ledger", "model", "blob", "device"])
def test_each_file_that_a_full_disk_cuts_short_gives_store_full(ram: Path, name: str) -> None:
    told = subprocess.run([sys.executable, str(RUNNER), name, str(ram)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    kind, message, left = json.loads(told.stdout)
    assert kind == StoreFull.__name__
    assert "no room left" in message
    assert str(ram) in message
    assert "free space" in message
    assert left == []


def test_the_checks_notice_a_state_that_no_step_leaves(ram: Path, expected: list[Snapshot]) -> None:
    with Store(ram, now) as store:
        play(store)
    with pytest.raises(AssertionError, match="neither an old nor a new state"):
        go_on(ram, expected[:-1])
