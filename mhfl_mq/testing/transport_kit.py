"""What every transport must do, as checks that run against any broker: in memory, mosquitto, NATS, yours.

    for check in CHECKS:
        await check(lab)

`lab` makes transports to one broker. A check raises `AssertionError` with what it saw; it uses topics and client
ids of its own, so that checks may share a broker. None needs pytest.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from mhfl_mq.errors import PacketTooLarge, TransportError
from mhfl_mq.transport.base import Inbound, Limits, Session, Transport, Will

__all__ = ["CHECKS", "Breakable", "Check", "Lab"]

WAIT_S = 20.0  # for what must come
QUIET_S = 0.3  # for what must not come; only where no later message can stand for "nothing came before"


class Breakable(Transport, Protocol):
    """A transport whose connection a test can break."""

    def cut(self) -> None:
        """Break the connection as a network fault would; the transport then reconnects."""
        ...

    def kill(self) -> None:
        """End as `kill -9` of this process would: no goodbye, no return."""
        ...


class Lab(Protocol):
    """A broker under test."""

    def transport(self) -> Breakable:
        """A new transport to it, not yet connected."""
        ...

    async def restart(self, *, forget: bool) -> None:
        """Kill the broker and start it again; `forget`: without anything that it kept."""
        ...


Check = Callable[[Lab], Awaitable[None]]


@asynccontextmanager
async def _joined(
    lab: Lab, client_id: str, *, will: Will | None = None, clean: bool = False
) -> AsyncIterator[Breakable]:
    transport = lab.transport()
    await transport.connect(Session(client_id, will=will, clean=clean))
    try:
        yield transport
    finally:
        await transport.close()


async def _take(box: AsyncIterator[Inbound]) -> Inbound:
    return await asyncio.wait_for(anext(box), WAIT_S)


async def _take_payloads(transport: Transport, count: int) -> list[bytes]:
    """So many messages, each acknowledged; repeats of the last ones are left out."""
    box, seen = transport.inbox(), dict[bytes, None]()
    while len(seen) < count:
        message = await _take(box)
        transport.ack(message.token)
        seen[bytes(message.payload)] = None
    return list(seen)


async def _publish_all(transport: Transport, topic: str, payloads: list[bytes]) -> None:
    await asyncio.gather(*(transport.publish(topic, payload) for payload in payloads))


def _numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


# ---- messages -------------------------------------------------------------------------------------------------


async def carries_both_qualities(lab: Lab) -> None:
    """QoS 0 and QoS 1 arrive; only QoS 1 has a token."""
    async with _joined(lab, "kit-qos-a") as sender, _joined(lab, "kit-qos-b") as receiver:
        await receiver.subscribe([("kit/qos/+", 1)])
        await sender.publish("kit/qos/0", b"zero", qos=0)
        first = await _take(receiver.inbox())
        await sender.publish("kit/qos/1", b"one", qos=1)
        second = await _take(receiver.inbox())
        receiver.ack(second.token)
        assert (first.topic, bytes(first.payload), first.qos, first.token) == ("kit/qos/0", b"zero", 0, 0)
        assert (second.topic, bytes(second.payload), second.qos) == ("kit/qos/1", b"one", 1)
        assert second.token
        assert not second.retained


async def carries_what_may_expire(lab: Lab) -> None:
    """An expiry changes nothing for who is there, and for who comes in time."""
    async with _joined(lab, "kit-expiry-b", clean=True) as receiver:
        await receiver.subscribe([("kit/expiry/#", 1)])
        async with _joined(lab, "kit-expiry-a", clean=True) as sender:
            await sender.publish("kit/expiry/now", b"now", expiry_s=60)
            assert await _take_payloads(receiver, 1) == [b"now"]
            await receiver.close()
            await sender.publish("kit/expiry/later", b"later", expiry_s=60)
    async with _joined(lab, "kit-expiry-b") as receiver:
        assert await _take_payloads(receiver, 1) == [b"later"]


async def keeps_the_order_of_publishes(lab: Lab) -> None:
    """Many publishes at once are sent within the window and arrive in the order of the calls."""
    async with _joined(lab, "kit-order-a") as sender, _joined(lab, "kit-order-b") as receiver:
        await receiver.subscribe([("kit/order", 1)])
        sending = asyncio.create_task(_publish_all(sender, "kit/order", _numbers(200)))
        got = await _take_payloads(receiver, 200)
        await sending
        assert got == _numbers(200), got


async def carries_large_payloads_whole(lab: Lab) -> None:
    """Chunks of 256 KiB, as bytes and as memoryview, arrive byte for byte."""
    async with _joined(lab, "kit-large-a") as sender, _joined(lab, "kit-large-b") as receiver:
        await receiver.subscribe([("kit/large", 1)])
        chunks = [hashlib.shake_128(b"%d" % number).digest(256 * 1024) for number in range(8)]
        sending = [asyncio.create_task(sender.publish("kit/large", memoryview(chunk))) for chunk in chunks[:4]]
        sending += [asyncio.create_task(sender.publish("kit/large", chunk)) for chunk in chunks[4:]]
        got = await _take_payloads(receiver, len(chunks))
        await asyncio.gather(*sending)
        assert got == chunks


async def matches_wildcards(lab: Lab) -> None:
    """`+` is one level, `#` the rest."""
    async with _joined(lab, "kit-wild-a") as sender, _joined(lab, "kit-wild-b") as receiver:
        await receiver.subscribe([("kit/wild/d/+/status", 1), ("kit/wild/d/+/out/+", 1), ("kit/wild/all/#", 0)])
        topics = ["d/x/status", "d/x/y/status", "d/x/out/evt", "d/x/out", "d/x/in/cmd", "all/a", "all/a/b"]
        for topic in topics:
            await sender.publish(f"kit/wild/{topic}", topic.encode())
        await sender.publish("kit/wild/d/last/status", b"last")
        # QoS 0 may overtake QoS 1, so the two kinds are told apart before they are compared.
        got = [payload async for payload in _until(receiver, b"last", minimum=6)]
        assert sorted(got) == sorted([b"d/x/status", b"d/x/out/evt", b"all/a", b"all/a/b", b"last"]), got


async def _until(transport: Transport, last: bytes, *, minimum: int) -> AsyncIterator[bytes]:
    count, seen_last = 0, False
    async for message in transport.inbox():
        transport.ack(message.token)
        count += 1
        seen_last = seen_last or bytes(message.payload) == last
        yield bytes(message.payload)
        if seen_last and count >= minimum - 1:
            return


async def stops_after_unsubscribe(lab: Lab) -> None:
    """A filter that was taken away brings nothing more."""
    async with _joined(lab, "kit-unsub-a") as sender, _joined(lab, "kit-unsub-b") as receiver:
        await receiver.subscribe([("kit/unsub/x", 1), ("kit/unsub/y", 1)])
        await receiver.unsubscribe(["kit/unsub/x"])
        await sender.publish("kit/unsub/x", b"unwanted")
        await sender.publish("kit/unsub/y", b"wanted")
        assert await _take_payloads(receiver, 1) == [b"wanted"]


async def refuses_a_packet_above_the_limit(lab: Lab) -> None:
    """`PacketTooLarge` before anything is sent; the connection goes on."""
    async with _joined(lab, "kit-limit-a") as sender, _joined(lab, "kit-limit-b") as receiver:
        await receiver.subscribe([("kit/limit", 1)])
        try:
            await asyncio.wait_for(sender.publish("kit/limit", bytes(sender.limits.max_packet)), WAIT_S)
        except PacketTooLarge:
            pass
        else:
            raise AssertionError("a packet above the broker's limit was taken")
        assert sender.connected
        await sender.publish("kit/limit", b"small")
        assert await _take_payloads(receiver, 1) == [b"small"]


# ---- what the broker keeps ------------------------------------------------------------------------------------


async def retains_and_clears(lab: Lab) -> None:
    """A late subscriber gets the last retained message, marked; an empty one clears it."""
    async with _joined(lab, "kit-retain-a") as sender:
        await sender.publish("kit/retain/x", b"old", retain=True)
        await sender.publish("kit/retain/x", b"new", retain=True)
        async with _joined(lab, "kit-retain-b", clean=True) as receiver:
            await receiver.subscribe([("kit/retain/+", 1)])
            message = await _take(receiver.inbox())
            receiver.ack(message.token)
            assert (bytes(message.payload), message.retained) == (b"new", True), message
            await sender.publish("kit/retain/x", b"live", retain=True)
            message = await _take(receiver.inbox())
            receiver.ack(message.token)
            assert (bytes(message.payload), message.retained) == (b"live", False), message
        await sender.publish("kit/retain/x", b"", retain=True)
        async with _joined(lab, "kit-retain-c", clean=True) as receiver:
            await receiver.subscribe([("kit/retain/+", 1)])
            await sender.publish("kit/retain/x", b"after")
            assert await _take_payloads(receiver, 1) == [b"after"]


async def sends_the_will_of_the_killed(lab: Lab) -> None:
    """A client that dies leaves its will, retained."""
    async with _joined(lab, "kit-will-a", clean=True) as watcher:
        await watcher.subscribe([("kit/will/x", 1)])
        victim = lab.transport()
        await victim.connect(Session("kit-will-b", will=Will("kit/will/x", b"gone")))
        victim.kill()
        assert await _take_payloads(watcher, 1) == [b"gone"]
        async with _joined(lab, "kit-will-c", clean=True) as late:
            await late.subscribe([("kit/will/x", 1)])
            message = await _take(late.inbox())
            late.ack(message.token)
            assert (bytes(message.payload), message.retained) == (b"gone", True)
        await watcher.publish("kit/will/x", b"", retain=True)


async def sends_no_will_after_a_goodbye(lab: Lab) -> None:
    """A client that closes leaves no will, even with messages unread."""
    async with _joined(lab, "kit-bye-a") as watcher:
        await watcher.subscribe([("kit/bye/x", 1)])
        async with _joined(lab, "kit-bye-b", will=Will("kit/bye/x", b"gone"), clean=True) as leaver:
            await leaver.subscribe([("kit/bye/noise", 0)])
            for _ in range(20):
                await watcher.publish("kit/bye/noise", bytes(1000), qos=0)
        await watcher.publish("kit/bye/x", b"still quiet")
        assert await _take_payloads(watcher, 1) == [b"still quiet"]


async def keeps_the_session_of_the_absent(lab: Lab) -> None:
    """Messages for a client that is away wait for it, in order; `clean` forgets them."""
    async with _joined(lab, "kit-away-a") as sender:
        async with _joined(lab, "kit-away-b", clean=True) as receiver:
            assert not receiver.limits.session_present
            await receiver.subscribe([("kit/away", 1)])
        await _publish_all(sender, "kit/away", _numbers(10))
        async with _joined(lab, "kit-away-b") as receiver:
            assert receiver.limits.session_present
            assert await _take_payloads(receiver, 10) == _numbers(10)
        await sender.publish("kit/away", b"to be forgotten")
        async with _joined(lab, "kit-away-b", clean=True) as receiver:
            assert not receiver.limits.session_present
            await receiver.subscribe([("kit/away", 1)])
            await sender.publish("kit/away", b"fresh")
            assert await _take_payloads(receiver, 1) == [b"fresh"]


# ---- acknowledgement ------------------------------------------------------------------------------------------


async def brings_back_the_unacknowledged(lab: Lab) -> None:
    """After a broken connection what was not acknowledged comes again in order; the acknowledged does not."""
    async with _joined(lab, "kit-again-a") as sender, _joined(lab, "kit-again-b") as receiver:
        await receiver.subscribe([("kit/again", 1)])
        await _publish_all(sender, "kit/again", _numbers(4))
        box, connections = receiver.inbox(), receiver.connections()
        await anext(connections)
        first = [await _take(box) for _ in range(4)]
        receiver.ack(first[0].token)
        # The broker's answer to something later shows that it has had the acknowledgement.
        await receiver.publish("kit/again/other", b"")
        receiver.cut()
        await _reconnection(connections)
        second = [await _take(box) for _ in range(3)]
        assert [bytes(message.payload) for message in second] == _numbers(4)[1:]
        receiver.ack(first[1].token)  # stale: means nothing, breaks nothing
        for message in second:
            receiver.ack(message.token)
        await sender.publish("kit/again", b"last")
        assert await _take_payloads(receiver, 1) == [b"last"]


async def survives_death_before_the_ack(lab: Lab) -> None:
    """A process that dies with messages unacknowledged gets them again in its next life."""
    async with _joined(lab, "kit-death-a") as sender:
        receiver = lab.transport()
        await receiver.connect(Session("kit-death-b"))
        await receiver.subscribe([("kit/death", 1)])
        await _publish_all(sender, "kit/death", _numbers(3))
        for _ in range(3):
            await _take(receiver.inbox())
        receiver.kill()
        async with _joined(lab, "kit-death-b") as again:
            assert await _take_payloads(again, 3) == _numbers(3)


async def holds_back_without_acks(lab: Lab) -> None:
    """Who does not acknowledge is not flooded: the broker keeps the rest until acknowledgements come."""
    total = 60
    async with _joined(lab, "kit-hold-a") as sender, _joined(lab, "kit-hold-b", clean=True) as receiver:
        await receiver.subscribe([("kit/hold", 1)])
        await _publish_all(sender, "kit/hold", _numbers(total))
        box, held = receiver.inbox(), list[Inbound]()
        while True:
            try:
                held.append(await asyncio.wait_for(anext(box), QUIET_S))
            except TimeoutError:
                break
        assert 0 < len(held) <= total // 2, f"{len(held)} messages unacknowledged"
        for message in held:
            receiver.ack(message.token)
        seen = [bytes(message.payload) for message in held]
        seen += await _take_payloads(receiver, total - len(held))
        assert seen == _numbers(total)


async def delivers_through_cuts(lab: Lab) -> None:
    """Both sides lose their connection again and again: nothing acknowledged is lost.

    Not the order: NATS brings back what was not acknowledged behind what came later.
    """
    async with _joined(lab, "kit-cuts-a") as sender, _joined(lab, "kit-cuts-b") as receiver:
        await receiver.subscribe([("kit/cuts", 1)])
        sending = asyncio.create_task(_publish_all(sender, "kit/cuts", _numbers(300)))
        seen = dict[bytes, None]()
        box = receiver.inbox()
        while len(seen) < 300:
            message = await _take(box)
            seen[bytes(message.payload)] = None
            receiver.ack(message.token)
            if len(seen) in (50, 150) and receiver.connected:
                receiver.cut()
            if len(seen) in (100, 200) and sender.connected:
                sender.cut()
        await asyncio.wait_for(sending, WAIT_S)
        assert sorted(seen, key=int) == _numbers(300), list(seen)


async def keeps_the_order_through_cuts_of_the_sender(lab: Lab) -> None:
    """What is sent again is sent in order, before what was not sent yet."""
    async with _joined(lab, "kit-resend-a") as sender, _joined(lab, "kit-resend-b") as receiver:
        await receiver.subscribe([("kit/resend", 1)])
        sending = asyncio.create_task(_publish_all(sender, "kit/resend", _numbers(300)))
        got: list[bytes] = []
        for number in range(3):
            got += await _take_payloads(receiver, 50)
            if sender.connected and number < 2:
                sender.cut()
        while len(set(got)) < 300:
            got += await _take_payloads(receiver, 1)
        await asyncio.wait_for(sending, WAIT_S)
        assert list(dict.fromkeys(got)) == _numbers(300), got


# ---- connections ----------------------------------------------------------------------------------------------


async def tells_of_each_connection(lab: Lab) -> None:
    """`connections` has the first connection, each loss and each one after it; close ends it and the inbox."""
    async with _joined(lab, "kit-conn-a") as transport:
        connections = transport.connections()
        first = await asyncio.wait_for(anext(connections), WAIT_S)
        assert first == transport.limits
        transport.cut()
        assert not transport.connected
        second = await _reconnection(connections)
        assert transport.connected
        assert second.session_present
        box = transport.inbox()
    assert [message async for message in box] == []
    assert [limits async for limits in connections] == []
    try:
        await transport.publish("kit/conn", b"")
    except TransportError:
        return
    raise AssertionError("a closed transport took a message")


async def gives_way_to_a_second_client(lab: Lab) -> None:
    """A second connection with the same client id takes the session over, with its subscriptions.

    The first is told where the broker tells (MQTT 5); else it comes back until it is closed.
    """
    async with _joined(lab, "kit-over-a") as sender:
        first = lab.transport()
        await first.connect(Session("kit-over-b"))
        await first.subscribe([("kit/over", 1)])
        async with _joined(lab, "kit-over-b") as second:
            assert second.limits.session_present
            await first.close()
            await sender.publish("kit/over", b"for the second")
            assert await _take_payloads(second, 1) == [b"for the second"]


async def restores_a_lost_session(lab: Lab) -> None:
    """A broker that forgot everything: subscriptions are made again, waiting publishes are sent."""
    async with _joined(lab, "kit-lost-a") as sender, _joined(lab, "kit-lost-b") as receiver:
        await receiver.subscribe([("kit/lost", 1)])
        connections = receiver.connections()
        await anext(connections)
        await lab.restart(forget=True)
        limits = await _reconnection(connections)
        assert not limits.session_present
        await asyncio.wait_for(sender.publish("kit/lost", b"found"), WAIT_S)
        assert await _take_payloads(receiver, 1) == [b"found"]


async def survives_a_killed_broker(lab: Lab) -> None:
    """`kill -9` of the broker: retained messages, sessions and the queue of the absent are still there."""
    async with _joined(lab, "kit-crash-b", clean=True) as receiver:
        await receiver.subscribe([("kit/crash", 1)])
    async with _joined(lab, "kit-crash-a") as sender:
        await sender.publish("kit/crash/kept", b"kept", retain=True)
        await _publish_all(sender, "kit/crash", _numbers(5))
        # Brokers write their state soon after they acknowledge, not before: one more round trip, then the kill.
        await asyncio.sleep(QUIET_S)
        await lab.restart(forget=False)
        async with _joined(lab, "kit-crash-b") as receiver:
            assert receiver.limits.session_present
            assert await _take_payloads(receiver, 5) == _numbers(5)
            await receiver.subscribe([("kit/crash/kept", 1)])
            assert await _take_payloads(receiver, 1) == [b"kept"]
        await asyncio.wait_for(sender.publish("kit/crash/kept", b"", retain=True), WAIT_S)


CHECKS: tuple[Check, ...] = (
    carries_both_qualities,
    carries_what_may_expire,
    keeps_the_order_of_publishes,
    carries_large_payloads_whole,
    matches_wildcards,
    stops_after_unsubscribe,
    refuses_a_packet_above_the_limit,
    retains_and_clears,
    sends_the_will_of_the_killed,
    sends_no_will_after_a_goodbye,
    keeps_the_session_of_the_absent,
    brings_back_the_unacknowledged,
    survives_death_before_the_ack,
    holds_back_without_acks,
    delivers_through_cuts,
    keeps_the_order_through_cuts_of_the_sender,
    tells_of_each_connection,
    gives_way_to_a_second_client,
    restores_a_lost_session,
    survives_a_killed_broker,
)


async def _reconnection(connections: AsyncIterator[Limits | None]) -> Limits:
    """The loss of the present connection, and the next one."""
    assert await asyncio.wait_for(anext(connections), WAIT_S) is None
    limits = await asyncio.wait_for(anext(connections), WAIT_S)
    assert limits is not None
    return limits
