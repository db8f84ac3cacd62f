"""The store's one operation: what it keeps, what it refuses, and what a restart gets back."""

import datetime
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from mhfl_mq.errors import (
    ConfigError,
    LedgerBroken,
    LocalMisuse,
    StoreError,
    StoreFull,
    StoreLocked,
)
from mhfl_mq.protocol.records import (
    Change,
    DeviceSaved,
    Entry,
    EpochStarted,
    RoundClosed,
    RoundOpened,
    SavedState,
    UpdateCounted,
    UploadSaved,
    VersionAdded,
)
from mhfl_mq.store.ledger import GENESIS, query, read
from mhfl_mq.store.state import Store
from mhfl_mq.store.view import open_view, verify_folder
from mhfl_mq.testing.store_story import STEPS, Snapshot, now, play, snapshot

MODEL = "ea24c839d318ddc88af45e3cf44e4dee2f4e222d82981796bfc3b715a4c08081"  # of the story's versions 1 and 3
OPENED = RoundOpened(1, 1, "policy", 2, (("gw-2", 0), ("gw-1", 0)))
COUNTED = UpdateCounted(1, "gw-1", 0, "ab" * 32, 256, 10.0, {"loss": 0.5})


def after(store: Store, steps: int) -> Store:
    for step in STEPS[:steps]:
        step(store, None)
    return store


# ---- keeping --------------------------------------------------------------------------------------------------


def test_an_empty_store_gives_the_defaults(store: Store) -> None:
    assert store.restore() == SavedState()
    assert store.head == GENESIS
    assert verify_folder(store.folder) == GENESIS


def test_the_folder_has_the_files_that_its_description_names(told: Path) -> None:
    with Store(told, now) as store:
        assert {one.name for one in told.iterdir() if "-" not in one.name} == {
            "blobs",
            "ledger.jsonl",
            "lock",
            "models",
            "state.sqlite",
        }
        assert (store.models, store.blobs) == (told / "models", told / "blobs")


def test_a_closed_and_reopened_store_says_the_same(told: Path, expected: list[Snapshot]) -> None:
    with Store(told, now) as store:
        assert snapshot(store) == expected[-1]
        assert store.completed == 0


def test_an_open_round_comes_back_with_cohort_and_counted_updates_in_their_order(store: Store) -> None:
    state = after(store, 6).restore()
    assert state.last_round == 1
    assert state.rounds_counted == {"gw-1": 1, "gw-2": 1}
    assert state.open_round is not None
    assert state.open_round.opened == OPENED
    assert state.open_round.opened_at == now().timestamp()
    assert state.open_round.counted == (COUNTED, replace(COUNTED, device="gw-2"))


def test_a_closed_round_is_not_open_but_its_number_is_used_up(store: Store) -> None:
    state = after(store, 10).restore()
    assert state.open_round is None
    assert (state.last_round, state.rounds_opened) == (2, 2)
    assert state.last_closed == RoundClosed(2, "aborted", "quorum", None, ("gw-2",))
    assert state.turns == {"gw-1": 1, "gw-2": 2}
    assert state.head is not None
    assert state.head.version == 2


def test_round_numbers_that_were_skipped_are_not_counted_as_rounds(store: Store) -> None:
    after(store, 10)
    store.apply([replace(OPENED, round=901)])
    state = store.restore()
    assert (state.last_round, state.rounds_opened) == (901, 3)


