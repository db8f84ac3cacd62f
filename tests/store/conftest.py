"""A state folder with a story in it, and what each of its steps leaves."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mhfl_mq.store.state import Store
from mhfl_mq.testing.store_story import Snapshot, now, play


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: thousands of fsyncs, and not one of them is what is tested."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared, prefix="mhfl-test-") as name:
        yield Path(name)


@pytest.fixture
def folder(ram: Path) -> Path:
    """A state folder that is not there yet."""
    return ram / "state"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """An open, empty store."""
    with Store(folder, now) as one:
        yield one


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Snapshot]:
    """What the story leaves after 0, 1, 2, ... steps, without a failure."""
    with Store(tmp_path_factory.mktemp("expected"), now) as one:
        return play(one)


@pytest.fixture
def told(folder: Path, expected: list[Snapshot]) -> Path:
    """A closed state folder with the whole story in it."""
    with Store(folder, now) as one:
        assert play(one) == expected
    return folder
