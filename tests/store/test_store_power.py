"""What a power cut may take: the order of writes, fsyncs and renames, which no kill of a process can show."""

import fcntl
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.files import Files, atomic_write
from mhfl_mq.store.models import Models
from mhfl_mq.store.state import Store
from mhfl_mq.store.view import verify_folder
from mhfl_mq.testing.store_story import STEPS, Snapshot, go_on, now, play
from mhfl_mq.wire.blobs import build_manifest

DURABLE = ["write", "sync", "replace", "sync folder"]
DATA = bytes(100)


class Recorder(Files, Protocol):
    """A disk that remembers the order of calls."""

    calls: list[str]


def test_a_name_is_given_to_bytes_that_are_on_the_disk_and_the_name_is_then_made_durable(
    tmp_path: Path, recorder: Recorder
) -> None:
    atomic_write(recorder, tmp_path / "file", DATA)
    assert recorder.calls == DURABLE
    recorder.calls.clear()
    Models(tmp_path, recorder).put(np.zeros(4, np.float32), {})
    assert recorder.calls == ["write", *DURABLE]


def test_a_blob_never_waits_for_the_disk_and_has_its_manifest_before_its_name(
    tmp_path: Path, recorder: Recorder
) -> None:
    """What a power cut leaves of it is proven by the next process: see test_store_blobs."""
    blobs = Blobs(tmp_path, 1000, lambda: 0.0, recorder)
    manifest = build_manifest(DATA)
    blobs.begin(manifest)
    recorder.calls.clear()
    blobs.write(manifest.blob_id, 0, DATA)
    blobs.finish(manifest.blob_id)
    assert recorder.calls == ["write", "replace"]
    blobs.drop(manifest.blob_id)
    recorder.calls.clear()
    (tmp_path / "file").write_bytes(DATA)
    blobs.adopt(tmp_path / "file")
    assert recorder.calls == ["write", "replace"]
    blobs.drop(manifest.blob_id)
    recorder.calls.clear()
    blobs.put(manifest, DATA)
    assert recorder.calls == ["write", "write", "replace"]


def test_an_apply_waits_for_the_disk_once_in_the_database(folder: Path, recorder: Recorder) -> None:
    statements: list[str] = []
    with Store(folder, now, files=recorder) as store:
        store._connection.set_trace_callback(statements.append)
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        recorder.calls.clear()
        statements.clear()
        STEPS[0](store, None)
        assert recorder.calls == ["write"]
        assert [statements[0], statements[-1]] == ["BEGIN IMMEDIATE", "COMMIT"]
    assert recorder.calls == ["write", "sync"]


@pytest.mark.parametrize("zeros", [0, 1000])
def test_a_ledger_whose_unsynced_lines_a_power_cut_took_is_completed(
    folder: Path, expected: list[Snapshot], zeros: int
) -> None:
    with Store(folder, now) as store:
        play(store)
    path = folder / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:500] + bytes(zeros))
    assert go_on(folder, expected) == len(STEPS)
    assert path.read_bytes() == whole


def test_a_verifier_is_kept_out_between_the_commit_and_the_append(
    folder: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would read the new head from the database and miss the line in the file: a false alarm."""
    refused, asked = [], []
    real_write, real_flock = recorder.write, fcntl.flock

    def write(fd: int, data: bytes | memoryview, at: int) -> None:
        with (folder / "ledger.jsonl").open("rb") as reader:
            try:
                real_flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(True)
        real_write(fd, data, at)

    def flock(file: int, operation: int) -> None:
        asked.append(operation)
        real_flock(file, operation)

    with Store(folder, now, files=recorder) as store:
        monkeypatch.setattr(recorder, "write", write)
        STEPS[0](store, None)
        assert refused == [True]
        monkeypatch.setattr(fcntl, "flock", flock)
        verify_folder(folder)
        assert asked == [fcntl.LOCK_SH]