def test_what_a_device_did_comes_back_with_its_turns_and_the_uploads_of_its_last_day(folder: Path) -> None:
    time = [now()]
    with Store(folder, lambda: time[0]) as store:
        after(store, 8)
        committed_at = store.restore().committed_at
        for number in (11, 12, 13, 14):
            time[0] += datetime.timedelta(hours=10)
            opened = replace(OPENED, round=number)
            update = replace(COUNTED, round=number, blob_id=f"{number}" * 32, metrics={"seconds": 2.5})
            before = store.restore().open_round
            if before is not None:
                store.apply([RoundClosed(before.opened.round, "aborted", "", None)])
            store.apply([opened])
            if number < 14:
                store.apply([update])
            store.apply([RoundClosed(number, "aborted", "", None, ("gw-1", "gw-2"))])
        state = store.restore()
    begin = now().timestamp()
    assert state.pasts["gw-1"].turned_at == begin + 40 * 3600
    assert state.pasts["gw-1"].missed == 1
    assert [one.at - begin for one in state.pasts["gw-1"].uploads] == [10 * 3600, 20 * 3600, 30 * 3600]
    assert state.pasts["gw-1"].uploads[-1] == UploadSaved(begin + 30 * 3600, 256, 2.5)
    assert state.pasts["gw-2"].missed == 4
    assert state.committed_at == committed_at == begin


def test_a_device_saved_again_is_replaced(store: Store) -> None:
    after(store, 3)
    device = DeviceSaved("gw-1", 7, None, "too small", "layout", 5, 1.5, ())
    store.apply([device])
    assert store.restore().devices[0] == device
    assert len(store.restore().devices) == 2


def test_ledger_lines_carry_utc_whatever_the_clock_s_zone(folder: Path) -> None:
    tokyo = datetime.timezone(datetime.timedelta(hours=9))
    with Store(folder, lambda: datetime.datetime(2026, 11, 24, 2, 0, 3, 512_999, tzinfo=tokyo)) as store:
        store.apply([], [Entry("drill")])
    assert [record.at for record in query(folder / "ledger.jsonl")] == ["2026-11-23T17:00:03.512Z"]


def test_changes_without_entries_leave_the_ledger_alone(store: Store) -> None:
    assert store.apply([EpochStarted(1)]) == GENESIS
    assert store.restore().epoch == 1


def test_a_batch_that_is_there_already_is_a_replay_and_writes_nothing(store: Store) -> None:
    head = after(store, 7).head
    closed = RoundClosed(1, "committed", "", 2, ("gw-1", "gw-2"))
    (version,) = [one.added for one in store.view.versions() if one.added.version == 2]
    assert store.apply([COUNTED], [Entry("update.counted")]) == head
    assert store.apply([version, closed], [Entry("round.commit")]) == head
    assert verify_folder(store.folder) == head


# ---- refusing -------------------------------------------------------------------------------------------------

