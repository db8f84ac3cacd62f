"""A device's process, wired: the machine, its driver, the broker, the blobs and what trains."""

import asyncio
import logging
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mhfl_mq.errors import LocalMisuse, MhflError, PeerFault, StoreError
from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.effects import (
    Ack,
    Alarm,
    DeviceEffect,
    FetchSegments,
    Follow,
    ForgetUpdate,
    Install,
    Probe,
    SaveState,
    Say,
    StopTraining,
    Train,
)
from mhfl_mq.protocol.events import (
    Connected,
    DeviceEvent,
    Disconnected,
    Faulted,
    Fetched,
    FetchFailed,
    Heard,
    Installed,
    InstallFailed,
    LinkMeasured,
    Probed,
    ProbeFailed,
    Started,
    StopAsked,
    Trained,
    TrainFailed,
    TrainingStopped,
)
from mhfl_mq.protocol.transfer_meter import Meter
from mhfl_mq.run.driver import Driver
from mhfl_mq.run.facts import READ_EVERY_S, Facts
from mhfl_mq.run.gathering import AGGREGATOR, Gathering
from mhfl_mq.run.holder import Holder
from mhfl_mq.run.jobs import Jobs
from mhfl_mq.run.mailer import Mailer
from mhfl_mq.run.packing import PackedUpdate, Packing
from mhfl_mq.run.ports import Trainer, TrainResult
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.store.device import DeviceStore, Pointer
from mhfl_mq.store.served import Served
from mhfl_mq.transport.base import Inbound, Session, Transport, Will
from mhfl_mq.wire.blobs import DEFAULT_CHUNK, clamp_chunk, parse_chunk
from mhfl_mq.wire.bounds import INLINE_LIMIT, MAX_CHUNKS
from mhfl_mq.wire.codec import decode, encode
from mhfl_mq.wire.messages import Head, Manifest, ManifestNote, Offer, Presence, Pull, Survey
from mhfl_mq.wire.topics import Topics, What

__all__ = ["DeviceHost"]

log = logging.getLogger(__name__)

THREAD_FROM = 1024 * 1024
"""Bytes from which packing an update goes to a thread: below, the hop costs more than the work."""
FAREWELL_S = 2.0
"""Seconds that a process that ends gives its last messages."""


