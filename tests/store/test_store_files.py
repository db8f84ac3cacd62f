"""Atomic writes, locks and errors of the disk."""

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mhfl_mq.errors import StoreError, StoreFull, StoreLocked
from mhfl_mq.store.files import FolderLock, RealFiles, atomic_write, make_folder, store_error
from mhfl_mq.testing.files import KILLED, FailingFiles, Failure

OLD, NEW = b"old" * 100, b"new!" * 100


@pytest.mark.parametrize("failure", [Failure.FULL, Failure.TORN, Failure.BAD])
def test_an_atomic_write_that_fails_anywhere_leaves_the_old_bytes_or_the_new(tmp_path: Path, failure: Failure) -> None:
    path = tmp_path / "file"
    outcomes = []
    for nth in range(1, 100):
        atomic_write(RealFiles(), path, OLD)
        files = FailingFiles(nth, failure)
        with suppress(StoreError):
            atomic_write(files, path, NEW)
        assert path.read_bytes() in (OLD, NEW)
        assert [one.name for one in tmp_path.iterdir()] == ["file"]
        if not files.failed:
            break
        outcomes.append(path.read_bytes())
    assert OLD in outcomes
    assert len(outcomes) == 5
    assert path.read_bytes() == NEW


def test_a_full_disk_is_told_with_the_path_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreFull, match=r"no room left while writing .*No space.*; free space") as caught:
        atomic_write(FailingFiles(2, Failure.FULL), tmp_path / "file", NEW)
    assert caught.value.where == str(tmp_path / "file")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_disk_quota_and_size_limit_all_mean_full(code: int) -> None:
    assert type(store_error(OSError(code, "why"), Path("x"), "writing")) is StoreFull


def test_other_errors_of_the_disk_are_not_full() -> None:
    assert type(store_error(OSError(errno.EIO, "why"), Path("x"), "writing")) is StoreError


def test_a_write_goes_on_after_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    atomic_write(RealFiles(), tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_a_resized_file_is_zero_where_it_grew_and_cut_where_it_shrank(tmp_path: Path) -> None:
    files = RealFiles()
    fd = files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    files.write(fd, b"abc", 0)
    files.resize(fd, 5)
    assert os.pread(fd, 10, 0) == b"abc\0\0"
    files.resize(fd, 2)
    assert os.pread(fd, 10, 0) == b"ab"
    os.close(fd)


def test_where_room_cannot_be_reserved_a_file_still_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    fd = RealFiles().open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    RealFiles().resize(fd, 5)
    assert os.fstat(fd).st_size == 5
    os.close(fd)


def test_a_folder_is_made_with_its_parents_and_making_it_again_changes_nothing(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    make_folder(RealFiles(), deep)
    (deep / "file").touch()
    make_folder(RealFiles(), deep)
    assert (deep / "file").exists()


def test_a_folder_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/folder: failed while making the folder"):
        make_folder(RealFiles(), tmp_path / "file" / "folder")


def test_a_locked_folder_names_the_process_that_holds_it(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "lock")
    code = (
        "import sys; from pathlib import Path; from mhfl_mq.errors import StoreLocked\n"
        "from mhfl_mq.store.files import FolderLock\n"
        "try: FolderLock(Path(sys.argv[1]))\n"
        "except StoreLocked as error: print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, text=True, check=True
    ).stdout
    assert f"process {os.getpid()} is using this folder; stop process {os.getpid()}" in told
    lock.release()


def test_a_released_lock_and_one_of_a_dead_process_can_be_taken(tmp_path: Path) -> None:
    first = FolderLock(tmp_path / "lock")
    with pytest.raises(StoreLocked):
        FolderLock(tmp_path / "lock")
    first.release()
    first.release()
    FolderLock(tmp_path / "lock").release()
    code = (
        "import os, sys; from pathlib import Path; from mhfl_mq.store.files import FolderLock\n"
        f"FolderLock(Path(sys.argv[1])); os._exit({KILLED})\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False).returncode == KILLED
    FolderLock(tmp_path / "lock").release()


def test_a_lock_that_cannot_be_had_for_another_reason_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StoreError, match="No locks available"):
        FolderLock(tmp_path / "lock")
