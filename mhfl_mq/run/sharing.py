"""The way down, at the aggregator: a model's segments are announced, broadcast once, and repaired on demand.

Every segment's manifest is retained (with the whole segment inside when it is small). The chunks go out once on the
carousel: when the round opens, or when the first device pulls a segment that was never broadcast, so that a fleet
that joins together costs one copy. Whatever a device misses, it pulls.
"""

from dataclasses import replace
from functools import partial

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.protocol.transfer import Pulled
from mhfl_mq.run.bench import SegmentSource
from mhfl_mq.run.holder import Holder
from mhfl_mq.run.mailer import Mailer
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.transport.base import Transport
from mhfl_mq.wire.bounds import INLINE_LIMIT
from mhfl_mq.wire.messages import Manifest, ManifestNote, Pull
from mhfl_mq.wire.topics import Topics

__all__ = ["Sharing"]

MODELS_HELD = 2
"""The head and the one before it, which a straggler may still be fetching."""


class Sharing:
    """The models that this aggregator serves."""

    def __init__(
        self,
        transport: Transport,
        topics: Topics,
        mailer: Mailer,
        traffic: Traffic,
        *,
        broadcast_bytes_s: float | None = None,
    ) -> None:
        """`broadcast_bytes_s` slows broadcasts down; None: as fast as the broker acknowledges."""
        self._topics = topics
        self._mailer = mailer
        self._holder = Holder(transport, traffic, topics.repair, broadcast_bytes_s=broadcast_bytes_s)
        self._sources: dict[str, SegmentSource] = {}  # by model, the newest last
        self._announced: dict[int, str] = {}  # segment -> blob id of the retained manifest
        self._cast: set[str] = set()  # blob ids that were broadcast

    @property
    def running(self) -> int:
        """Chunks that are on their way to the broker, or wait for their turn."""
        return self._holder.running

    def segments(self, model: str) -> tuple[str, ...]:
        """The blob ids of a shared model's segments."""
        try:
            return tuple(one.blob_id for one in self._sources[model].manifests)
        except KeyError:
            raise LocalMisuse(f"model {model} is not shared") from None

    def holds(self, model: str) -> bool:
        """Whether this model was shared and is still served."""
        return model in self._sources

    def share(self, model: str, source: SegmentSource | None, *, broadcast: bool) -> None:
        """Announce a model's segments and, with `broadcast`, send them once. Done before, it costs nothing.

        `source` may be None for a model that is held already.
        """
        source = self._sources.pop(model, source)
        if source is None:
            raise LocalMisuse(f"model {model} is shared without its segments")
        self._sources[model] = source
        self._forget_old()
        for k, manifest in enumerate(source.manifests):
            self._holder.hold(manifest, partial(source.read, k))
        self._announce(source)
        if broadcast:
            for k, manifest in enumerate(source.manifests):
                self._broadcast(k, manifest)

    def announce_again(self) -> None:
        """Retain every manifest of the newest model once more: the broker may have lost them."""
        self._announced.clear()
        if self._sources:
            self._announce(next(reversed(self._sources.values())))

    def pull(self, device: str, pull: Pull) -> None:
        """A device asks for chunks or for a manifest; raises `PeerFault` for a range that is not there."""
        place = self._find(pull.blob_id)
        if place is None:
            return  # an old version's: the device hears of the head and asks for that
        k, manifest, source = place
        has_nothing = bool(pull.ranges) and pull.ranges[0][0] == 0
        if has_nothing and manifest.size > INLINE_LIMIT and pull.blob_id not in self._cast:
            self._broadcast(k, manifest)
        elif pull.ranges and not (pull := self._missed(k, manifest, pull)).ranges:
            return  # the broadcast will bring it
        elif self._holder.pull(device, pull) is Pulled.MANIFEST:
            self._mailer.send(self._topics.command(device), self._note(k, manifest, source))

    def close(self) -> None:
        """Stop sending."""
        self._holder.close()

    # ---- how ----

    def _announce(self, source: SegmentSource) -> None:
        for k, manifest in enumerate(source.manifests):
            if self._announced.get(k) != manifest.blob_id:
                self._announced[k] = manifest.blob_id
                self._mailer.send(self._topics.manifest(k), self._note(k, manifest, source), retain=True)

    def _broadcast(self, k: int, manifest: Manifest) -> None:
        if manifest.size > INLINE_LIMIT and manifest.blob_id not in self._cast:
            self._cast.add(manifest.blob_id)
            self._holder.cast(k, self._topics.carousel(k), manifest)

    def _note(self, k: int, manifest: Manifest, source: SegmentSource) -> ManifestNote:
        small = manifest.size <= INLINE_LIMIT
        inline = b"".join(bytes(source.read(k, index)) for index in range(manifest.chunks)) if small else b""
        return ManifestNote(k, manifest, inline)

    def _missed(self, k: int, manifest: Manifest, pull: Pull) -> Pull:
        """A pull without the chunks that a slowed broadcast will still bring: nothing is sent around the rate."""
        coming = self._holder.coming(k, manifest)
        if coming == manifest.chunks:
            return pull
        ranges = tuple((start, min(stop, coming)) for start, stop in pull.ranges if start < coming)
        return replace(pull, ranges=ranges)

    def _find(self, blob_id: str) -> tuple[int, Manifest, SegmentSource] | None:
        for source in reversed(self._sources.values()):
            for k, manifest in enumerate(source.manifests):
                if manifest.blob_id == blob_id:
                    return k, manifest, source
        return None

    def _forget_old(self) -> None:
        while len(self._sources) > MODELS_HELD:
            old = self._sources.pop(next(iter(self._sources)))
            kept = {one.blob_id for source in self._sources.values() for one in source.manifests}
            for manifest in old.manifests:
                if manifest.blob_id not in kept:
                    self._holder.drop(manifest.blob_id)
                    self._cast.discard(manifest.blob_id)
            old.served.close()
