"""Serves blobs: answers pulls chunk by chunk, and broadcasts segments once, paced by the broker's acknowledgements."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from mhfl_mq.errors import MhflError, PacketTooLarge
from mhfl_mq.protocol.transfer import Carousel, Pulled, Sender
from mhfl_mq.run.mailer import ASKED_AGAIN_S
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.transport.base import Transport
from mhfl_mq.wire.blobs import chunk_payload
from mhfl_mq.wire.messages import Manifest, Pull

__all__ = ["Holder"]

log = logging.getLogger(__name__)

Read = Callable[[int], bytes | memoryview]


class Holder:
    """The blobs that one process serves. `topic_of(peer)` is where a peer takes its chunks."""

    def __init__(
        self,
        transport: Transport,
        traffic: Traffic,
        topic_of: Callable[[str], str],
        *,
        broadcast_bytes_s: float | None = None,
    ) -> None:
        """`broadcast_bytes_s` slows the broadcast down; None: as fast as the broker acknowledges."""
        self._transport = transport
        self._traffic = traffic
        self._topic_of = topic_of
        self._warned = False
        self._sender = Sender()
        self._carousel = Carousel(rate=broadcast_bytes_s)
        self._timer: asyncio.TimerHandle | None = None
        self._reads: dict[str, Read] = {}
        self._cast_topics: dict[int, str] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """Chunks that are on their way to the broker, or wait for their turn."""
        return len(self._under_way) + self._sender.waiting

    def hold(self, manifest: Manifest, read: Read) -> None:
        """Answer pulls of this blob from now on; `read(index)` gives a chunk."""
        self._reads[manifest.blob_id] = read
        self._sender.hold(manifest)

    def drop(self, blob_id: str) -> None:
        """Stop serving this blob."""
        self._sender.drop(blob_id)
        self._reads.pop(blob_id, None)

    def pull(self, peer: str, pull: Pull) -> Pulled:
        """A peer asks for chunks; raises `PeerFault` for a range that the blob does not have."""
        pulled = self._sender.pull(peer, pull)
        self._pump()
        return pulled

    def cast(self, segment: int, topic: str, manifest: Manifest) -> None:
        """Broadcast a held blob once, on this topic."""
        self._cast_topics[segment] = topic
        self._carousel.cast(segment, manifest)
        self._pump()

    def coming(self, segment: int, manifest: Manifest) -> int:
        """The first chunk that a slowed broadcast will still bring; the number of chunks when there is none."""
        return self._carousel.coming(segment, manifest)

    def close(self) -> None:
        """Stop everything that is under way."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._under_way):
            task.cancel()

    # ---- how ----

    def _pump(self) -> None:
        """Start as many publishes as may be in flight."""
        loop = asyncio.get_running_loop()
        while cast := self._carousel.next(loop.time()):
            topic = self._cast_topics[cast.segment]
            self._start("carousel", topic, cast.blob_id, cast.index, partial(self._carousel.sent, cast))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (due := self._carousel.due) is not None:  # the rate holds it back
            self._timer = loop.call_at(due, self._pump)
        while send := self._sender.next():
            topic = self._topic_of(send.peer)
            self._start("chunk", topic, send.blob_id, send.index, partial(self._sender.sent, send))

    def _start(self, what: str, topic: str, blob_id: str, index: int, done: Callable[[], None]) -> None:
        task = asyncio.create_task(self._publish(what, topic, blob_id, index, done))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _publish(self, what: str, topic: str, blob_id: str, index: int, done: Callable[[], None]) -> None:
        try:
            read = self._reads.get(blob_id)
            if read is not None:  # else it was dropped in the meantime
                payload = chunk_payload(blob_id, index, read(index))
                self._traffic.out(what, len(payload))
                # Nobody queues the broadcast (it is subscribed to at QoS 0), and a slow line may carry it for long.
                expiry_s = None if what == "carousel" else ASKED_AGAIN_S
                await self._transport.publish(topic, payload, qos=1, expiry_s=expiry_s)
        except PacketTooLarge as error:
            if not self._warned:  # every chunk is as large, until a person changes something
                log.warning("a chunk was not sent: %s", error)
            self._warned = True
        except MhflError:
            pass  # the receiver asks again; a broker that takes no chunk at all shows in its connection
        finally:
            done()
        self._pump()
