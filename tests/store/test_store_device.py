"""A device's folder: sessions only grow, the state is the old or the new one, the update is there after a kill."""

import hashlib
import json
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest

from mhfl_mq.errors import StoreError, StoreLocked
from mhfl_mq.protocol.effects import SavedDevice
from mhfl_mq.protocol.site import Spent
from mhfl_mq.store.device import POINTER, DeviceStore, Pointer
from mhfl_mq.store.files import Files
from mhfl_mq.testing.files import FailingFiles, Failure
from mhfl_mq.wire.blobs import build_manifest
from mhfl_mq.wire.codec import pack
from mhfl_mq.wire.messages import Offer, Survey, TierSpec

OFFER = Offer(
    round=3,
    base=2,
    tier=1,
    layout="ab" * 32,
    segments=("cd" * 32, "ef" * 32),
    algorithm="heterofl",
    options={"steps": 10.0, "rate": 0.1},
    stages=(),
    policy="12" * 32,
    deadline_s=60.0,
)
SURVEY = Survey(
    epoch=1, task="wind", layout="ab" * 32, tiers=(TierSpec(name="small", width=0.5, depth=0, length=10),), batch=32
)
DATA = b"update" * 1000
OLD = SavedDevice(
    epoch=1,
    tier=1,
    layout="ab" * 32,
    last_round=3,
    survey=SURVEY,
    offer=OFFER,
    link_bytes_s=5e5,
    link_told=4e5,
    step_told=0.25,
    counted=2,
    spent=Spent(1.0, 2, 3.0, 4.0, 5.0),
)
NEWER = replace(OLD, last_round=4)
NEW = replace(OLD, update=build_manifest(DATA), weight=12.5, metrics={"loss": 0.25})


def write(path: Path, value: object) -> None:
    """As a device writes a small file."""
    body = pack(value)
    path.write_bytes(hashlib.sha256(body).digest()[:16] + body)


def open_in(folder: Path, files: Files | None = None) -> DeviceStore:
    return DeviceStore(folder, 10**6, lambda: 0.0, files)


def test_a_new_folder_gives_the_defaults(folder: Path) -> None:
    with open_in(folder) as store:
        assert store.load() == SavedDevice()


APART = replace(
    OLD,
    survey=replace(
        SURVEY,
        tiers=(SURVEY.tiers[0], replace(SURVEY.tiers[0], name="other", architecture="net", segments=(0, 2))),
        algorithm="fedproto",
        options={"rate": 0.5},
        public="ab" * 32,
    ),
    offer=replace(OFFER, holds=(0, 2)),
)


@pytest.mark.parametrize("state", [SavedDevice(), OLD, NEW, APART])
def test_a_state_comes_back_as_it_was(folder: Path, state: SavedDevice) -> None:
    with open_in(folder) as store:
        store.save(SavedDevice(epoch=99))
        (folder / "update.f32").write_bytes(DATA)
        store.blobs.adopt(folder / "update.f32")
        store.save(state)
    with open_in(folder) as store:
        assert store.load() == state


def test_the_state_that_is_tried_has_every_field_set() -> None:
    assert all(getattr(NEW, field.name) != getattr(SavedDevice(), field.name) for field in fields(NEW))


def test_a_state_of_an_older_release_gets_defaults_for_what_it_lacks(folder: Path) -> None:
    with open_in(folder) as store:
        write(folder / "state.0", [4, {"format": 1, "epoch": 5}])
        assert store.load() == SavedDevice(epoch=5)


def test_sessions_only_grow_over_restarts(folder: Path) -> None:
    seen = []
    for _ in range(3):
        with open_in(folder) as store:
            seen += [store.next_session(), store.next_session()]
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_floor_lets_sessions_grow_even_when_the_folder_was_lost(tmp_path: Path) -> None:
    with open_in(tmp_path / "first") as store:
        assert [store.next_session(1000), store.next_session(1000), store.next_session(5)] == [1000, 1001, 1002]
    with open_in(tmp_path / "second") as store:
        assert store.next_session(2000) == 2000


def test_a_folder_belongs_to_one_agent(folder: Path) -> None:
    with open_in(folder), pytest.raises(StoreLocked):
        open_in(folder)
    open_in(folder).close()


def test_a_finished_update_is_there_after_a_kill(folder: Path) -> None:
    store = open_in(folder)
    (folder / "update.f32").write_bytes(DATA)
    manifest = store.blobs.adopt(folder / "update.f32")
    store.save(NEW)
    store.close()
    with open_in(folder) as again:
        update = again.load().update
        assert update == manifest
        path = again.blobs.path(manifest.blob_id)
        assert path is not None
        assert path.read_bytes() == DATA


