"""The holder's side: pulls are validated, merged, bounded and answered in turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse, PeerFault
from mhfl_mq.protocol.transfer_sender import QUEUE_LIMIT, Pulled, Send, Sender
from mhfl_mq.wire.blobs import build_manifest
from mhfl_mq.wire.messages import Manifest, Pull

ONE = build_manifest(bytes(range(200)), 64)  # 4 chunks
TWO = build_manifest(bytes(64 * 600), 64)  # 600 chunks


def pull(manifest: Manifest, *ranges: tuple[int, int]) -> Pull:
    return Pull(manifest.blob_id, ranges)


def sender(**options: int) -> Sender:
    made = Sender(**options)
    made.hold(ONE)
    made.hold(TWO)
    return made


def drain(made: Sender) -> list[tuple[str, int]]:
    found = []
    while send := made.next():
        found.append((send.peer, send.index))
        made.sent(send)
    return found


def test_a_pull_is_answered_with_the_bytes_of_its_chunks() -> None:
    made = sender()
    assert made.pull("dev", pull(ONE, (2, 4))) is Pulled.QUEUED
    assert made.next() == Send("dev", ONE.blob_id, 2, 128, 192)
    assert made.next() == Send("dev", ONE.blob_id, 3, 192, 200)
    assert made.next() is None


def test_a_pull_without_ranges_wants_the_manifest_and_an_unknown_blob_is_said_to_be_unknown() -> None:
    made = sender()
    assert made.pull("dev", pull(ONE)) is Pulled.MANIFEST
    made.drop(ONE.blob_id)
    made.drop(ONE.blob_id)
    assert made.pull("dev", pull(ONE, (0, 1))) is Pulled.UNKNOWN
    assert drain(made) == []


@pytest.mark.parametrize("bad", [(0, 5), (4, 5), (2, 2), (3, 1), (-1, 2)])
def test_a_range_that_the_blob_does_not_have_is_a_fault_and_queues_nothing(bad: tuple[int, int]) -> None:
    made = sender()
    with pytest.raises(PeerFault, match=rf"pull of {ONE.blob_id[:16]}: asks for chunks {bad[0]}\.\.{bad[1]} of 4"):
        made.pull("dev", pull(ONE, (0, 1), bad))
    assert made.waiting == 0


def test_what_waits_or_is_on_its_way_is_not_queued_twice() -> None:
    made = sender()
    made.pull("dev", pull(ONE, (0, 2)))
    send = made.next()
    assert send is not None
    made.pull("dev", pull(ONE, (0, 3)))
    assert made.waiting == 2
    made.sent(send)
    made.pull("dev", pull(ONE, (0, 1)))  # acknowledged by the broker and lost behind it
    assert drain(made) == [("dev", 1), ("dev", 2), ("dev", 0)]
    assert made.pull("dev", pull(ONE, (0, 1), (0, 1))) is Pulled.QUEUED
    assert drain(made) == [("dev", 0)]


def test_a_pull_of_nothing_new_leaves_no_empty_queue_behind() -> None:
    made = sender()
    made.pull("dev", pull(ONE, (0, 1)))
    assert made.next() is not None
    assert made.pull("dev", pull(ONE, (0, 1))) is Pulled.QUEUED
    assert made.next() is None


def test_the_same_chunk_goes_to_every_peer_that_asked() -> None:
    made = sender()
    made.pull("a", pull(ONE, (0, 1)))
    made.pull("b", pull(ONE, (0, 1)))
    assert drain(made) == [("a", 0), ("b", 0)]


def test_peers_take_turns() -> None:
    made = sender()
    made.pull("greedy", pull(TWO, (0, 6)))
    made.pull("modest", pull(ONE, (0, 2)))
    assert [peer for peer, _ in drain(made)] == ["greedy", "modest"] * 2 + ["greedy"] * 4


def test_a_peers_queue_is_bounded_and_the_rest_is_dropped() -> None:
    made = sender()
    made.pull("greedy", pull(TWO, (0, 600)))
    assert made.waiting == QUEUE_LIMIT
    assert made.dropped == 600 - QUEUE_LIMIT
    made.pull("modest", pull(ONE, (0, 4)))
    assert made.waiting == QUEUE_LIMIT + 4


def test_no_more_is_in_flight_than_allowed() -> None:
    made = sender(in_flight=2)
    made.pull("dev", pull(ONE, (0, 4)))
    first, second = made.next(), made.next()
    assert first is not None
    assert second is not None
    assert made.next() is None
    made.sent(first)
    assert made.next() is not None
    assert made.next() is None


def test_a_dropped_blob_and_a_forgotten_peer_leave_the_queues() -> None:
    made = sender()
    made.pull("a", pull(ONE, (0, 4)))
    made.pull("a", pull(TWO, (0, 1)))
    made.pull("b", pull(ONE, (0, 4)))
    made.pull("c", pull(TWO, (5, 7)))
    made.drop(ONE.blob_id)
    made.forget("c")
    made.forget("never seen")
    assert drain(made) == [("a", 0)]


@pytest.mark.parametrize("options", [{"in_flight": 0}, {"queue_limit": 0}])
def test_senseless_limits_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(LocalMisuse, match="at least 1"):
        Sender(**options)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([ONE, TWO]), st.integers(0, 3), st.integers(1, 4))))
def test_everything_asked_for_is_sent_once(asked: list[tuple[str, Manifest, int, int]]) -> None:
    made = sender()
    wanted = set()
    for peer, manifest, start, length in asked:
        stop = min(start + length, 4)
        made.pull(peer, pull(manifest, (start, stop)))
        wanted |= {(peer, manifest.blob_id, index) for index in range(start, stop)}
    sent = []
    while send := made.next():
        sent.append((send.peer, send.blob_id, send.index))
        made.sent(send)
    assert len(sent) == len(set(sent))
    assert set(sent) == wanted