class DeviceHost:
    """Runs one device until it is stopped."""

    def __init__(
        self,
        *,
        device: str,
        topics: Topics,
        machine: DeviceMachine,
        transport: Transport,
        store: DeviceStore,
        trainer: Trainer,
        agent: str,
        luck: random.Random,
        chunk: int = DEFAULT_CHUNK,
        keepalive_s: int = 60,
        facts: Facts | None = None,
    ) -> None:
        self.traffic = Traffic()
        self._device = device
        self._topics = topics
        self._machine = machine
        self._transport = transport
        self._store = store
        self._blobs = store.blobs
        self._served = Served()
        self._packing = Packing(store.folder)
        self._trainer = trainer
        self._agent = agent
        self._facts = facts
        self._wanted_chunk = chunk
        self._seen_chunk = chunk  # of the newest segment: the operator's word on this broker's packets
        self._keepalive_s = keepalive_s
        self._mailer = Mailer(transport, self.traffic, log.warning)
        self._gathering = Gathering(store.blobs, self._pull, luck)
        self._gathering.link_bytes_s = machine.saved.link_bytes_s
        self._holder = Holder(transport, self.traffic, lambda _peer: topics.upload(device))
        self._driver: Driver[DeviceEvent, DeviceEffect] = Driver(machine.handle, self._perform)
        self._jobs = Jobs()
        self._meter = Meter(machine.saved.link_bytes_s)
        self._update: Manifest | None = None
        self._followed: tuple[int, ...] = ()  # segments

    @property
    def transfers(self) -> int:
        """Segments that are coming in and chunks that are going out."""
        return self._gathering.running + self._holder.running

    def stop(self) -> None:
        """Ask the device to end in good order."""
        self._driver.post(StopAsked())

    async def run(self) -> str:
        """Connect and take part until stopped; returns why it ended.

        Raises what the driver or the broker raises, and `TaskError` when the task cannot be loaded.
        """
        session = self._store.next_session()
        update = self._store.load().update
        if update is not None:
            self._serve(update)  # finished before a restart, and not receipted yet
        presence = partial(Presence, session, agent=self._agent)
        status = self._topics.status(self._device)
        will = Will(status, encode(presence(online=False)))
        self._driver.post(Started())
        if self._facts is not None:
            self._driver.post(self._facts.read())
            self._jobs.start("facts", self._look(self._facts))
        try:
            await self._transport.connect(Session(self._device, will, keepalive_s=self._keepalive_s))
            await self._transport.subscribe(self._topics.device_filters(self._device))
            self._jobs.start("connections", self._watch(session, presence(online=True)))
            self._jobs.start("inbox", self._listen())
            self._jobs.start("check", self._trainer.check())
            reason = await self._jobs.guard(self._driver.run())
            self._mailer.send(status, presence(online=False), retain=True)
            await self._mailer.flush(FAREWELL_S)
            return reason
        finally:
            await self._jobs.close()
            self._gathering.close()
            self._holder.close()
            self._mailer.close()
            await self._trainer.close()
            await self._transport.close()

    # ---- what comes in ----

    async def _watch(self, session: int, birth: Presence) -> None:
        """Say that we are here on every connection, and tell the machine."""
        async for limits in self._transport.connections():
            if limits is None:
                self._gathering.disconnected()
                self._meter.rest()
                self._driver.post(Disconnected())
                continue
            self._mailer.send(self._topics.status(self._device), birth, retain=True)
            self._gathering.connected(limits.session_present)
            self._driver.post(Connected(session, limits.max_packet))

    async def _look(self, facts: Facts) -> None:
        """Look at the machine again and again: what is new is said."""
        while True:
            await asyncio.sleep(READ_EVERY_S)
            self._driver.post(facts.read())

    async def _listen(self) -> None:
        async for inbound in self._transport.inbox():
            self.traffic.into("all", len(inbound.payload))
            try:
                self._take(inbound)
            except PeerFault as fault:
                self._driver.post(Faulted(inbound.topic, str(fault), inbound.token))

    def _take(self, inbound: Inbound) -> None:
        """Chunks, pulls and manifests are the wiring's own; everything else is the machine's."""
        place = self._topics.parse(inbound.topic)
        if place.what in (What.CAROUSEL, What.REPAIR):
            self._take_chunk(inbound, place.segment if place.what is What.CAROUSEL else None)
            self._acknowledge(inbound)
            return
        message = decode(inbound.payload)
        match message:
            case ManifestNote():
                self._seen_chunk = message.manifest.chunk
                self._gathering.note(message)
                self._acknowledge(inbound)
            case Pull():
                self._holder.pull(AGGREGATOR, message)
                self._acknowledge(inbound)
            case _:
                self._driver.post(Heard(AGGREGATOR, message, inbound.token))

    def _take_chunk(self, inbound: Inbound, segment: int | None) -> None:
        """A chunk of a segment; chunks that nobody waits for say nothing about the link, for who sends them stops."""
        before, wanted = self._meter.bytes_s, self._gathering.running
        self._gathering.chunk(parse_chunk(inbound.payload), segment)
        if wanted:
            self._meter.took(len(inbound.payload), asyncio.get_running_loop().time())
        if not self._gathering.running:
            self._meter.rest()
        if self._meter.bytes_s != before:
            self._gathering.link_bytes_s = self._meter.bytes_s
            self._driver.post(LinkMeasured(self._meter.bytes_s))

    def _acknowledge(self, inbound: Inbound) -> None:
        if inbound.token:
            self._transport.ack(inbound.token)

    # ---- what goes out ----

    async def _perform(self, effect: DeviceEffect) -> None:
        match effect:
            case SaveState(state):
                self._store.save(state)
            case Say(message):
                self._mailer.send(self._topics.event(self._device), message)
            case Ack(token):
                self._transport.ack(token)
            case Probe(survey, session):
                self._jobs.start("probe", self._probe(survey, session))
            case Follow(segments):
                self._jobs.start("follow", self._follow(segments))
            case FetchSegments(offer):
                self._gathering.want("round", offer.segments, partial(self._fetched, offer.round))
            case Train(offer):
                self._jobs.start("train", self._train(offer))
            case StopTraining():
                self._gathering.forget("round")
                self._jobs.cancel("train")
            case ForgetUpdate():
                self._forget_update()
            case Install(head):
                held = tuple(head.segments[k] for k in self._machine.saved.segments if k < len(head.segments))
                self._gathering.want("head", held, partial(self._installed, head, held))
            case Alarm(text):
                log.warning(text)
            case _:
                raise AssertionError(f"no hand for {effect!r}")

    def _pull(self, pull: Pull) -> None:
        if self._transport.connected:  # else it would only be late: the receiver asks again
            self._mailer.send(self._topics.pull(self._device), pull)

    async def _follow(self, segments: tuple[int, ...]) -> None:
        wanted, old = self._topics.tier_filters(segments), self._topics.tier_filters(self._followed)
        self._followed = segments
        gone = [one for one, _ in old if one not in {other for other, _ in wanted}]
        new = [one for one in wanted if one not in old]
        if gone:
            await self._transport.unsubscribe(gone)
        if new:
            await self._transport.subscribe(new)

    async def _probe(self, survey: Survey, session: int) -> None:
        try:
            capability = await self._trainer.probe(survey, session)
        except MhflError as error:
            self._driver.post(ProbeFailed(str(error)))
        else:
            self._driver.post(Probed(capability))

    def _fetched(self, number: int, fault: str) -> None:
        self._driver.post(FetchFailed(number, fault) if fault else Fetched(number))

    def _installed(self, head: Head, segments: Sequence[str], fault: str) -> None:
        if not fault:
            fault = self._point(head)
        if not fault:
            self._sweep(segments)
        self._driver.post(InstallFailed(head.version, fault) if fault else Installed(head.version))

    def _point(self, head: Head) -> str:
        """Say in a file which model this device's programs had better use, and where it lies; what went wrong."""
        saved = self._machine.saved
        if saved.tier is None or saved.survey is None:
            return ""
        tiers = saved.survey.tiers
        use = head.use[saved.tier] if saved.tier < len(head.use) and head.use[saved.tier] < len(tiers) else saved.tier
        files = [self._blobs.path(head.segments[k]) for k in tiers[use].holds(use)]
        named = [str(one) for one in files]
        try:
            self._store.point(Pointer(head.version, head.layout, tiers[saved.tier].name, tiers[use].name, named))
        except StoreError as error:
            return str(error)
        return ""

    def _sweep(self, head: Sequence[str]) -> None:
        """Delete what neither the head, nor the round that we are in, nor a fetch needs: old versions' segments."""
        saved = self._machine.saved
        kept = self._gathering.useful().union(head)
        if saved.offer is not None:
            kept.update(saved.offer.segments)
        kept.update(update.blob_id for update in (saved.update, self._update) if update is not None)
        self._blobs.keep(kept)

    async def _train(self, offer: Offer) -> None:
        try:
            segments = [self._segment(blob_id) for blob_id in offer.segments]
            survey = self._machine.saved.survey
            if survey is None:
                raise LocalMisuse("an offer was taken without a survey", where=f"round {offer.round}")
            result = await self._timed(survey, offer, segments)
            packed = await self._packed(offer, result, segments)
            manifest = self._blobs.adopt(packed.path, self._chunk_for(packed.path.stat().st_size))
        except MhflError as error:
            self._driver.post(TrainFailed(offer.round, str(error)))
            return
        self._serve(manifest)
        metrics = {**result.metrics, **packed.metrics}
        self._driver.post(Trained(offer.round, manifest, result.weight, metrics, self._inline(manifest)))

    async def _timed(self, survey: Survey, offer: Offer, segments: Sequence[Path]) -> TrainResult:
        """Train; who is stopped after the first step began knows all the same how long a step takes at least."""
        begun: list[float] = []
        now = asyncio.get_running_loop().time
        try:
            return await self._trainer.train(survey, offer, segments, lambda: begun.append(now()))
        except asyncio.CancelledError:
            if begun and (steps := offer.options.get("steps", 0.0)):
                self._driver.post(TrainingStopped(offer.round, (now() - begun[0]) / steps))
            raise

    async def _packed(self, offer: Offer, result: TrainResult, segments: Sequence[Path]) -> PackedUpdate:
        """The update as the offer wants it sent."""
        counted = self._machine.saved.counted
        if result.update.stat().st_size < THREAD_FROM:
            return self._packing.pack(offer, result.update, segments, counted)
        return await asyncio.to_thread(self._packing.pack, offer, result.update, segments, counted)

    def _chunk_for(self, size: int) -> int:
        """The chunk of an update: no larger than a segment's, while the update has no more chunks than a blob may."""
        limit = self._transport.limits.max_packet
        small = clamp_chunk(limit, min(self._wanted_chunk, self._seen_chunk))
        return small if size <= small * MAX_CHUNKS else clamp_chunk(limit, self._wanted_chunk)

    def _segment(self, blob_id: str) -> Path:
        path = self._blobs.path(blob_id)
        if path is None:
            raise StoreError("a segment that was fetched is gone", where=blob_id)
        return path

    def _serve(self, manifest: Manifest) -> None:
        path = self._blobs.path(manifest.blob_id)
        if path is None:
            return
        self._update = manifest
        self._served.hold(manifest, path)
        self._holder.hold(manifest, partial(self._served.read, manifest.blob_id))

    def _inline(self, manifest: Manifest) -> bytes:
        if manifest.size > INLINE_LIMIT:
            return b""
        return b"".join(self._served.read(manifest.blob_id, index) for index in range(manifest.chunks))

    def _forget_update(self) -> None:
        if self._update is not None:
            self._holder.drop(self._update.blob_id)
            self._served.drop(self._update.blob_id)
            self._blobs.drop(self._update.blob_id)
            self._update = None
