"""Blobs: nothing is claimed that is not there, whatever dies; budgets, duplicates, garbage."""

import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse, MhflError, PeerFault, StoreError, StoreFull
from mhfl_mq.protocol.transfer import Receiver
from mhfl_mq.store.blobs import Blobs, manifest_of
from mhfl_mq.store.files import Files, RealFiles
from mhfl_mq.store.served import Served
from mhfl_mq.testing.files import FailingFiles, Failure
from mhfl_mq.wire.blobs import build_manifest
from mhfl_mq.wire.messages import Manifest

CHUNK = 64
DATA = bytes(i * 7 % 251 for i in range(10 * CHUNK - 5))
BLOB = build_manifest(DATA, CHUNK)
ID = BLOB.blob_id
BUDGET = 10_000


def chunk(index: int) -> bytes:
    return DATA[index * CHUNK : (index + 1) * CHUNK]


def blobs_in(folder: Path, files: Files | None = None, clock: Callable[[], float] = lambda: 0.0) -> Blobs:
    return Blobs(folder, BUDGET, clock, files)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return blobs_in(tmp_path)


def names(folder: Path) -> set[str]:
    return {one.name.partition(".")[2] for one in folder.iterdir()}


# ---- receiving ------------------------------------------------------------------------------------------------


@given(st.permutations(range(10)), st.lists(st.integers(0, 9), max_size=5))
def test_chunks_in_any_order_with_repeats_make_the_blob(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], repeats: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("blobs")
    blobs = blobs_in(folder)
    assert blobs.begin(BLOB) == b"\0\0"
    seen: set[int] = set()
    for index in (*repeats, *order):
        assert blobs.write(ID, index, memoryview(chunk(index))) == (index not in seen)
        seen.add(index)
        lacking = {i for start, stop in blobs.missing(ID) for i in range(start, stop)}
        assert lacking == set(range(10)) - seen
    assert blobs.finish(ID).read_bytes() == DATA
    assert names(folder) == {"blob", "man"}


def test_missing_chunks_are_told_as_ranges(blobs: Blobs) -> None:
    blobs.begin(BLOB)
    for index in (0, 4, 5):
        blobs.write(ID, index, chunk(index))
    assert blobs.missing(ID) == ((1, 4), (6, 10))


@pytest.mark.parametrize(
    ("index", "data"),
    [(0, chunk(1)), (0, chunk(0)[:-1]), (9, chunk(9) + b"\0"), (10, b""), (-1, chunk(9)), (0, b"")],
    ids=["another chunk", "short", "long", "beyond the end", "negative", "empty"],
)
def test_what_is_not_the_manifest_s_chunk_is_the_peer_s_fault_and_changes_nothing(
    blobs: Blobs, index: int, data: bytes
) -> None:
    blobs.begin(BLOB)
    with pytest.raises(PeerFault, match="manifest's digest"):
        blobs.write(ID, index, data)
    assert blobs.missing(ID) == ((0, 10),)


def test_a_manifest_that_does_not_prove_itself_is_refused(blobs: Blobs, tmp_path: Path) -> None:
    for forged in (
        Manifest("ab" * 32, BLOB.size, BLOB.chunk, BLOB.digests),
        Manifest("../../etc", BLOB.size, BLOB.chunk, BLOB.digests),
        Manifest(ID, BLOB.size + 1, BLOB.chunk, BLOB.digests),
    ):
        with pytest.raises(PeerFault):
            blobs.begin(forged)
        with pytest.raises(PeerFault):
            blobs.put(forged, DATA)
    assert names(tmp_path) == set()


def test_an_empty_blob_is_whole_at_once(blobs: Blobs) -> None:
    empty = build_manifest(b"", CHUNK)
    assert blobs.begin(empty) == b""
    assert blobs.missing(empty.blob_id) == ()
    assert blobs.finish(empty.blob_id).read_bytes() == b""


def test_a_blob_that_lacks_chunks_cannot_be_finished(blobs: Blobs) -> None:
    blobs.begin(BLOB)
    blobs.write(ID, 3, chunk(3))
    with pytest.raises(LocalMisuse, match="9 chunks are missing"):
        blobs.finish(ID)


@pytest.mark.parametrize(
    "use",
    [
        lambda blobs: blobs.write(ID, 0, chunk(0)),
        lambda blobs: blobs.missing(ID),
        lambda blobs: blobs.save(ID),
        lambda blobs: blobs.finish(ID),
    ],
)
def test_a_blob_that_was_not_begun_takes_nothing(blobs: Blobs, use: Callable[[Blobs], object]) -> None:
    with pytest.raises(LocalMisuse, match="not being received"):
        use(blobs)


