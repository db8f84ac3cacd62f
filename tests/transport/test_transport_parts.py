"""The small parts under the transport: backoff, outbox, inbox, filters, packet sizes."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import TransportError
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.base import Inbound
from mhfl_mq.transport.filters import matches
from mhfl_mq.transport.inbox import FULL_BYTES, FULL_MESSAGES, Feed, Inbox
from mhfl_mq.transport.link import Message, packet_size
from mhfl_mq.transport.outbox import Outbox, Outgoing


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40))
def test_waits_lie_under_a_bound_that_doubles_up_to_the_cap(luck: list[float]) -> None:
    draws = iter(luck)
    backoff = Backoff(lambda: next(draws), first_s=1.0, cap_s=60.0)
    for failure, share in enumerate(luck):
        bound = min(60.0, 2.0**failure)
        assert backoff.next_s() == pytest.approx(share * bound)


def test_a_good_connection_starts_the_waits_over() -> None:
    backoff = Backoff(lambda: 0.5, first_s=1.0, cap_s=60.0)
    assert [backoff.next_s(), backoff.next_s(), backoff.next_s()] == [0.5, 1.0, 2.0]
    backoff.reset()
    assert backoff.next_s() == 0.5


@pytest.mark.parametrize(
    ("topic_filter", "topic", "match"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/+/c", "a//c", True),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter: str, topic: str, match: bool) -> None:
    assert matches(topic_filter, topic) is match


@pytest.mark.parametrize(
    ("message", "protocol", "size"),
    [
        (Message("ab", b"", 0, False), 4, 2 + 4),
        (Message("ab", b"xyz", 1, False), 4, 2 + 4 + 2 + 3),
        (Message("ab", b"xyz", 1, False), 5, 2 + 4 + 2 + 1 + 3),
        (Message("ab", b"xyz", 1, False, 60), 5, 2 + 4 + 2 + 6 + 3),
        (Message("ab", bytes(128), 0, False), 4, 3 + 4 + 128),
        (Message("ab", bytes(16_384), 0, False), 4, 4 + 4 + 16_384),
        (Message("ab", bytes(2_097_152), 0, False), 4, 5 + 4 + 2_097_152),
    ],
)
def test_a_packet_has_the_size_that_the_standard_gives_it(message: Message, protocol: int, size: int) -> None:
    assert packet_size(message, protocol) == size


def outgoing(qos: int = 1) -> Outgoing:
    return Outgoing(Message("t", b"", qos, False), asyncio.get_running_loop().create_future())


async def test_what_flew_goes_back_in_front_with_its_packet_id() -> None:
    box = Outbox()
    items = [outgoing() for _ in range(4)]
    for item in items:
        box.add(item)
    assert [box.fly(), box.fly()] == items[:2]
    assert box.flying == 2
    assert box.ground() == items[:2]
    assert box.flying == 0
    again = [box.fly() for _ in range(4)]
    assert again == items
    assert [item.packet_id for item in again] == [1, 2, 3, 4]
    assert [item.sent for item in again] == [2, 2, 1, 1]
    assert box.land(1) is items[0]
    assert box.land(1) is None


async def test_packet_ids_stay_in_the_lower_half_and_are_not_used_twice() -> None:
    box = Outbox()
    held = outgoing()
    box.add(held)
    box.fly()
    for _ in range(0x7FFF):
        item = outgoing()
        box.add(item)
        box.fly()
        assert 2 <= item.packet_id <= 0x7FFF
        box.land(item.packet_id)


async def test_a_caller_who_gave_up_is_forgotten() -> None:
    box = Outbox()
    first, second = outgoing(), outgoing(0)
    box.add(first)
    box.add(second)
    first.done.cancel()
    assert box.head() is second
    assert box.fly().packet_id == 0
    assert box.head() is None


async def test_every_caller_learns_of_the_end() -> None:
    box = Outbox()
    items = [outgoing(), outgoing()]
    for item in items:
        box.add(item)
    box.fly()
    box.fail(TransportError("over"))
    for item in items:
        with pytest.raises(TransportError, match="over"):
            await item.done


def message(payload: bytes = b"", qos: int = 1) -> Inbound:
    return Inbound("t", payload, qos, False, 1 if qos else 0)


async def test_a_feed_gives_what_it_has_and_then_its_end() -> None:
    feed: Feed[int] = Feed()
    waiting = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)
    feed.put(1)
    assert await waiting == 1
    feed.put(2)
    feed.end()
    feed.put(3)
    assert [item async for item in feed] == [2]


async def test_a_feed_that_fails_fails_for_good() -> None:
    feed: Feed[int] = Feed()
    feed.put(1)
    feed.end(TransportError("gone"))
    assert await anext(feed) == 1
    for _ in range(2):
        with pytest.raises(TransportError, match="gone"):
            await anext(feed)


async def test_a_cancelled_reader_loses_nothing() -> None:
    feed: Feed[int] = Feed()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(feed), 0.001)
    feed.put(1)
    assert await anext(feed) == 1


@pytest.mark.parametrize(("count", "size"), [(FULL_MESSAGES, 0), (4, FULL_BYTES // 4)])
async def test_an_inbox_says_when_it_is_full_and_when_it_is_half_empty(count: int, size: int) -> None:
    changes: list[bool] = []
    inbox = Inbox(lambda: changes.append(inbox.full))
    for _ in range(count):
        inbox.put(message(bytes(size)))
    assert changes == [True]
    taken = 0
    while inbox.full:
        await anext(inbox)
        taken += 1
    assert changes == [True, False]
    assert taken == count // 2


async def test_past_overfull_only_what_promises_nothing_is_dropped() -> None:
    inbox = Inbox(_ignore)
    for _ in range(5 * FULL_MESSAGES):
        inbox.put(message(b"0", qos=0))
    assert inbox.dropped == FULL_MESSAGES
    inbox.put(message(b"1"))
    inbox.forget_unacknowledged()
    inbox.end()
    left = [item async for item in inbox]
    assert len(left) == 4 * FULL_MESSAGES
    assert all(item.qos == 0 for item in left)


_ignore: Callable[[], None] = lambda: None  # noqa: E731
