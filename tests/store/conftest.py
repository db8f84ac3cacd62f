"""A state folder with a story in it, and what each of its steps leaves."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mhfl_mq.store.files import RealFiles
from mhfl_mq.store.state import Store
from mhfl_mq.testing.store_story import Snapshot, now, play


class RecordingFiles(RealFiles):
    """The real disk, with a list of what was asked of it in which order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def write(self, fd: int, data: bytes | memoryview, at: int) -> None:
        """See `Files`."""
        self.calls.append("write")
        super().write(fd, data, at)

    def sync(self, fd: int) -> None:
        """See `Files`."""
        self.calls.append("sync")
        super().sync(fd)

    def replace(self, source: Path, target: Path) -> None:
        """See `Files`."""
        self.calls.append("replace")
        super().replace(source, target)

    def sync_folder(self, folder: Path) -> None:
        """See `Files`."""
        self.calls.append("sync folder")
        super().sync_folder(folder)


@pytest.fixture
def recorder() -> RecordingFiles:
    """A disk that remembers the order of calls."""
    return RecordingFiles()


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
