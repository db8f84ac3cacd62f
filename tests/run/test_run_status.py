"""The board: counts over all lives of a folder, and never stops a federation."""

import asyncio
import datetime
import json
from pathlib import Path

import pytest

from mhfl_mq.protocol.effects import Merge, Persist
from mhfl_mq.protocol.records import RoundClosed, RoundOpened, UpdateCounted
from mhfl_mq.run.clock import SystemClock, seeded_luck
from mhfl_mq.run.status import BOARD, StatusBoard, read_board
from mhfl_mq.run.traffic import Traffic


class Hands:
    """A clock that the test turns."""

    at = 0.0

    def now(self) -> datetime.datetime:
        return datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Hands:
    return Hands()


def board_of(folder: Path, clock: Hands, trainings: int = 0) -> tuple[StatusBoard, Traffic]:
    facts = {"state": "in round", "round": {"number": 1}, "present": ["ada"]}
    board, traffic = StatusBoard(folder, clock, [40, 100], lambda: facts, trainings=trainings), Traffic()
    board.watch(traffic, lambda: clock.at < 100)
    return board, traffic


def play_round(board: StatusBoard, clock: Hands) -> None:
    board.saw(Persist((RoundOpened(1, 0, "p", 1, (("ada", 0), ("bob", 1))),)))
    clock.at += 10
    counted = UpdateCounted(1, "ada", 0, "b", 160, 1.0, {"seconds": 4.0, "saved_bytes": 120.0})
    board.saw(Persist((counted,)))
    board.saw(Merge(1))
    clock.at += 2
    board.saw(Persist((RoundClosed(1, "committed", "", 1),)))
    board.saw(Persist((RoundClosed(2, "aborted", "", None),)))


def test_the_board_shows_whether_the_broker_is_there(tmp_path: Path, clock: Hands) -> None:
    board, _ = board_of(tmp_path, clock)
    assert board.show()["connected"] is True
    clock.at = 100
    assert board.show()["connected"] is False
    assert StatusBoard(tmp_path, clock, [40, 100], dict).show()["connected"] is False


def test_a_round_is_counted_in_bytes_and_seconds(tmp_path: Path, clock: Hands) -> None:
    board, traffic = board_of(tmp_path, clock)
    traffic.out("carousel", 400)
    traffic.into("all", 160)
    play_round(board, clock)
    shown = board.show()
    assert shown["bytes"] == {"up": 160, "down": 400, "down_if_unicast": 4 * 140, "up_saved": 120}
    assert shown["seconds"] == {"train": 4.0, "collect": 10.0, "merge": 2.0}
    assert (shown["trainings"], shown["state"], shown["at"]) == (1, "in round", "2026-11-23T00:00:00+00:00")


def test_a_new_process_goes_on_counting(tmp_path: Path, clock: Hands) -> None:
    for life in range(3):
        board, traffic = board_of(tmp_path, clock, trainings=life)
        traffic.out("head", 100)
        play_round(board, clock)
        board.write()
    shown = read_board(tmp_path)
    assert shown["bytes"] == {"up": 0, "down": 300, "down_if_unicast": 3 * 560, "up_saved": 360}
    assert shown["seconds"]["merge"] == 6.0
    assert shown["trainings"] == 3


def test_the_last_board_of_a_process_says_that_it_stopped_and_not_who_is_here(tmp_path: Path, clock: Hands) -> None:
    board, traffic = board_of(tmp_path, clock)
    board.write()
    assert (read_board(tmp_path)["state"], read_board(tmp_path)["present"]) == ("in round", ["ada"])
    traffic.out("head", 7)
    board.end()
    shown = read_board(tmp_path)
    assert (shown["state"], shown["round"], shown["present"]) == ("stopped", None, None)
    assert shown["bytes"]["down"] == 7


def test_lives_that_wrote_no_last_board_are_counted_for_their_last_second_is_not(tmp_path: Path, clock: Hands) -> None:
    for kills in (0, 1, 2):
        board, _ = board_of(tmp_path, clock)
        board.write()
        assert read_board(tmp_path)["kills"] == kills
    board_of(tmp_path, clock)[0].end()
    assert board_of(tmp_path, clock)[0].show()["kills"] == 3


def test_trainings_are_those_of_the_store_also_when_the_last_board_missed_some(tmp_path: Path, clock: Hands) -> None:
    board, _ = board_of(tmp_path, clock)
    board.write()
    after_the_kill, _ = board_of(tmp_path, clock, trainings=2)
    play_round(after_the_kill, clock)
    assert after_the_kill.show()["trainings"] == 3


def test_a_board_that_cannot_be_written_costs_the_board_alone(tmp_path: Path, clock: Hands) -> None:
    board, _ = board_of(tmp_path, clock)
    (tmp_path / BOARD).mkdir()
    board.write()
    assert [one.name for one in tmp_path.iterdir()] == [BOARD]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff"])
def test_a_damaged_board_reads_as_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / BOARD).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_board(tmp_path) == {}


def test_the_board_is_written_every_second(virtual: asyncio.Runner, tmp_path: Path, clock: Hands) -> None:
    async def main() -> None:
        board, traffic = board_of(tmp_path, clock)
        keeping = asyncio.create_task(board.keep())
        await asyncio.sleep(0.5)
        traffic.out("head", 7)
        await asyncio.sleep(1)
        assert json.loads((tmp_path / BOARD).read_text())["bytes"]["down"] == 7
        keeping.cancel()

    virtual.run(main())


def test_the_systems_clock_grows_and_knows_utc() -> None:
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.now().tzinfo is datetime.UTC


def test_luck_of_a_seed_is_the_same_luck() -> None:
    assert seeded_luck(7).random() == seeded_luck(7).random()
    assert seeded_luck().random() != seeded_luck().random()


def test_a_round_that_ends_right_after_another_does_not_write_the_board_again(tmp_path: Path, clock: Hands) -> None:
    board, traffic = board_of(tmp_path, clock)
    board.round_ended()
    traffic.out("carousel", 400)
    clock.at += 0.1
    board.round_ended()
    assert read_board(tmp_path)["bytes"]["down"] == 0
    clock.at += 0.2
    board.round_ended()
    assert read_board(tmp_path)["bytes"]["down"] == 400
