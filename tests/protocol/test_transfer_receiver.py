"""The receiver: window, re-asks, bad chunks, carousel, resume."""

import pytest

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.protocol.transfer_receiver import (
    BAD_LIMIT,
    TIMEOUT_CAP_S,
    TIMEOUT_S,
    Action,
    Ask,
    Complete,
    GaveUp,
    Phase,
    Receiver,
    Write,
)
from mhfl_mq.wire.blobs import Chunk, build_manifest

BLOB = b"".join(bytes([index]) * 64 for index in range(20))
MANIFEST = build_manifest(BLOB, 64)
PREFIX = MANIFEST.blob_id[:32]


def chunk(index: int, data: bytes | None = None) -> Chunk:
    return Chunk(PREFIX, index, memoryview(BLOB[index * 64 : index * 64 + 64] if data is None else data))


def feed(receiver: Receiver, now: float, *indexes: int) -> list[Action]:
    return [action for index in indexes for action in receiver.take(chunk(index), now) if not isinstance(action, Write)]


def started(**options: float) -> Receiver:
    receiver = Receiver(MANIFEST, **options)  # type: ignore[arg-type]
    assert receiver.start(0.0) == [Ask(((0, 8),))]
    return receiver


# ---- window ------------------------------------------------------------------------------------------------------


def test_it_asks_for_a_window_and_for_more_when_half_of_it_is_in() -> None:
    receiver = started()
    assert feed(receiver, 0.1, 0, 1, 2) == []
    assert feed(receiver, 0.1, 3) == [Ask(((8, 12),))]
    assert receiver.outstanding == 8
    assert feed(receiver, 0.2, 4, 5, 6, 7) == [Ask(((12, 16),))]
    assert feed(receiver, 0.3, *range(8, 16)) == [Ask(((16, 20),))]
    assert feed(receiver, 0.4, *range(16, 20)) == [Complete()]
    assert receiver.phase is Phase.COMPLETE
    assert receiver.due is None


def test_a_window_of_one_asks_for_one_at_a_time() -> None:
    receiver = Receiver(MANIFEST, window=1)
    assert receiver.start(0.0) == [Ask(((0, 1),))]
    assert feed(receiver, 0.0, 0) == [Ask(((1, 2),))]


def test_a_good_chunk_is_written_at_its_place() -> None:
    assert started().take(chunk(5), 0.1) == [Write(320, memoryview(BLOB[320:384]))]


def test_a_chunk_that_nobody_asked_for_is_welcome() -> None:
    receiver = started()
    assert receiver.take(chunk(19), 0.1) == [Write(19 * 64, memoryview(BLOB[19 * 64 :]))]
    assert feed(receiver, 0.2, *range(19)) == [Ask(((8, 12),)), Ask(((12, 16),)), Ask(((16, 19),)), Complete()]


def test_repeats_and_chunks_of_other_blobs_are_ignored() -> None:
    receiver = started()
    feed(receiver, 0.1, 0)
    assert receiver.take(chunk(0), 0.2) == []
    assert receiver.take(Chunk("0" * 32, 1, memoryview(BLOB[64:128])), 0.2) == []
    assert (receiver.duplicates, receiver.bad, receiver.missing) == (1, 0, 19)


def test_an_empty_blob_and_a_finished_one_are_complete_at_once() -> None:
    assert Receiver(build_manifest(b"")).start(0.0) == [Complete()]
    receiver = Receiver(MANIFEST, b"\xff\xff\xff")
    assert receiver.start(0.0) == [Complete()]
    assert receiver.take(chunk(0), 0.0) == []
    assert receiver.duplicates == 1


def test_it_starts_once() -> None:
    receiver = started()
    with pytest.raises(LocalMisuse, match="started twice"):
        receiver.start(1.0)


@pytest.mark.parametrize("options", [{"window": 0}, {"timeout_s": 0.0}, {"bad_limit": -1}, {"listen_s": -1.0}])
def test_senseless_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(LocalMisuse, match="window"):
        Receiver(MANIFEST, **options)  # type: ignore[arg-type]


# ---- resume ------------------------------------------------------------------------------------------------------


def test_it_resumes_from_the_bitmap_and_asks_only_for_what_is_missing() -> None:
    first = started()
    feed(first, 0.1, 0, 1, 2, 9, 19)
    again = Receiver(MANIFEST, first.bitmap())
    assert again.missing == 15
    assert again.start(0.0) == [Ask(((3, 9), (10, 12)))]
    assert again.bitmap() == first.bitmap()


def test_a_bitmap_of_another_length_is_taken_as_far_as_it_goes() -> None:
    assert Receiver(MANIFEST, b"\xff").missing == 12
    assert Receiver(MANIFEST, b"\xff" * 9).missing == 0


# ---- time --------------------------------------------------------------------------------------------------------


def test_what_is_late_is_asked_for_again_with_growing_pauses_until_something_comes() -> None:
    receiver = started()
    now = 0.0
    for pause in (3.0, 6.0, 12.0, 24.0, 48.0, TIMEOUT_CAP_S, TIMEOUT_CAP_S):
        assert receiver.due == now + pause
        assert receiver.tick(now + pause - 0.01) == []
        now += pause
        assert receiver.tick(now) == [Ask(((0, 8),))]
    assert receiver.asked_again == 7 * 8
    feed(receiver, now, 0)
    assert receiver.due is not None
    assert receiver.due > now + TIMEOUT_S  # the long wait for chunk 0 made it patient


