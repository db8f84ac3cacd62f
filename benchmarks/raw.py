"""The raw broker: the same bytes in the same chunks between the same processes, and nothing else.

No hash, no disk, no machine, no sum: what a broker and our transport cost alone. The hub broadcasts the model in
chunks; a leaf that has it all sends as many bytes back.

    python -m benchmarks.raw hub --broker URL --leaves 10 --size 10485760 --rounds 5     prints seconds per round
    python -m benchmarks.raw leaf --broker URL --name l0 --size 10485760
"""

import asyncio
import time

import click

from mhfl_mq.transport.base import Session
from mhfl_mq.transport.mqtt import MqttTransport
from mhfl_mq.wire.blobs import DEFAULT_CHUNK

WINDOW = 8
QUEUE = 200 * 1024 * 1024
"""Bytes: below what the broker queues for one client. What is above, it drops silently, and nothing repairs here."""


async def send(transport: MqttTransport, topic: str, data: bytes) -> None:
    """All of `data` in chunks, a window of them in flight."""
    window = asyncio.Semaphore(WINDOW)

    async def one(start: int) -> None:
        async with window:
            await transport.publish(topic, data[start : start + DEFAULT_CHUNK], qos=1)

    async with asyncio.TaskGroup() as group:
        for start in range(0, len(data), DEFAULT_CHUNK):
            group.create_task(one(start))


async def take(transport: MqttTransport, size: int) -> None:
    """Until so many bytes came in."""
    box = transport.inbox()
    while size > 0:
        message = await anext(box)
        size -= len(message.payload)
        transport.ack(message.token)


async def collect(transport: MqttTransport, topics: list[str], size: int) -> None:
    """Tell leaves to send, as many at once as the broker's queue for us holds, until each has sent `size` bytes."""
    box, waiting = transport.inbox(), list(topics)
    left: dict[str, int] = {}
    while waiting or left:
        while waiting and (len(left) + 1) * size <= max(QUEUE, size):
            topic = waiting.pop(0)
            left[topic] = size
            await transport.publish(topic.replace("out/evt", "in/cmd"), b"go")
        message = await anext(box)
        left[message.topic] -= len(message.payload)
        transport.ack(message.token)
        if left[message.topic] <= 0:
            del left[message.topic]


async def ready(transport: MqttTransport, leaves: int) -> list[str]:
    """The topics of so many leaves that have said that they listen; one may be heard twice, retained and live."""
    box, seen = transport.inbox(), set[str]()
    while len(seen) < leaves:
        message = await anext(box)
        seen.add(message.topic)
        transport.ack(message.token)
    return sorted(seen)


@click.group()
def main() -> None:
    """Raw MQTT, for comparison."""


@main.command()
@click.option("--broker", required=True)
@click.option("--leaves", type=int, required=True)
@click.option("--size", type=int, required=True)
@click.option("--rounds", type=int, required=True)
def hub(broker: str, leaves: int, size: int, rounds: int) -> None:
    """Broadcast, take back, time."""

    async def run() -> None:
        transport = MqttTransport(broker)
        await transport.connect(Session("raw-hub", clean=True))
        await transport.subscribe([("mhfl/v1/raw/d/+/out/evt", 1)])
        data = bytes(size)
        topics = await ready(transport, leaves)
        for _ in range(rounds + 1):  # the first one warms up
            began = time.perf_counter()
            await send(transport, "mhfl/v1/raw/seg/0/c", data)
            await collect(transport, topics, size)
            click.echo(f"{time.perf_counter() - began:.6f}")
        await transport.publish("mhfl/v1/raw/seg/0/c", b"end")
        await transport.close()

    asyncio.run(run())


@main.command()
@click.option("--broker", required=True)
@click.option("--name", required=True)
@click.option("--size", type=int, required=True)
@click.option("--told", is_flag=True, help="Send when the hub says so, not at once.")
def leaf(broker: str, name: str, size: int, told: bool) -> None:
    """Take the broadcast, send as much back, again and again."""

    async def run() -> None:
        transport = MqttTransport(broker)
        await transport.connect(Session(name, clean=True))
        await transport.subscribe([("mhfl/v1/raw/seg/0/c", 1)])  # at QoS 0 a broker may drop, and nothing here repairs
        topic, command = f"mhfl/v1/raw/d/{name}/out/evt", f"mhfl/v1/raw/d/{name}/in/cmd"
        await transport.subscribe([(command, 1)])
        await transport.publish(topic, b"1", retain=True)  # whoever comes first
        data, box, got, asked = bytes(size), transport.inbox(), 0, 0
        async for message in box:
            transport.ack(message.token)
            if bytes(message.payload[:3]) == b"end":
                break
            if message.topic == command:
                asked += 1
            else:
                got += len(message.payload)
            if got >= size and (asked or not told):
                got, asked = got - size, 0
                await send(transport, topic, data)
        await transport.close()

    asyncio.run(run())


@main.command()
@click.option("--broker", required=True)
@click.option("--size", type=int, default=1000)
@click.option("--count", type=int, default=200)
def ping(broker: str, size: int, count: int) -> None:
    """Seconds of each QoS 1 round trip to a leaf of the same size."""

    async def run() -> None:
        transport = MqttTransport(broker)
        await transport.connect(Session("raw-ping", clean=True))
        await transport.subscribe([("mhfl/v1/raw/d/+/out/evt", 1)])
        data = bytes(size)
        await ready(transport, 1)
        for _ in range(count):
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                group.create_task(transport.publish("mhfl/v1/raw/seg/0/c", data))
                group.create_task(take(transport, size))
            click.echo(f"{time.perf_counter() - began:.6f}")
        await transport.publish("mhfl/v1/raw/seg/0/c", b"end")
        await transport.close()

    asyncio.run(run())


if __name__ == "__main__":
    main()