def test_what_is_not_a_blob_id_never_becomes_a_path(blobs: Blobs) -> None:
    with pytest.raises(LocalMisuse, match="is not a blob id"):
        blobs.path("../lock")


def test_a_receiver_s_proven_bytes_are_kept_and_its_bitmap_is_ours(blobs: Blobs) -> None:
    receiver = Receiver(BLOB, blobs.begin(BLOB))
    assert receiver.missing == 10
    assert blobs.write_proven(ID, 2 * CHUNK, chunk(2))
    assert not blobs.write_proven(ID, 2 * CHUNK, chunk(2))
    assert Receiver(BLOB, blobs.begin(BLOB)).missing == 9
    with pytest.raises(LocalMisuse, match="not a chunk"):
        blobs.write_proven(ID, 1, chunk(0))
    with pytest.raises(LocalMisuse, match="not a chunk"):
        blobs.write_proven(ID, 0, chunk(0)[:-1])


def test_an_inline_blob_is_kept_whole_and_again_is_not_an_error(blobs: Blobs, tmp_path: Path) -> None:
    blobs.begin(BLOB)
    path = blobs.put(BLOB, DATA)
    assert blobs.put(BLOB, DATA) == path == blobs.path(ID)
    assert path.read_bytes() == DATA
    assert names(tmp_path) == {"blob", "man"}
    assert blobs.room == BUDGET
    with pytest.raises(PeerFault):
        blobs.put(BLOB, DATA[:-1])


def test_a_finished_blob_can_be_finished_again(blobs: Blobs) -> None:
    blobs.put(BLOB, DATA)
    assert blobs.finish(ID) == blobs.path(ID)


def test_a_file_is_taken_over_as_a_blob(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "update").write_bytes(DATA)
    assert blobs.adopt(tmp_path / "update", CHUNK) == BLOB
    assert not (tmp_path / "update").exists()
    path = blobs.path(ID)
    assert path is not None
    assert path.read_bytes() == DATA


# ---- budget ---------------------------------------------------------------------------------------------------


def test_incoming_blobs_share_a_budget_and_a_finished_one_frees_it(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, len(DATA) + 10, lambda: 0.0)
    other = build_manifest(DATA[::-1], CHUNK)
    blobs.begin(BLOB)
    assert blobs.room == 10
    with pytest.raises(StoreFull, match=r"635 bytes; 10 of the 645 .* are free; let another transfer end"):
        blobs.begin(other)
    assert set(blobs.incoming) == {ID}
    blobs.begin(BLOB)  # again: needs no room
    for index in range(10):
        blobs.write(ID, index, chunk(index))
    blobs.finish(ID)
    blobs.begin(other)


def test_what_an_earlier_process_was_receiving_counts_until_it_is_dropped(tmp_path: Path) -> None:
    first = blobs_in(tmp_path)
    first.begin(BLOB)
    first.close()
    second = blobs_in(tmp_path)
    assert second.incoming == {ID: BLOB}
    assert second.room == BUDGET - BLOB.size
    second.drop(ID)
    assert second.room == BUDGET
    assert names(tmp_path) == set()


def test_dropping_and_keeping_delete_what_they_say(blobs: Blobs, tmp_path: Path) -> None:
    others = [build_manifest(DATA[i:], CHUNK) for i in (1, 2, 3)]
    blobs.put(BLOB, DATA)
    blobs.put(others[0], DATA[1:])
    blobs.begin(others[1])
    blobs.begin(others[2])
    blobs.keep({ID, others[1].blob_id})
    assert set(blobs.incoming) == {others[1].blob_id}
    assert blobs.path(ID) is not None
    assert blobs.path(others[0].blob_id) is None
    blobs.drop(ID)
    blobs.drop(ID)
    assert names(tmp_path) == {"man", "part"}


# ---- kills ----------------------------------------------------------------------------------------------------


def test_a_kill_loses_at_most_a_second_of_chunks(tmp_path: Path) -> None:
    seconds = itertools.count(0, 1)
    blobs = blobs_in(tmp_path, clock=lambda: next(seconds) * 0.3)
    blobs.begin(BLOB)
    for index in range(8):
        blobs.write(ID, index, chunk(index))
    # the process is killed: nothing is closed
    resumed = blobs_in(tmp_path)
    bitmap = resumed.begin(BLOB)
    kept = sum(byte.bit_count() for byte in bitmap)
    assert 4 <= kept <= 8
    for start, stop in resumed.missing(ID):
        for index in range(start, stop):
            resumed.write(ID, index, chunk(index))
    assert resumed.finish(ID).read_bytes() == DATA


