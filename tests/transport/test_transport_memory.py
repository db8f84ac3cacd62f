"""The broker in memory beyond the kit: its faults, its limits, and that the same inputs give the same run."""

import asyncio
import hashlib
import os
import random
import subprocess
import sys

import pytest

from mhfl_mq.testing.loop import run_virtual
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.base import Inbound, Session, Will
from mhfl_mq.transport.memory import FINE, Fate, Hop, Kind, MemoryBroker, MemoryTransport


class OnPublish:
    """One fate for every PUBLISH of one direction."""

    def __init__(self, fate: Fate, *, up: bool) -> None:
        self._fate = fate
        self._up = up

    def fate(self, hop: Hop) -> Fate:
        return self._fate if hop.kind is Kind.PUBLISH and hop.up is self._up else FINE


class Storm:
    """Seeded trouble; writes down all it was asked."""

    def __init__(self, seed: int) -> None:
        self._luck = random.Random(seed)
        self.trace = hashlib.sha256()
        self.calm = False

    def fate(self, hop: Hop) -> Fate:
        now = asyncio.get_running_loop().time()
        line = f"{now:.6f} {hop.kind.value} {hop.up} {hop.client_id} {hop.topic} {hop.payload!r}\n"
        self.trace.update(line.encode())
        if self.calm:
            return FINE
        draw = self._luck.random()
        if draw < 0.02:
            return Fate(cut=True)
        if draw < 0.1:
            return Fate(copies=2)
        return Fate(delay_s=self._luck.random())


async def joined(broker: MemoryBroker, client_id: str, **options: object) -> MemoryTransport:
    transport = MemoryTransport(broker, backoff=Backoff(lambda: 0.5, first_s=0.1))
    await transport.connect(Session(client_id, **options))  # type: ignore[arg-type]
    return transport


async def take(transport: MemoryTransport) -> Inbound:
    message = await anext(transport.inbox())
    transport.ack(message.token)
    return message


@pytest.mark.parametrize("up", [True, False])
def test_a_corrupted_message_arrives_corrupted(up: bool) -> None:
    async def run() -> None:
        broker = MemoryBroker(faults=OnPublish(Fate(payload=b"spoilt"), up=up))
        one = await joined(broker, "a")
        await one.subscribe([("t", 1)])
        await one.publish("t", b"good")
        assert bytes((await take(one)).payload) == b"spoilt"
        await one.close()

    run_virtual(run())


@pytest.mark.parametrize("up", [True, False])
def test_a_copied_message_arrives_twice(up: bool) -> None:
    async def run() -> None:
        broker = MemoryBroker(faults=OnPublish(Fate(copies=2), up=up))
        one = await joined(broker, "a")
        await one.subscribe([("t", 1)])
        await one.publish("t", b"1")
        await one.publish("t", b"2")
        assert [bytes((await take(one)).payload) for _ in range(4)] == [b"1", b"1", b"2", b"2"]
        await one.close()

    run_virtual(run())


def test_a_delay_holds_up_what_comes_after_it() -> None:
    async def run() -> None:
        broker = MemoryBroker(faults=OnPublish(Fate(delay_s=2.0), up=True))
        one = await joined(broker, "a")
        await one.subscribe([("t", 1)])
        await asyncio.gather(*(one.publish("t", b"%d" % number) for number in range(5)))
        assert [bytes((await take(one)).payload) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)
        await one.close()

    run_virtual(run())


def test_a_cut_network_sends_the_will_and_the_client_returns() -> None:
    async def run() -> None:
        broker = MemoryBroker()
        watcher = await joined(broker, "w")
        await watcher.subscribe([("status", 1)])
        device = await joined(broker, "d", will=Will("status", b"gone"))
        broker.kill("d")
        assert bytes((await take(watcher)).payload) == b"gone"
        connections = device.connections()
        await anext(connections)
        assert broker.connected == ("w", "d")
        broker.kill("nobody")
        await device.close()
        await watcher.close()

    run_virtual(run())


