"""What the transport promises when things go wrong, over the broker in memory and in virtual time."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from mhfl_mq.errors import (
    BrokerRefused,
    BrokerUnreachable,
    LocalMisuse,
    PacketTooLarge,
    TransportError,
)
from mhfl_mq.testing.loop import run_virtual
from mhfl_mq.transport.base import Limits, Session, Will
from mhfl_mq.transport.memory import FINE, Fate, Hop, Kind, MemoryBroker, MemoryTransport


class FirstPublishIsCut:
    """The first PUBLISH of every connection breaks it."""

    def fate(self, hop: Hop) -> Fate:
        return Fate(cut=True) if hop.kind is Kind.PUBLISH and hop.up else FINE


class Rigid:
    """Delays by kind, and counts what crosses."""

    def __init__(self, **delays: float) -> None:
        self.delays = delays
        self.seen: list[Hop] = []

    def fate(self, hop: Hop) -> Fate:
        self.seen.append(hop)
        return Fate(delay_s=self.delays.get(hop.kind.value, 0.0))


async def back(connections: AsyncIterator[Limits | None]) -> Limits:
    """The next connection; a loss before it must have been told."""
    assert await anext(connections) is None
    limits = await anext(connections)
    assert limits is not None
    return limits


async def joined(broker: MemoryBroker, client_id: str, will: Will | None = None) -> MemoryTransport:
    transport = MemoryTransport(broker)
    await transport.connect(Session(client_id, will=will))
    return transport


def test_nobody_there_at_first_is_an_error_at_once() -> None:
    async def run() -> None:
        broker = MemoryBroker()
        broker.stop()
        transport = MemoryTransport(broker)
        with pytest.raises(BrokerUnreachable, match="nobody answers"):
            await transport.connect(Session("a"))
        broker.start()
        await transport.connect(Session("a"))
        assert transport.connected

    run_virtual(run())


def test_a_broker_that_does_not_answer_is_given_up() -> None:
    async def run() -> None:
        with pytest.raises(BrokerUnreachable, match="does not answer"):
            await joined(MemoryBroker(faults=Rigid(connect=3600)), "a")
        assert asyncio.get_running_loop().time() < 60

    run_virtual(run())


def test_the_transport_is_used_in_order_or_says_so() -> None:
    async def run() -> None:
        transport = MemoryTransport(MemoryBroker())
        for misuse in (transport.publish("t", b""), transport.subscribe([("t", 1)])):
            with pytest.raises(LocalMisuse, match="not connected yet"):
                await misuse
        await transport.connect(Session("a"))
        with pytest.raises(LocalMisuse, match="QoS 2"):
            await transport.publish("t", b"", qos=2)
        with pytest.raises(LocalMisuse, match="connected before"):
            await transport.connect(Session("a"))
        await transport.close()
        await transport.close()
        with pytest.raises(TransportError, match="closed"):
            await transport.publish("t", b"")

    run_virtual(run())


def test_authorisation_lost_later_ends_the_inbox_and_the_connections_with_the_reason() -> None:
    async def run() -> None:
        allowed = True
        broker = MemoryBroker(access=lambda client_id, action, topic: allowed)
        transport = await joined(broker, "a")
        connections = transport.connections()
        await anext(connections)
        allowed = False
        waiting = asyncio.create_task(transport.publish("t", b""))
        broker.stop()
        broker.start()
        with pytest.raises(BrokerRefused, match="does not let"):
            await anext(transport.inbox())
        assert await anext(connections) is None
        with pytest.raises(BrokerRefused):
            await anext(connections)
        with pytest.raises(BrokerRefused):
            await waiting
        with pytest.raises(BrokerRefused):
            await anext(transport.connections())

    run_virtual(run())


def test_a_refusal_that_passes_is_lived_through() -> None:
    async def run() -> None:
        refusals = iter([True, False, False])  # the first connection, then two refusals
        broker = MemoryBroker(access=lambda *_: next(refusals, True))
        transport = await joined(broker, "a")
        connections = transport.connections()
        await anext(connections)
        broker.kill("a")
        assert (await back(connections)).session_present
        await transport.close()

    run_virtual(run())


def test_a_subscription_that_is_withdrawn_surfaces_after_the_reconnect() -> None:
    async def run() -> None:
        denied: list[str] = []
        broker = MemoryBroker(access=lambda client_id, action, topic: topic not in denied)
        transport = await joined(broker, "a")
        await transport.subscribe([("mine", 1)])
        denied.append("mine")
        broker.kill("a")
        with pytest.raises(BrokerRefused, match="subscribe to mine"):
            await anext(transport.inbox())

    run_virtual(run())


def test_a_refused_filter_is_named_and_not_tried_again() -> None:
    async def run() -> None:
        broker = MemoryBroker(access=lambda client_id, action, topic: topic != "secret")
        transport = await joined(broker, "a")
        with pytest.raises(BrokerRefused, match="a subscribe to secret"):
            await transport.subscribe([("open", 1), ("secret", 1)])
        connections = transport.connections()
        await anext(connections)
        transport.cut()
        await back(connections)
        await transport.close()

    run_virtual(run())


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_denied_publish_is_an_error_only_where_mqtt_5_is_spoken(protocol: int) -> None:
    async def run() -> None:
        broker = MemoryBroker(protocol=protocol, access=lambda client_id, action, topic: topic != "secret")
        transport = await joined(broker, "a")
        if protocol == 5:
            with pytest.raises(BrokerRefused, match="Not authorized"):
                await transport.publish("secret", b"x", retain=True)
        else:
            await transport.publish("secret", b"x", retain=True)
        assert broker.retained == {}
        await transport.close()

    run_virtual(run())


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_client_whose_id_was_taken_is_told_where_the_broker_tells(protocol: int) -> None:
    async def run() -> None:
        broker = MemoryBroker(protocol=protocol)
        first = await joined(broker, "a")
        second = await joined(broker, "a")
        if protocol == 5:
            with pytest.raises(BrokerRefused, match="another client connected with our client id"):
                await anext(first.inbox())
            assert second.connected
        else:  # 3.1.1 does not say why: both come back, ever more slowly
            await asyncio.sleep(3600)
            assert broker.connected == ("a",)
        first.kill()
        second.kill()

    run_virtual(run())


def test_a_fight_over_a_client_id_slows_down_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        faults = Rigid()
        broker = MemoryBroker(protocol=4, faults=faults)
        first, second = await joined(broker, "a"), await joined(broker, "a")
        await asyncio.sleep(3600)
        first.kill()
        second.kill()
        assert sum(hop.kind is Kind.CONNECT and hop.up for hop in faults.seen) < 300

    run_virtual(run())
    assert "does another client use this id?" in caplog.text


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_broker_that_stays_away_is_told_once_and_its_return_as_well(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        broker = MemoryBroker()
        transport = await joined(broker, "a")
        connections = transport.connections()
        await anext(connections)
        broker.stop()
        await asyncio.sleep(4.9)
        assert warnings(caplog) == []
        await asyncio.sleep(60)
        (gone,) = warnings(caplog)
        assert gone.startswith("a: no connection to memory for 5 s now (")
        broker.start()
        await back(connections)
        _, returned = warnings(caplog)
        assert re.fullmatch("a: connected to memory again after [0-9]+ s", returned)
        await transport.close()

    run_virtual(run())


def test_a_short_loss_and_a_closed_transport_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        broker = MemoryBroker()
        transport = await joined(broker, "a")
        connections = transport.connections()
        await anext(connections)
        transport.cut()
        await back(connections)
        await asyncio.sleep(60)
        broker.stop()
        await asyncio.sleep(1)
        await transport.close()
        await asyncio.sleep(60)

    run_virtual(run())
    assert warnings(caplog) == []


def test_at_most_a_window_of_publishes_is_in_flight() -> None:
    async def run() -> None:
        faults = Rigid(ack=1.0)
        broker = MemoryBroker(faults=faults, receive_max=4)
        transport = await joined(broker, "a")
        sending = [asyncio.create_task(transport.publish("t", b"")) for _ in range(10)]
        await asyncio.sleep(0.5)
        assert sum(hop.kind is Kind.PUBLISH for hop in faults.seen) == 4
        await asyncio.gather(*sending)
        await transport.close()

    run_virtual(run())


def test_who_publishes_while_his_inbox_is_full_still_gets_his_answer() -> None:
    async def run() -> None:
        broker = MemoryBroker()
        receiver, sender = await joined(broker, "a"), await joined(broker, "b")
        await receiver.subscribe([("t", 0)])
        for number in range(100):
            await sender.publish("t", b"%d" % number)
        first = await anext(receiver.inbox())
        await receiver.publish("answer", first.payload)
        assert receiver.connected
        got = [bytes((await anext(receiver.inbox())).payload) for _ in range(99)]
        assert got == [b"%d" % number for number in range(1, 100)]
        await receiver.close()
        await sender.close()

    run_virtual(run())


def test_a_smaller_limit_after_a_reconnect_fails_what_does_not_fit_any_more() -> None:
    async def run() -> None:
        broker = MemoryBroker(faults=Rigid(publish=1.0))
        transport = await joined(broker, "a")
        large = asyncio.create_task(transport.publish("t", bytes(50_000)))
        small = asyncio.create_task(transport.publish("t", b"small"))
        await asyncio.sleep(0.5)
        broker.max_packet = 1000
        broker.kill("a")
        with pytest.raises(PacketTooLarge, match=r"50010 bytes.*1000 bytes"):
            await large
        await small
        await transport.close()

    run_virtual(run())


def test_a_packet_that_breaks_every_connection_is_given_up() -> None:
    async def run() -> None:
        broker = MemoryBroker(protocol=4, max_packet=100_000, told_max_packet=2_000_000)
        transport = await joined(broker, "a")
        with pytest.raises(PacketTooLarge, match=r"connections broke.*200009 bytes"):
            await transport.publish("t", bytes(200_000))
        await transport.publish("t", b"small")
        await transport.close()

    run_virtual(run())


def test_a_packet_that_is_given_up_names_the_setting_for_smaller_chunks() -> None:
    async def run() -> None:
        transport = await joined(MemoryBroker(protocol=4, faults=FirstPublishIsCut()), "a")
        with pytest.raises(PacketTooLarge, match=r"`chunk_bytes: small-packets` in the policy") as found:
            await transport.publish("t", bytes(256 * 1024))
        assert "?max_packet=BYTES" in found.value.remedy
        await transport.close()

    run_virtual(run())


def test_a_small_packet_is_never_suspected_however_often_the_connection_breaks() -> None:
    async def run() -> None:
        broker = MemoryBroker(faults=FirstPublishIsCut())
        transport = await joined(broker, "a")
        sending = asyncio.create_task(transport.publish("t", b"small"))
        await asyncio.sleep(3600)
        assert not sending.done()
        transport.kill()
        with pytest.raises(TransportError, match="closed"):
            await sending

    run_virtual(run())


def test_a_cancelled_publish_is_not_sent_later() -> None:
    async def run() -> None:
        broker = MemoryBroker()
        transport = await joined(broker, "a")
        broker.stop()
        sending = asyncio.create_task(transport.publish("t", b"old", retain=True))
        await asyncio.sleep(1)
        sending.cancel()
        broker.start()
        await transport.publish("u", b"new", retain=True)
        assert broker.retained == {"u": b"new"}
        await transport.close()

    run_virtual(run())


def test_a_subscription_asked_for_without_a_connection_waits_for_one() -> None:
    async def run() -> None:
        broker = MemoryBroker()
        transport = await joined(broker, "a")
        broker.stop()
        asking = asyncio.create_task(transport.subscribe([("t", 1)]))
        await asyncio.sleep(5)
        assert not asking.done()
        broker.start(keep_sessions=False)
        await asking
        await transport.publish("t", b"heard")
        assert bytes((await anext(transport.inbox())).payload) == b"heard"
        await transport.close()

    run_virtual(run())


def test_a_subscription_is_asked_for_again_when_the_connection_breaks_before_the_answer() -> None:
    async def run() -> None:
        broker = MemoryBroker(faults=Rigid(subscribe=1.0))
        transport = await joined(broker, "a")
        asking = asyncio.create_task(transport.subscribe([("t", 1)]))
        await asyncio.sleep(0.5)
        transport.cut()
        await asking
        await transport.unsubscribe(["t"])
        await transport.close()

    run_virtual(run())


def test_closing_with_publishes_waiting_tells_their_callers() -> None:
    async def run() -> None:
        broker = MemoryBroker(faults=Rigid(ack=3600))
        transport = await joined(broker, "a")
        sending = asyncio.create_task(transport.publish("t", b""))
        await asyncio.sleep(1)
        await transport.close()
        with pytest.raises(TransportError, match="closed"):
            await sending

    run_virtual(run())


def test_closing_while_reconnecting_ends_cleanly() -> None:
    async def run() -> None:
        broker = MemoryBroker(faults=Rigid(connect=2.0))
        transport = await joined(broker, "a")
        transport.cut()
        await asyncio.sleep(2)
        await transport.close()
        assert broker.connected == ()

    run_virtual(run())


class CutOneSubscribe:
    """The second SUBSCRIBE (the one that restores) breaks its connection."""

    def __init__(self) -> None:
        self.subscribes = 0

    def fate(self, hop: Hop) -> Fate:
        if hop.kind is Kind.SUBSCRIBE and hop.up:
            self.subscribes += 1
            return Fate(cut=self.subscribes == 2)
        return FINE


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_session_that_is_present_but_empty_gets_its_subscriptions(protocol: int) -> None:
    async def run() -> None:
        broker = MemoryBroker(faults=CutOneSubscribe(), protocol=protocol)
        transport = await joined(broker, "a")
        await transport.subscribe([("t", 1)])
        connections = transport.connections()
        await anext(connections)
        broker.stop()
        broker.start(keep_sessions=False)
        # The next connection begins a new session and breaks in its SUBSCRIBE; the one after finds that session.
        assert (await back(connections)).session_present
        await transport.publish("t", b"heard")
        assert bytes((await anext(transport.inbox())).payload) == b"heard"
        await transport.close()

    run_virtual(run())


def test_a_subscription_whose_caller_gave_up_is_not_restored() -> None:
    async def run() -> None:
        faults = Rigid(subscribe=1.0)
        broker = MemoryBroker(faults=faults, protocol=4)
        transport = await joined(broker, "a")
        asking = asyncio.create_task(transport.subscribe([("t", 1)]))
        await asyncio.sleep(0.5)
        asking.cancel()
        broker.stop()
        broker.start(keep_sessions=False)
        connections = transport.connections()
        while await anext(connections) is None:
            pass
        assert sum(hop.kind is Kind.SUBSCRIBE and hop.up for hop in faults.seen) == 1
        await transport.close()

    run_virtual(run())