def test_a_paused_blob_loses_nothing(tmp_path: Path) -> None:
    blobs = blobs_in(tmp_path)
    blobs.begin(BLOB)
    blobs.write(ID, 3, chunk(3))
    blobs.pause(ID)
    blobs.pause(ID)
    with pytest.raises(LocalMisuse):
        blobs.write(ID, 4, chunk(4))
    assert blobs.begin(BLOB) == b"\x08\0"
    blobs.close()
    assert blobs_in(tmp_path).begin(BLOB) == b"\x08\0"


def test_a_claimed_chunk_whose_bytes_a_power_cut_took_is_not_claimed_again(tmp_path: Path) -> None:
    blobs = blobs_in(tmp_path)
    blobs.begin(BLOB)
    for index in range(10):
        blobs.write(ID, index, chunk(index))
    blobs.close()
    with (tmp_path / f"{ID}.part").open("r+b") as file:
        file.seek(3 * CHUNK + 10)
        file.write(b"\0" * CHUNK)
    (tmp_path / f"{ID}.map").write_bytes(b"\xff\xff\xff")
    resumed = blobs_in(tmp_path)
    resumed.begin(BLOB)
    assert resumed.missing(ID) == ((3, 5),)


@pytest.mark.parametrize(
    "damage", [b"", b"garbage", b"\x93\x01\x40\xc4\x00", b"\xc0", b"\x92\x01\x02", b"\x93\xa1x\x01\x02"]
)
def test_a_damaged_manifest_is_a_scrap(tmp_path: Path, damage: bytes) -> None:
    blobs = blobs_in(tmp_path)
    blobs.begin(BLOB)
    blobs.close()
    (tmp_path / f"{ID}.man").write_bytes(damage)
    again = blobs_in(tmp_path)
    assert again.incoming == {}
    assert names(tmp_path) == set()


def test_scraps_are_deleted_and_foreign_files_are_not(tmp_path: Path) -> None:
    blobs_in(tmp_path).put(BLOB, DATA)
    other = "ab" * 32
    for name in (f"{ID}.part", f"{ID}.map", f"{ID}.man.tmp", "note.txt", f"{other}.blob", f"{other}.part"):
        (tmp_path / name).touch()
    blobs_in(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {"note.txt", f"{ID}.blob", f"{ID}.man"}


# ---- power cuts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
        lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:],
    ],
    ids=["empty", "short", "long", "zeros", "a bit"],
)
@pytest.mark.parametrize("way", ["finish", "put", "adopt"])
def test_a_whole_blob_that_a_power_cut_damaged_is_gone_and_can_be_had_again(
    tmp_path: Path, way: str, damage: Callable[[bytes], bytes]
) -> None:
    make_whole(blobs_in(tmp_path), way)
    path = tmp_path / f"{ID}.blob"
    path.write_bytes(damage(DATA))
    again = blobs_in(tmp_path)
    assert again.path(ID) is None
    assert names(tmp_path) == set()
    assert make_whole(again, way).read_bytes() == DATA
    assert again.path(ID) == path


@pytest.mark.parametrize("way", ["finish", "put", "adopt"])
def test_a_whole_blob_is_read_again_by_the_next_process_only_and_once(tmp_path: Path, way: str) -> None:
    first = blobs_in(tmp_path)
    path = make_whole(first, way)
    path.write_bytes(b"damage")
    assert first.path(ID) == path
    path.write_bytes(DATA)
    second = blobs_in(tmp_path)
    assert second.path(ID) == path
    path.write_bytes(b"damage")
    assert second.path(ID) == path


@pytest.mark.parametrize("manifest", [None, b"", b"garbage"], ids=["missing", "empty", "damaged"])
def test_a_whole_blob_without_its_manifest_is_a_scrap(tmp_path: Path, manifest: bytes | None) -> None:
    make_whole(blobs_in(tmp_path), "put")
    if manifest is None:
        (tmp_path / f"{ID}.man").unlink()
    else:
        (tmp_path / f"{ID}.man").write_bytes(manifest)
    assert blobs_in(tmp_path).path(ID) is None
    assert names(tmp_path) == set()


def test_a_whole_blob_that_is_begun_again_lacks_nothing(tmp_path: Path) -> None:
    make_whole(blobs_in(tmp_path), "put")
    again = blobs_in(tmp_path)
    assert Receiver(BLOB, again.begin(BLOB)).missing == 0
    assert again.incoming == {}
    assert again.finish(ID) == again.path(ID)