def test_a_full_queue_drops_silently() -> None:
    async def run() -> None:
        broker = MemoryBroker(max_queued=3)
        away = await joined(broker, "a")
        await away.subscribe([("t", 1)])
        await away.close()
        sender = await joined(broker, "b")
        for number in range(5):
            await sender.publish("t", b"%d" % number)
        assert broker.dropped == 2
        back = await joined(broker, "a")
        assert [bytes((await take(back)).payload) for _ in range(3)] == [b"0", b"1", b"2"]
        await back.close()
        await sender.close()

    run_virtual(run())


def test_a_session_is_forgotten_after_its_time() -> None:
    async def run() -> None:
        broker = MemoryBroker()
        for away_s, present in ((3599, True), (3601, False)):
            visitor = await joined(broker, "a", expiry_s=3600)
            await visitor.close()
            await asyncio.sleep(away_s)
            visitor = await joined(broker, "a", expiry_s=3600)
            assert visitor.limits.session_present is present
            await visitor.close()
        visitor = await joined(broker, "b", expiry_s=0)
        await visitor.close()
        visitor = await joined(broker, "b", expiry_s=0)
        assert not visitor.limits.session_present
        await visitor.close()

    run_virtual(run())


def test_a_restart_may_forget_what_was_retained() -> None:
    async def run() -> None:
        broker = MemoryBroker()
        one = await joined(broker, "a")
        await one.publish("t", b"kept", retain=True)
        broker.stop()
        assert not broker.up
        broker.start()
        assert broker.retained == {"t": b"kept"}
        broker.stop()
        broker.start(keep_retained=False)
        assert broker.retained == {}
        await one.publish("u", b"after")
        await one.close()

    run_virtual(run())


async def storm(seed: int) -> tuple[str, list[bytes]]:
    """Four senders and a receiver through seeded trouble; what the network saw and what arrived."""
    faults = Storm(seed)
    broker = MemoryBroker(faults=faults)
    names = [f"device-{number}" for number in range(4)]
    receiver = await joined(broker, "receiver")
    await receiver.subscribe([("out/+", 1)])
    senders = [await joined(broker, name) for name in names]

    async def send(sender: MemoryTransport, name: str) -> None:
        for number in range(20):
            await sender.publish(f"out/{name}", f"{name} {number}".encode())

    async def trouble() -> None:
        for wait_s in (3.0, 5.0, 7.0):
            await asyncio.sleep(wait_s)
            broker.stop()
            await asyncio.sleep(1.0)
            broker.start()
        faults.calm = True

    wanted = {f"{name} {number}".encode() for name in names for number in range(20)}
    got: dict[bytes, None] = {}

    async def receive() -> None:
        while len(got) < len(wanted):
            got[bytes((await take(receiver)).payload)] = None

    await asyncio.gather(
        trouble(), receive(), *(send(sender, name) for sender, name in zip(senders, names, strict=True))
    )
    for transport in [receiver, *senders]:
        await transport.close()
    assert set(got) == wanted
    return faults.trace.hexdigest(), list(got)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_lost_in_a_storm(seed: int) -> None:
    _, got = run_virtual(storm(seed))
    for name in ("device-0", "device-3"):
        mine = [payload for payload in got if payload.startswith(name.encode())]
        assert len(mine) == 20


def test_one_seed_gives_one_run_under_any_hash_seed() -> None:
    program = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('storms', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.run_virtual(module.storm(7))[0])\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, __file__],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "4711")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


@pytest.mark.parametrize(
    ("protocol", "found"), [(5, [b"lasting", b"for ever"]), (4, [b"short", b"lasting", b"for ever"])]
)
def test_what_expires_is_forgotten_for_who_is_away_where_mqtt_5_is_spoken(protocol: int, found: list[bytes]) -> None:
    async def run() -> None:
        broker = MemoryBroker(protocol=protocol)
        sender, absent = await joined(broker, "a"), await joined(broker, "b", expiry_s=3600)
        await absent.subscribe([("t", 1)])
        await absent.close()
        for payload, expiry_s in ((b"short", 10), (b"lasting", 100), (b"for ever", None)):
            await sender.publish("t", payload, expiry_s=expiry_s)
        await asyncio.sleep(50)
        back = await joined(broker, "b", expiry_s=3600)
        box = back.inbox()
        assert [bytes((await anext(box)).payload) for _ in found] == found

    run_virtual(run())