VERSION = VersionAdded(2, 1, MODEL, "layout", "rollback", None, {}, "")
REFUSED: dict[str, tuple[int, Change, str]] = {
    "epoch again": (1, EpochStarted(1), "epoch 1 does not follow epoch 1"),
    "round number again": (7, OPENED, "round 1 does not follow round 1: round numbers are never used again"),
    "round number of an aborted round": (10, replace(OPENED, round=2), "never used again"),
    "round 0": (2, replace(OPENED, round=0), "does not follow"),
    "two open rounds": (4, replace(OPENED, round=2), "round 2 cannot open while round 1 is open"),
    "device twice in a cohort": (3, replace(OPENED, cohort=(("a", 0), ("a", 1))), "UNIQUE"),
    "unknown base": (3, replace(OPENED, base=9), "FOREIGN KEY"),
    "another update of a device": (5, replace(COUNTED, blob_id="cd" * 32), "another update of gw-1 is counted"),
    "update of nobody's round": (4, replace(COUNTED, round=9), "round 9 was never opened"),
    "update of a closed round": (10, replace(COUNTED, round=2), "round 2 is aborted already"),
    "update of a stranger": (4, replace(COUNTED, device="stranger"), "FOREIGN KEY"),
    "update with weight NaN": (4, replace(COUNTED, weight=float("nan")), "NOT NULL"),
    "update with metric NaN": (4, replace(COUNTED, metrics={"loss": float("nan")}), "metrics must be finite"),
    "update of 2^64 bytes": (4, replace(COUNTED, size=2**64), "cannot hold"),
    "reason with a lone surrogate": (4, RoundClosed(1, "aborted", "\ud800", None), "cannot hold"),
    "round closed otherwise": (7, RoundClosed(1, "aborted", "", None), "round 1 is committed already"),
    "round closed with other turns": (7, RoundClosed(1, "committed", "", 2), "round 1 is committed already"),
    "commit without a version": (4, RoundClosed(1, "committed", "", None), "CHECK"),
    "commit of an unknown version": (4, RoundClosed(1, "committed", "", 9), "FOREIGN KEY"),
    "unknown outcome": (4, RoundClosed(1, "lost", "", None), "CHECK"),
    "version number again": (7, VERSION, "version 2 does not follow version 2"),
    "version without its file": (2, replace(VERSION, model="ab" * 32), "whose file is not there"),
    "version with a path": (2, replace(VERSION, model="../state.sqlite"), "is not the SHA-256"),
    "version of unknown origin": (2, replace(VERSION, origin="hand"), "CHECK"),
    "version of an unknown round": (2, replace(VERSION, round=9), "FOREIGN KEY"),
    "version with an unknown parent": (2, replace(VERSION, parent=9), "FOREIGN KEY"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_change_that_breaks_a_rule_is_refused_whole_and_the_store_goes_on(
    folder: Path, expected: list[Snapshot], name: str
) -> None:
    steps, change, verdict = REFUSED[name]
    with Store(folder, now) as store:
        after(store, steps)
        before = snapshot(store)
        with pytest.raises(LocalMisuse, match=verdict):
            store.apply([DeviceSaved("new", 1, 0, "", "", 1, 0.0, ()), change], [Entry("never")])
        assert snapshot(store) == before
        assert verify_folder(folder) == store.head
        assert play(store, first=steps)[-1] == expected[-1]


def test_a_rollback_to_a_model_that_no_version_has_is_refused(store: Store) -> None:
    after(store, 2)
    path = store.models / ("ab" * 32 + ".safetensors")
    path.touch()
    with pytest.raises(LocalMisuse, match="which no version has"):
        store.apply([replace(VERSION, model="ab" * 32)])


def test_an_entry_that_json_does_not_hold_is_refused_before_anything_is_written(store: Store) -> None:
    with pytest.raises(LocalMisuse, match="JSON"):
        store.apply([EpochStarted(1)], [Entry("x", {"y": float("nan")})])
    assert store.restore().epoch == 0


# ---- other processes ------------------------------------------------------------------------------------------


def test_a_second_aggregator_on_the_same_folder_is_refused(store: Store) -> None:
    with pytest.raises(StoreLocked, match="using this folder"):
        Store(store.folder, now)


def test_a_view_sees_each_step_while_the_aggregator_writes(folder: Path, expected: list[Snapshot]) -> None:
    with Store(folder, now) as store, open_view(folder) as view:
        for step, (state, head) in zip(STEPS, expected[1:], strict=True):
            step(store, None)
            assert (view.restore(), view.ledger_head()) == (state, head)
            assert verify_folder(folder) == head


def test_a_view_cannot_change_anything(told: Path) -> None:
    with open_view(told) as view, pytest.raises(StoreError, match="readonly"):
        view._ask(lambda connection: connection.execute("DELETE FROM entries"))


def test_a_view_lists_rounds_versions_devices_and_updates(told: Path) -> None:
    with open_view(told) as view:
        assert [(one.opened.round, one.counted) for one in view.rounds()] == [(1, 2), (2, 1)]
        assert [one.closed and one.closed.outcome for one in view.rounds()] == ["committed", "aborted"]
        assert [one.opened.round for one in view.rounds(last=1)] == [2]
        assert [one.opened_at for one in view.rounds(last=1)] == ["2026-11-23T12:00:00.000Z"]
        assert [(one.added.version, one.added.origin) for one in view.versions()] == [
            (1, "initial"),
            (2, "round"),
            (3, "rollback"),
        ]
        assert [one.device for one in view.devices()] == ["gw-1", "gw-2"]
        assert [one.device for one in view.updates(1)] == ["gw-1", "gw-2"]
        assert view.version(2).metrics == {"accuracy/small": 0.8}


def test_an_unknown_version_names_those_that_there_are(told: Path, store: Store) -> None:
    with pytest.raises(ConfigError, match=r"no version 9; there are versions 1 to 3"):
        store.view.version(9)


def test_in_an_empty_store_an_unknown_version_says_that_there_is_none(store: Store) -> None:
    with pytest.raises(ConfigError, match="no version yet"):
        store.view.version(1)


def test_a_folder_without_state_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no state here") as caught, open_view(tmp_path):
        pass
    assert caught.value.where == str(tmp_path)


# ---- trouble --------------------------------------------------------------------------------------------------


def test_a_database_of_another_release_is_refused_with_the_remedy(told: Path) -> None:
    connection = sqlite3.connect(told / "state.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=r"schema 99, this release speaks 2; run the release"):
        Store(told, now)
    with pytest.raises(StoreError, match="schema 99"), open_view(told):
        pass


def test_a_damaged_database_is_told_and_nothing_is_touched(told: Path) -> None:
    (told / "state.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        Store(told, now)
    assert (told / "state.sqlite").read_bytes() == b"garbage" * 1000


def test_a_ledger_without_its_database_is_refused(told: Path) -> None:
    for name in ("state.sqlite", "state.sqlite-wal", "state.sqlite-shm"):
        (told / name).unlink(missing_ok=True)
    with pytest.raises(LedgerBroken, match="bytes that the database does not know"):
        Store(told, now)


def test_a_cut_ledger_is_reported_by_verify_and_completed_by_the_next_start(
    told: Path, expected: list[Snapshot]
) -> None:
    path = told / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"round.commit")])
    with pytest.raises(LedgerBroken, match="torn"):
        verify_folder(told)
    with Store(told, now) as store:
        assert store.completed == len(whole) - whole.index(b"round.commit")
        assert verify_folder(told) == expected[-1][1]
    assert path.read_bytes() == whole


def test_a_deleted_ledger_is_told_by_verify_and_its_rebuilding_is_on_the_record(
    told: Path, expected: list[Snapshot], caplog: pytest.LogCaptureFixture
) -> None:
    path = told / "ledger.jsonl"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(LedgerBroken, match="the ledger is gone; find out who deleted it"):
        verify_folder(told)
    for _ in range(2):  # a second start has nothing to add
        with Store(told, now) as store:
            assert store.head.seq == expected[-1][1].seq + 1
    assert f"{path} was deleted" in caplog.text
    assert verify_folder(told).seq == expected[-1][1].seq + 1
    assert path.read_bytes().startswith(whole)
    *_, last = read(path)
    assert (last.kind, last.facts) == ("ledger.rebuilt", {"lines": expected[-1][1].seq})


def test_a_new_folders_ledger_is_not_called_rebuilt(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    Store(folder, now).close()
    (folder / "ledger.jsonl").unlink()
    Store(folder, now).close()
    assert caplog.text == ""
    assert (folder / "ledger.jsonl").read_bytes() == b""


def test_another_program_that_writes_to_the_database_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhfl_mq.store.schema.BUSY_S", 0.01)
    with Store(folder, now) as store:
        other = sqlite3.connect(folder / "state.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked, match="another program holds the database"):
            store.apply([EpochStarted(1)])
        other.close()


def test_a_full_database_is_told_and_after_it_nothing_is_taken_until_a_restart(
    folder: Path, expected: list[Snapshot]
) -> None:
    def small(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA max_page_count = 26")  # what the empty tables need, and little more
        return connection

    with Store(folder, now, connect=small) as store:
        after(store, 3)
        with pytest.raises(StoreFull, match=r"state\.sqlite: no room left while writing the database; free space"):
            store.apply([EpochStarted(2)], [Entry("big", {"text": "x" * 100_000})])
        with pytest.raises(StoreError, match="a write failed before"):
            store.apply([EpochStarted(3)])
    with Store(folder, now) as store:
        assert snapshot(store) == expected[3]


def test_a_store_can_be_closed_twice(folder: Path) -> None:
    store = Store(folder, now)
    store.close()
    store.close()
