"""A broker's session that was begun and not finished: present, and without our subscriptions."""

import asyncio

import pytest

from mhfl_mq.testing.loop import run_virtual
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.memory import FINE, Fate, Hop, Kind, MemoryBroker, MemoryTransport


class Cut:
    """Cuts the connection instead of carrying the next packet of a kind, once it is armed."""

    def __init__(self, kind: Kind, up: bool) -> None:
        self._kind = kind
        self._up = up
        self.armed = False

    def fate(self, hop: Hop) -> Fate:
        if self.armed and hop.client_id == "ours" and (hop.kind, hop.up) == (self._kind, self._up):
            self.armed = False
            return Fate(cut=True)
        return FINE


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(
    ("kind", "up"), [(Kind.CONNECT, False), (Kind.SUBSCRIBE, True), (Kind.SUBSCRIBE, False)], ids=str
)
def test_subscriptions_are_made_in_a_session_that_a_broken_connection_left_empty(
    protocol: int, kind: Kind, up: bool
) -> None:
    async def main() -> bytes:
        faults = Cut(kind, up)
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