def make_whole(blobs: Blobs, way: str) -> Path:
    """Have the blob, in one of the ways in which a blob becomes whole."""
    match way:
        case "finish":
            blobs.begin(BLOB)
            for index in range(10):
                blobs.write(ID, index, chunk(index))
            return blobs.finish(ID)
        case "put":
            return blobs.put(BLOB, DATA)
        case _:
            source = blobs.put(build_manifest(b"source", CHUNK), b"source").with_name("update")
            source.write_bytes(DATA)
            assert blobs.adopt(source, CHUNK) == BLOB
            blobs.drop(build_manifest(b"source", CHUNK).blob_id)
            return source.with_name(f"{ID}.blob")


def receive_all(folder: Path, files: Files, claimed: list[int]) -> None:
    seconds = itertools.count()
    blobs = blobs_in(folder, files, clock=lambda: float(next(seconds)))  # every chunk saves the bitmap
    blobs.begin(BLOB)
    for start, stop in blobs.missing(ID):
        for index in range(start, stop):
            blobs.write(ID, index, chunk(index))
            claimed.append(index)
    blobs.finish(ID)


@pytest.mark.parametrize("failure", [Failure.FULL, Failure.TORN, Failure.BAD])
def test_whatever_call_of_the_disk_fails_nothing_is_claimed_that_is_not_there(tmp_path: Path, failure: Failure) -> None:
    for nth in range(1, 200):
        folder = tmp_path / str(nth)
        folder.mkdir()
        files = FailingFiles(nth, failure)
        written: list[int] = []
        with suppress(StoreError):
            receive_all(folder, files, written)
        resumed = blobs_in(folder)
        if (whole := resumed.path(ID)) is None:
            bitmap = resumed.begin(BLOB)
            had = {i for i in range(10) if bitmap[i >> 3] >> (i & 7) & 1}
            assert had <= {*written, len(written)}
            assert len(had) >= len(written) - 1  # the last save may have failed
            resumed.close()
            receive_all(folder, RealFiles(), [])
            whole = blobs_in(folder).path(ID)
        assert whole is not None
        assert whole.read_bytes() == DATA
        if not files.failed:
            break
    assert 30 < nth < 100


def test_a_disk_without_room_is_told_before_the_first_chunk_and_nothing_is_left(tmp_path: Path) -> None:
    blobs = blobs_in(tmp_path, FailingFiles(4, Failure.FULL))
    with pytest.raises(StoreFull, match="reserving room"):
        blobs.begin(BLOB)
    assert names(tmp_path) == set()
    assert blobs.room == BUDGET


def test_a_blob_that_cannot_be_gone_on_with_now_can_be_later(tmp_path: Path) -> None:
    blobs = blobs_in(tmp_path)
    blobs.begin(BLOB)
    blobs.write(ID, 0, chunk(0))
    blobs.close()
    with pytest.raises(StoreError, match="Input/output error"):
        blobs_in(tmp_path, FailingFiles(2, Failure.BAD)).begin(BLOB)
    assert blobs_in(tmp_path).begin(BLOB) == b"\1\0"


# ---- serving --------------------------------------------------------------------------------------------------


def test_a_range_of_a_file_is_served_chunk_by_chunk_as_a_blob_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"header" + DATA + b"more")
    served = Served()
    manifest = served.share(path, CHUNK, start=6, size=len(DATA))
    assert manifest == BLOB
    assert served.manifest(ID) == BLOB
    assert b"".join(served.read(ID, index) for index in range(10)) == DATA
    assert served.share(path, CHUNK, start=6, size=len(DATA)) == BLOB
    served.drop(ID)
    served.drop(ID)
    assert served.manifest(ID) is None
    with pytest.raises(LocalMisuse, match="not served"):
        served.read(ID, 0)


def test_a_whole_blob_is_received_from_one_that_is_served(tmp_path: Path, blobs: Blobs) -> None:
    (tmp_path / "update").write_bytes(DATA)
    served = Served()
    manifest = served.share(tmp_path / "update", CHUNK)
    blobs.begin(manifest)
    for index in range(manifest.chunks):
        blobs.write(manifest.blob_id, index, served.read(manifest.blob_id, index))
    assert blobs.finish(manifest.blob_id).read_bytes() == DATA
    served.close()
    assert served.manifest(ID) is None


def test_a_served_file_that_was_cut_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    served = Served()
    served.share(path, CHUNK)
    os.truncate(path, 100)
    with pytest.raises(StoreError, match="shorter than the blob"):
        served.read(ID, 9)
    served.close()


def test_a_manifest_of_more_than_the_file_holds_is_our_own_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with pytest.raises(LocalMisuse, match="ends 5 bytes too early"):
        manifest_of(tmp_path / "file", CHUNK, size=len(DATA) + 5)


def test_a_file_that_is_not_there_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(MhflError, match="nothing"):
        Served().share(tmp_path / "nothing")
