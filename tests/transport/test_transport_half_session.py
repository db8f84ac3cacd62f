"""A broker's session that was begun and not finished: present, and without our subscriptions."""

import asyncio

import pytest

from mhfl_mq.testing.loop import run_virtual
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.memory import FINE, Fate, Hop, Kind, MemoryBroker, MemoryTransport


class CutSubscribe:
    """Cuts the connection instead of carrying the next SUBSCRIBE, once it is armed."""

    armed = False

    def fate(self, hop: Hop) -> Fate:
        if self.armed and hop.kind is Kind.SUBSCRIBE and hop.up:
            self.armed = False
            return Fate(cut=True)
        return FINE


@pytest.mark.parametrize("protocol", [4, 5])
def test_subscriptions_are_made_in_a_session_that_a_broken_connection_left_empty(protocol: int) -> None:
    async def main() -> bytes:
        faults = CutSubscribe()
        broker = MemoryBroker(faults=faults, protocol=protocol)
        ours, theirs = MemoryTransport(broker), MemoryTransport(broker)
        await ours.connect(Session("ours"))
        await theirs.connect(Session("theirs"))
        await ours.subscribe([("a/b", 1)])
        faults.armed = True
        broker.stop()
        broker.start(keep_sessions=False)
        await asyncio.sleep(60)
        await theirs.publish("a/b", b"heard")
        async with asyncio.timeout(10):
            inbound = await anext(ours.inbox())
        await ours.close()
        await theirs.close()
        return bytes(inbound.payload)

    assert run_virtual(main()) == b"heard"