@pytest.mark.parametrize("failure", [Failure.FULL, Failure.TORN, Failure.BAD])
def test_whatever_call_of_the_disk_fails_the_state_is_old_or_new_and_sessions_grow(
    tmp_path: Path, failure: Failure
) -> None:
    found = []
    for nth in range(1, 100):
        folder = tmp_path / str(nth)
        with open_in(folder) as store:
            assert store.next_session() == 1
            (folder / "update.f32").write_bytes(DATA)
            store.blobs.adopt(folder / "update.f32")
            store.save(OLD)
        files = FailingFiles(nth, failure)
        session = 1
        with suppress(StoreError), open_in(folder, files) as store:
            session = store.next_session()
            store.save(NEW)
        with open_in(folder) as store:
            found.append(store.load())
            assert store.next_session() > session
        if not files.failed:
            break
    assert all(one in (OLD, NEW) for one in found)
    assert found[0] == OLD
    assert found[-1] == NEW
    assert len(found) == 8


def test_a_folder_that_cannot_be_opened_is_given_back(folder: Path) -> None:
    with open_in(folder) as store:
        store.blobs.begin(build_manifest(DATA))
        (folder / "blobs" / f"{'ab' * 32}.part").touch()
    with pytest.raises(StoreError, match="looking for blobs"):
        open_in(folder, FailingFiles(1, Failure.BAD))
    open_in(folder).close()


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 100], ids=["empty", "short", "zeros"])
def test_a_damaged_session_is_told_with_what_to_do(folder: Path, damage: bytes) -> None:
    with open_in(folder) as store:
        store.next_session()
        (folder / "session").write_bytes(damage)
        with pytest.raises(StoreError, match=r"is damaged.*; run the release that wrote it, or move") as caught:
            store.next_session()
        assert caught.value.where == str(folder / "session")


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 100], ids=["empty", "short", "zeros"])
def test_a_state_that_a_power_cut_took_gives_way_to_the_one_before_it_or_to_none(folder: Path, damage: bytes) -> None:
    for states in ([OLD], [OLD, NEWER], [OLD, NEWER, OLD, NEWER]):
        with open_in(folder) as store:
            for state in states:
                store.save(state)
        newest = max(folder.glob("state.*"), key=lambda path: path.stat().st_mtime_ns)
        newest.write_bytes(damage)
        with open_in(folder) as store:
            assert store.load() == (SavedDevice() if len(states) == 1 else OLD)
            store.save(NEWER)
            assert store.load() == NEWER
        for path in folder.glob("state.*"):
            path.write_bytes(damage)
        with open_in(folder) as store:
            assert store.load() == SavedDevice()


def test_a_flipped_bit_is_damage(folder: Path) -> None:
    with open_in(folder) as store:
        store.save(OLD)
        store.save(NEWER)
        data = bytearray((folder / "state.0").read_bytes())
        data[40] ^= 1
        (folder / "state.0").write_bytes(data)
        assert store.load() == OLD


def test_an_update_that_a_power_cut_took_is_trained_again(folder: Path) -> None:
    with open_in(folder) as store:
        (folder / "update.f32").write_bytes(DATA)
        manifest = store.blobs.adopt(folder / "update.f32")
        store.save(NEW)
        assert store.load() == NEW
    (folder / "blobs" / f"{manifest.blob_id}.blob").write_bytes(bytes(len(DATA)))
    with open_in(folder) as store:
        assert store.load() == OLD


def test_a_sound_digest_over_something_else_is_told(folder: Path) -> None:
    with open_in(folder) as store:
        (folder / "state.1").write_bytes(hashlib.sha256(b"\xc1").digest()[:16] + b"\xc1")
        with pytest.raises(StoreError, match="is damaged"):
            store.load()


def test_a_sound_file_with_other_content_is_told_as_well(folder: Path) -> None:
    with open_in(folder) as store:
        others: list[object] = [
            [],
            [1, []],
            ["1", {"format": 1}],
            [1, {"format": 99}],
            [1, {"format": 1, "from later": 1}],
            "text",
            [1, {"format": 1, "offer": b"x"}],
        ]
        for value in others:
            write(folder / "state.1", value)
            with pytest.raises(StoreError, match="another release"):
                store.load()
        write(folder / "session", "text")
        with pytest.raises(StoreError, match="another release"):
            store.next_session()


def test_the_model_that_programs_had_better_use_stands_in_a_file_of_plain_text(folder: Path) -> None:
    with open_in(folder) as store:
        for version in (1, 2):
            store.point(Pointer(version, "ab" * 32, "large", "medium", ["blobs/0", "blobs/1"]))
        assert json.loads((folder / POINTER).read_text()) == {
            "version": 2,
            "layout": "ab" * 32,
            "tier": "large",
            "use": "medium",
            "files": ["blobs/0", "blobs/1"],
        }
        assert not list(folder.glob("*.tmp"))