def test_only_what_is_old_enough_is_asked_for_again() -> None:
    receiver = started()
    feed(receiver, 0.1, 0, 1, 2)
    feed(receiver, 2.0, 3)  # asks for 8..12 at 2.0
    due = receiver.due
    assert due is not None
    assert receiver.tick(due) == [Ask(((4, 8),))]
    assert receiver.due == 2.0 + 2 * TIMEOUT_S  # the younger ones, and no chunk came in between


def test_on_a_slow_line_it_learns_to_wait() -> None:
    receiver = started()
    now = 0.0
    for index in range(8):
        now += 2.5  # each chunk takes 2.5 s, so the last of the window comes after 20 s
        assert not receiver.tick(now - 0.1)
        feed(receiver, now, index)
    assert receiver.asked_again == 0


def test_nothing_is_late_while_the_broker_is_gone() -> None:
    receiver = started()
    receiver.disconnected()
    assert receiver.due is None
    assert receiver.tick(1000.0) == []
    assert receiver.connected(1000.0, True) == []
    assert receiver.due == 1000.0 + TIMEOUT_S
    assert receiver.tick(1003.0) == [Ask(((0, 8),))]


def test_without_our_session_everything_is_asked_for_again_at_once() -> None:
    receiver = started()
    receiver.disconnected()
    assert receiver.connected(10.0, False) == [Ask(((0, 8),))]


def test_a_window_that_emptied_while_the_broker_was_gone_is_filled_when_it_is_back() -> None:
    receiver = started()
    receiver.disconnected()
    assert feed(receiver, 0.1, *range(8)) == []
    assert receiver.connected(1.0, True) == [Ask(((8, 16),))]


def test_a_receiver_that_is_not_started_or_done_has_nothing_to_do_with_connections() -> None:
    receiver = Receiver(MANIFEST)
    assert receiver.due is None
    assert receiver.take(chunk(0), 0.0) == []
    receiver.disconnected()
    assert receiver.connected(0.0, False) == []


# ---- bad chunks --------------------------------------------------------------------------------------------------


def test_a_bad_chunk_is_asked_for_again_at_once() -> None:
    receiver = started()
    assert receiver.take(chunk(3, b"!" * 64), 0.1) == [Ask(((3, 4),))]
    assert receiver.take(chunk(3, BLOB[:10]), 0.1) == [Ask(((3, 4),))]
    assert receiver.take(chunk(15, b"!" * 64), 0.1) == []  # nobody asked for it
    assert receiver.take(chunk(99, b"!"), 0.1) == []  # the blob has no such chunk
    receiver.disconnected()
    assert receiver.take(chunk(3, b"!" * 64), 0.1) == []
    assert receiver.bad == 5


def test_too_many_bad_chunks_end_it_with_a_reason() -> None:
    receiver = started()
    for _ in range(BAD_LIMIT):
        assert receiver.take(chunk(0, b"!" * 64), 0.1) == [Ask(((0, 1),))]
    (end,) = receiver.take(chunk(0, b"!" * 64), 0.1)
    assert isinstance(end, GaveUp)
    assert end.reason.startswith(f"17 bad chunks of blob {PREFIX}")
    assert receiver.phase is Phase.GAVE_UP
    assert receiver.due is None
    assert receiver.take(chunk(1), 0.2) == []


# ---- carousel ----------------------------------------------------------------------------------------------------


def listening() -> Receiver:
    receiver = Receiver(MANIFEST, listen_s=2.0)
    assert receiver.start(0.0) == []
    assert receiver.phase is Phase.LISTENING
    return receiver


def test_it_takes_the_carousel_without_asking() -> None:
    receiver = listening()
    assert feed(receiver, 1.0, *range(20)) == [Complete()]


def test_when_the_carousel_has_passed_it_pulls_what_it_missed() -> None:
    receiver = listening()
    assert feed(receiver, 1.0, *range(5, 19)) == []
    assert feed(receiver, 1.1, 19) == [Ask(((0, 5),))]


def test_a_repeat_of_the_last_chunk_is_a_passing_too() -> None:
    receiver = Receiver(MANIFEST, b"\0\0\x08", listen_s=2.0)
    receiver.start(0.0)
    assert receiver.take(chunk(19), 0.5) == [Ask(((0, 8),))]


def test_a_quiet_carousel_is_waited_for_and_then_pulled_from() -> None:
    receiver = listening()
    assert receiver.due == 2.0
    feed(receiver, 1.5, 0)
    assert receiver.due == 3.5
    assert receiver.tick(3.4) == []
    assert receiver.tick(3.5) == [Ask(((1, 9),))]


def test_a_broker_that_was_gone_gives_the_carousel_its_time_again() -> None:
    receiver = listening()
    receiver.disconnected()
    assert receiver.tick(50.0) == []
    assert feed(receiver, 50.0, 19) == []  # the last of the carousel, taken out of the queue when the line was down
    assert receiver.connected(60.0, False) == []
    assert receiver.tick(62.0) == [Ask(((0, 8),))]
