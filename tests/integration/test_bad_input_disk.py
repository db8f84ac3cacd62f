"""A disk that is full, at the aggregator and at a device: it is said, nothing is lost, and it goes on with room."""

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mhfl_mq.testing.plant import Plant

pytestmark = [pytest.mark.broker]

LARGE = {"MHFL_LIGHT_LENGTHS": "1500,100000"}  # 0.4 MB
HERE = Path(__file__).parent


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Take all room but so many bytes; the file that does it is returned."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file, suppress(OSError):  # others write there too
        while (free := shutil.disk_usage(folder).free) > leave:
            file.write(b"\0" * min(free - leave, 1 << 20))
            file.flush()
    return ballast


def told_full(text: str) -> None:
    assert "error: no room left while " in text
    assert "  where: /" in text
    assert "  what to do: free space on this disk" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("leave", [0, pytest.param(300_000, marks=pytest.mark.slow), 500_000])
def test_an_aggregator_whose_disk_is_full_stops_loudly_and_goes_on_with_room(
    plant: Plant, small_disk: Path, leave: int
) -> None:
    plant.state = small_disk / "aggregator"
    plant.aggregator(env=LARGE)
    for number in range(2):
        plant.device(f"d{number}", number, env=LARGE)
    plant.await_counted("d0", "d1")
    ballast = fill(small_disk, leave)
    assert plant.processes.ended("aggregator") == 8, plant.processes.logs()
    told_full(plant.processes.log("aggregator"))
    counted = {(one["round"], one["device"]) for one in plant.entries("update.count")}
    before = plant.rounds()
    open_round = plant.last_round()
    ballast.unlink()
    plant.aggregator(env=LARGE)
    plant.await_counted("d0", "d1")
    plant.await_rounds(1)
    plant.processes.stop()
    plant.verify()
    lines = plant.entries("update.count")
    pairs = [(one["round"], one["device"]) for one in lines]
    assert len(pairs) == len(set(pairs))
    assert counted <= set(pairs)
    assert plant.rounds() > before
    ends = {one["round"] for one in plant.entries("round.commit")}
    if any(number == open_round for number, _ in counted):
        assert open_round in ends, "what was counted was lost"


def limited(size: int) -> Callable[[], None]:
    """A process whose files may not be larger than this."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_device_without_room_says_so_and_the_others_go_on(plant: Plant) -> None:
    plant.aggregator(env=LARGE)
    plant.device("good", env=LARGE)
    plant.device("full", env=LARGE, prepare=limited(250_000))
    plant.await_entry("update.decline", device="full")
    plant.await_counted("good")
    plant.await_rounds(1)
    reasons = {one["reason"] for one in plant.entries("update.decline")}
    assert all("no room left while" in one for one in reasons), reasons
    assert "no room left while" in plant.processes.log("full")
    assert "free space on this disk" in plant.processes.log("full")
    assert "Traceback" not in plant.processes.log("full")
    plant.processes.stop("full")
    plant.device("full", env=LARGE)
    plant.await_counted("full", "good")
    plant.processes.stop()
    plant.verify()


@pytest.mark.slow
def test_a_device_that_cannot_save_its_state_ends_loudly_and_comes_back(plant: Plant, small_disk: Path) -> None:
    plant.aggregator(env=LARGE)
    plant.device("good", env=LARGE)
    plant.device("full", env=LARGE, state=small_disk / "full")
    plant.await_counted("good", "full")
    ballast = fill(small_disk, 0)
    plant.await_counted("good")
    plant.processes.until(
        lambda: plant.processes.process("full").poll() is not None or "no room left" in plant.processes.log("full"),
        "words about the disk",
    )
    plant.await_counted("good")
    assert "Traceback" not in plant.processes.log("full")
    assert "free space on this disk" in plant.processes.log("full")
    ballast.unlink()
    if plant.processes.process("full").poll() is not None:
        assert plant.processes.ended("full") == 8
        plant.device("full", env=LARGE, state=small_disk / "full")
    plant.await_counted("full", "good")
    plant.processes.stop()
    plant.verify()
