"""A malicious client of the broker: it publishes as device `mallory`, which nobody invited, and in the name of an
invited one (`mask`), and says whatever comes to its mind."""

import asyncio
import random
from typing import Final

from mhfl_mq.errors import MhflError
from mhfl_mq.protocol.states import RoundState
from mhfl_mq.testing.sim_nodes import AggregatorNode
from mhfl_mq.transport.base import Session, Transport
from mhfl_mq.wire.blobs import build_manifest, chunk_payload
from mhfl_mq.wire.codec import encode
from mhfl_mq.wire.messages import (
    Accept,
    Capability,
    Close,
    Decline,
    Hello,
    Message,
    Presence,
    ProbeResult,
    Pull,
    UpdateReady,
)
from mhfl_mq.wire.topics import Topics

__all__ = ["MALLORY", "Mallory"]

MALLORY: Final = "mallory"
PATIENCE_S: Final = 5.0
"""Seconds that a bad message may take to leave; what the broker does not take by then is given up."""


class Mallory:
    """One client that breaks rules."""

    def __init__(self, topics: Topics, task: str, layout: str, mask: str, luck: random.Random) -> None:
        self._topics = topics
        self._task = task
        self._layout = layout
        self._mask = mask
        self._luck = luck

    async def strike(self, transport: Transport, aggregator: AggregatorNode, flood: int) -> None:
        """Connect, say a few wrong things (or a flood of them), and go."""
        try:
            await transport.connect(Session(MALLORY, clean=True, expiry_s=0))
            for _ in range(flood if self._luck.random() < 0.2 else self._luck.randint(1, 8)):
                topic, payload = self._lie(aggregator)
                sending = transport.publish(topic, payload, qos=self._luck.randint(0, 1))
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await sending
                except MhflError:
                    continue  # too large for the broker, say
        except (MhflError, TimeoutError):
            pass
        finally:
            await transport.close()

    def _lie(self, aggregator: AggregatorNode) -> tuple[str, bytes]:
        luck, topics = self._luck, self._topics
        kind = luck.randrange(6)
        if kind == 5:
            return topics.event(self._mask), encode(self._bad_update(aggregator))
        if kind == 0:  # garbage, of any size
            where = luck.choice((topics.event, topics.pull, topics.upload, topics.status))(MALLORY)
            return where, luck.randbytes(luck.choice((0, 1, 20, 300, 9000, 70_000, 200_000)))
        if kind == 1:  # chunks that nobody asked for
            blob = luck.randbytes(200)
            return topics.upload(MALLORY), chunk_payload(build_manifest(blob, 64).blob_id, luck.randrange(9), blob[:64])
        if kind == 2:
            blob_id = build_manifest(luck.randbytes(8)).blob_id
            start = luck.randrange(5000)
            return topics.pull(MALLORY), encode(Pull(blob_id, ((start, start + luck.randint(0, 9)),)))
        return topics.event(MALLORY), encode(self._message(aggregator))

    def _bad_update(self, aggregator: AggregatorNode) -> UpdateReady:
        """In the name of an invited device: what its announcement alone shows to be wrong."""
        luck, machine = self._luck, aggregator.machine
        number, base = (1, 0) if machine is None else (machine.last_round, machine.head.version)
        blob = bytes(160)  # a smallest tier's update, all zeros
        manifest = build_manifest(blob, 64)
        wrong = luck.randrange(4)
        if wrong == 0:
            return UpdateReady(number, base - 1 if base else 1, 1.0, manifest, inline=blob)
        if wrong == 1:
            return UpdateReady(number, base, 0.0, manifest, inline=blob)
        size = luck.choice((0, 4, 156, 164, 8192))
        return UpdateReady(number, base, 1.0, build_manifest(bytes(size), 64))

    def _message(self, aggregator: AggregatorNode) -> Message:
        luck, machine = self._luck, aggregator.machine
        number, base, collecting = 1, 0, False
        if machine is not None:
            number, base = machine.last_round, machine.head.version
            collecting = machine.round is not None and machine.round.state is RoundState.COLLECTING
        number = max(0, number + (0 if collecting else luck.choice((-3, -1, 0, 1, 50))))
        blob = luck.randbytes(luck.choice((0, 4, 160, 400, 800)))
        manifest = build_manifest(blob, 64)
        wrong_layout = build_manifest(b"another layout").blob_id
        probes = (ProbeResult("small", 0.0, 0), ProbeResult("nonesuch", 0.0, 0))
        return luck.choice(
            (
                UpdateReady(number, base - 1 if base else 1, luck.choice((0.0, 1.0, 1e300)), manifest),
                UpdateReady(number, base, 1.0, manifest, inline=blob),  # not invited
                Accept(number),
                Decline(number, "why", "not"),
                Hello(luck.randrange(2**40), luck.choice((self._task, "another-task")), "mallory", "", 0),
                Hello(1, self._task, "mallory", self._layout, 2**60),
                Capability(1, wrong_layout, 10, 0.0, probes),
                Capability(1, self._layout, 10, 0.0, ()),  # runs no tier
                Presence(luck.randrange(2**40), luck.random() < 0.5, "mallory"),
                Close(number, "committed", base + 1),  # only the aggregator says this
            )
        )
