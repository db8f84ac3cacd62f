"""Blobs over a broker that loses and doubles: the way down (sharing, gathering), the way up (holder, collecting)."""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from mhfl_mq.errors import LocalMisuse, StoreFull
from mhfl_mq.families import make_algorithm
from mhfl_mq.protocol.effects import FetchUpdate
from mhfl_mq.protocol.events import UpdateBad, UpdateStored
from mhfl_mq.run.bench import Bench
from mhfl_mq.run.collecting import Collecting
from mhfl_mq.run.fetcher import Fetcher
from mhfl_mq.run.gathering import Gathering
from mhfl_mq.run.holder import Holder
from mhfl_mq.run.mailer import ASKED_AGAIN_S, Mailer
from mhfl_mq.run.sharing import Sharing
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.segments import Layout
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.models import Models
from mhfl_mq.testing.lossy import Lossy, LossyBroker, SlowLine
from mhfl_mq.transport.base import Transport
from mhfl_mq.transport.memory import Fate, Hop
from mhfl_mq.wire.blobs import Chunk, build_manifest, parse_chunk
from mhfl_mq.wire.codec import decode
from mhfl_mq.wire.messages import Manifest, ManifestNote, Pull
from mhfl_mq.wire.topics import Topics, What

TOPICS = Topics("test")
CHUNK = 64


def update(length: int, value: float = 1.0) -> bytes:
    return np.full(length, value, np.float32).tobytes()


def chunk_of(manifest: Manifest, data: bytes, index: int) -> Chunk:
    return Chunk(manifest.blob_id[:32], index, memoryview(data)[index * CHUNK : (index + 1) * CHUNK])


@pytest.fixture
def bench(layout: Layout, blobs: Blobs, tmp_path: Path) -> Bench:
    async def evaluate(flat: Path) -> dict[str, float]:
        return {"bytes": float(flat.stat().st_size)}

    models = tmp_path / "models"
    models.mkdir()
    return Bench(
        layout=layout,
        algorithm=make_algorithm("heterofl"),
        models=Models(models),
        blobs=blobs,
        scratch=tmp_path,
        evaluate=evaluate,
        largest_value=10.0,
    )


# ---- fetcher ----------------------------------------------------------------------------------------------------


class Asked:
    """A fetcher, what it asked for, and how its fetches ended."""

    def __init__(self, blobs: Blobs) -> None:
        self.asked: list[tuple[str, Pull]] = []
        self.ended: dict[str, str] = {}
        self.fetcher = Fetcher(blobs, lambda peer, pull: self.asked.append((peer, pull)))

    def fetch(self, peer: str, manifest: Manifest) -> None:
        self.fetcher.fetch(peer, manifest, partial(self.ended.__setitem__, peer))

    def give(self, peer: str, manifest: Manifest, data: bytes, *indexes: int) -> None:
        for index in indexes or range(manifest.chunks):
            self.fetcher.chunk(peer, chunk_of(manifest, data, index))


def test_two_devices_may_send_the_very_same_update(virtual: asyncio.Runner, blobs: Blobs) -> None:
    """Found by the simulator: the second one's next chunk ended the aggregator."""

    async def main() -> None:
        data = update(100)
        manifest, here = build_manifest(data, CHUNK), Asked(blobs)
        here.fetch("ada", manifest)
        here.fetch("bob", manifest)
        here.give("bob", manifest, data, 0)
        here.give("ada", manifest, data)
        assert here.ended == {"ada": ""}
        here.give("bob", manifest, data, 1)
        assert here.ended == {"ada": "", "bob": ""}
        assert here.fetcher.running == 0

    virtual.run(main())


def test_one_of_two_devices_with_the_same_update_may_go(virtual: asyncio.Runner, blobs: Blobs) -> None:
    async def main() -> None:
        data = update(100)
        manifest, here = build_manifest(data, CHUNK), Asked(blobs)
        here.fetch("ada", manifest)
        here.fetch("bob", manifest)
        here.give("ada", manifest, data, 0, 1)
        here.fetcher.cancel("ada")
        here.give("bob", manifest, data)
        assert here.ended == {"bob": ""}

    virtual.run(main())


def test_a_blob_that_was_dropped_under_a_fetch_ends_it(virtual: asyncio.Runner, blobs: Blobs) -> None:
    async def main() -> None:
        data = update(100)
        manifest, here = build_manifest(data, CHUNK), Asked(blobs)
        here.fetch("ada", manifest)
        blobs.drop(manifest.blob_id)
        await asyncio.sleep(10)
        assert here.ended == {"ada": "the blob was dropped"}

    virtual.run(main())


def test_a_fetch_goes_on_from_what_an_earlier_one_left(virtual: asyncio.Runner, blobs: Blobs) -> None:
    async def main() -> None:
        data = update(100)
        manifest, first, second = build_manifest(data, CHUNK), Asked(blobs), Asked(blobs)
        first.fetch("ada", manifest)
        first.give("ada", manifest, data, 0, 1, 2)
        first.fetcher.close()
        second.fetch("ada", manifest)
        assert second.asked == [("ada", Pull(manifest.blob_id, ((3, 7),)))]

    virtual.run(main())


def test_a_disk_without_room_ends_the_fetch_and_not_the_process(virtual: asyncio.Runner, blobs: Blobs) -> None:
    async def main() -> None:
        data = update(100)
        manifest, here = build_manifest(data, CHUNK), Asked(blobs)
        here.fetch("ada", manifest)
        with mock.patch.object(blobs, "write_proven", side_effect=StoreFull("no room")):
            here.give("ada", manifest, data, 0)
        assert here.ended == {"ada": "no room"}

    virtual.run(main())


def test_chunks_that_are_not_the_blobs_end_the_fetch_at_last(virtual: asyncio.Runner, blobs: Blobs) -> None:
    async def main() -> None:
        manifest, here = build_manifest(update(100), CHUNK), Asked(blobs)
        here.fetch("ada", manifest)
        for _ in range(17):
            here.give("ada", manifest, update(100, 2.0), 0)
        assert "bad chunks" in here.ended["ada"]
        assert not blobs.incoming

    virtual.run(main())


def test_a_fetch_asks_again_and_does_not_while_the_broker_is_gone(virtual: asyncio.Runner, blobs: Blobs) -> None:
    async def main() -> None:
        manifest, here = build_manifest(update(100), CHUNK), Asked(blobs)
        here.fetch("ada", manifest)
        here.fetch("ada", manifest)  # again: it goes on
        assert len(here.asked) == 1
        await asyncio.sleep(4)
        assert len(here.asked) == 2
        here.fetcher.disconnected()
        await asyncio.sleep(600)
        assert len(here.asked) == 2
        here.fetcher.connected(False)
        assert len(here.asked) == 3
        here.fetcher.close()
        await asyncio.sleep(600)
        assert len(here.asked) == 3

    virtual.run(main())


# ---- the way down -----------------------------------------------------------------------------------------------


async def serve(transport: Transport, take: Callable[[str, bytes], None]) -> None:
    async for inbound in transport.inbox():
        take(inbound.topic, bytes(inbound.payload))
        if inbound.token:
            transport.ack(inbound.token)


class Down:
    """An aggregator that shares models and devices that gather them, over a lossy broker."""

    def __init__(self, broker: LossyBroker, bench: Bench, folder: Path, rate: float | None = None) -> None:
        self.rate = rate
        self.broker = broker
        self.bench = bench
        self.folder = folder
        self.traffic = Traffic()
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self.transport = await self.broker.client("aggregator")
        await self.transport.subscribe(TOPICS.aggregator_filters())
        mailer = Mailer(self.transport, self.traffic, lambda text: None)
        self.sharing = Sharing(self.transport, TOPICS, mailer, self.traffic, broadcast_bytes_s=self.rate)
        self.tasks.append(asyncio.create_task(serve(self.transport, self._take)))

    def _take(self, topic: str, payload: bytes) -> None:
        message = decode(payload)
        assert isinstance(message, Pull)
        self.sharing.pull(TOPICS.parse(topic).device, message)

    async def device(self, name: str, tier: int = 1) -> Gathering:
        transport = await self.broker.client(name)
        here = self.folder / name
        here.mkdir()
        mailer = Mailer(transport, Traffic(), lambda text: None)
        blobs = Blobs(here, 10**6, asyncio.get_running_loop().time)
        gathering = Gathering(blobs, lambda pull: mailer.send(TOPICS.pull(name), pull), random.Random(name))

        def take(topic: str, payload: bytes) -> None:
            if topic.endswith("chunk") or topic.endswith("/c"):
                place = TOPICS.parse(topic)
                segment = place.segment if place.what is What.CAROUSEL else None
                gathering.chunk(parse_chunk(payload), segment)
            else:
                message = decode(payload)
                assert isinstance(message, ManifestNote)
                gathering.note(message)

        await transport.subscribe([*TOPICS.device_filters(name)[-2:], *TOPICS.tier_filters(range(tier + 1))])
        self.tasks.append(asyncio.create_task(serve(transport, take)))
        return gathering

    def share(self, model: str, *, broadcast: bool = True) -> None:
        self.sharing.share(model, self.bench.segments(model, CHUNK), broadcast=broadcast)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.sharing.close()


def put_model(bench: Bench, layout: Layout, value: float) -> str:
    return bench._models.put(np.full(layout.lengths[-1], value, np.float32), layout.document())


@pytest.mark.parametrize("inline", [0, 32 * 1024])
@pytest.mark.parametrize("lose", [0.0, 0.5, 1.0])
def test_devices_get_a_models_segments_whatever_is_lost(
    virtual: asyncio.Runner, bench: Bench, layout: Layout, tmp_path: Path, lose: float, inline: int
) -> None:
    async def main() -> None:
        down = Down(LossyBroker(Lossy(lose, 0.2)), bench, tmp_path)
        await down.start()
        devices = {name: await down.device(name) for name in ("ada", "bob")}
        model, ended = put_model(bench, layout, 3.0), dict[str, str]()
        down.share(model)
        wanted = down.sharing.segments(model)
        for name, gathering in devices.items():
            gathering.want("head", wanted, partial(ended.__setitem__, name))
        await asyncio.sleep(60)
        assert ended == {"ada": "", "bob": ""}
        assert down.sharing.running == sum(gathering.running for gathering in devices.values()) == 0
        carousel = down.traffic.sent["carousel"]
        assert carousel == (0 if inline else 400 + 28 * (3 + 4))  # each segment once, with the chunks' headers
        assert (down.traffic.sent["chunk"] > 0) == (lose > 0 and not inline)
        for name in devices:
            parts = b"".join((tmp_path / name / f"{one}.blob").read_bytes() for one in wanted)
            assert parts == update(100, 3.0)
        await down.stop()

    with mock.patch("mhfl_mq.run.sharing.INLINE_LIMIT", inline):
        virtual.run(main())


@pytest.mark.parametrize("broadcast", [True, False], ids=["with the round", "at the first pull"])
@pytest.mark.parametrize("rate", [16.0, 70.0])
def test_a_broadcast_keeps_its_rate_and_nothing_is_sent_around_it(
    virtual: asyncio.Runner, bench: Bench, layout: Layout, tmp_path: Path, rate: float, broadcast: bool
) -> None:
    """At 70 B/s segment 0 takes longer than a device waits for segment 1; at 16 it pulls before the next chunk."""

    async def main() -> None:
        down, loop = Down(LossyBroker(), bench, tmp_path, rate), asyncio.get_running_loop()
        await down.start()
        devices = {name: await down.device(name) for name in ("ada", "bob")}
        model, ended = put_model(bench, layout, 3.0), dict[str, float]()

        def note(name: str, _why: str) -> None:
            ended[name] = loop.time()

        down.share(model, broadcast=broadcast)
        for name, gathering in devices.items():
            gathering.want("head", down.sharing.segments(model), partial(note, name))
        start = loop.time()
        while len(ended) < 2:
            await asyncio.sleep(0.1)
            header = 28 * 7
            sent = max(0, down.traffic.sent["carousel"] - header)
            assert sent <= CHUNK + rate * (loop.time() - start)
            assert loop.time() - start < 200
        assert min(ended.values()) - start >= (400 - CHUNK) / rate
        assert down.traffic.sent["carousel"] == 400 + 28 * 7
        if rate == 70.0 and broadcast:
            assert down.traffic.sent["pull"] == 0
        assert down.traffic.sent["chunk"] == 0
        await down.stop()

    with mock.patch("mhfl_mq.run.sharing.INLINE_LIMIT", 0):
        virtual.run(main())


@pytest.mark.parametrize("known", [True, False])
def test_a_device_that_knows_its_slow_line_does_not_pull_what_is_on_its_way(
    virtual: asyncio.Runner, bench: Bench, layout: Layout, tmp_path: Path, known: bool
) -> None:
    async def main() -> None:
        line = SlowLine({})
        down = Down(LossyBroker(line), bench, tmp_path)
        await down.start()
        gathering, ended = await down.device("ada"), list[str]()
        gathering.link_bytes_s = 30.0 if known else 0.0
        model = put_model(bench, layout, 3.0)
        down.share(model, broadcast=False)
        await asyncio.sleep(0.1)  # the manifests are there
        line.rates["ada"] = 30.0  # 3 s a chunk
        down.sharing.share(model, None, broadcast=True)
        gathering.want("head", down.sharing.segments(model), ended.append)
        await asyncio.sleep(600)
        assert ended == [""]
        assert (down.traffic.sent["chunk"] == 0) is known
        await down.stop()

    with mock.patch("mhfl_mq.run.sharing.INLINE_LIMIT", 0):
        virtual.run(main())


def test_chunks_for_a_device_that_is_away_are_forgotten_by_the_broker(virtual: asyncio.Runner) -> None:
    async def main() -> None:
        broker, data = LossyBroker(), update(100)
        transport, away = await broker.client("aggregator"), await broker.client("ada")
        await away.subscribe([(TOPICS.repair("ada"), 1)])
        await away.close()
        holder, manifest = Holder(transport, Traffic(), TOPICS.repair), build_manifest(data, CHUNK)
        holder.hold(manifest, lambda index: chunk_of(manifest, data, index).data)
        holder.pull("ada", Pull(manifest.blob_id, ((0, 7),)))
        await asyncio.sleep(10)
        assert broker.waiting["ada"] == 7
        await asyncio.sleep(ASKED_AGAIN_S)
        back = await broker.client("ada")
        await asyncio.sleep(10)
        assert broker.waiting["ada"] == 0
        await transport.close()
        await back.close()

    virtual.run(main())


def test_a_broker_that_takes_no_chunk_is_told_once_with_the_remedy(
    virtual: asyncio.Runner, bench: Bench, layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Small(SlowLine):
        """A broker that breaks the connection over what is larger than it takes, as those of MQTT 3.1.1 do."""

        def fate(self, hop: Hop) -> Fate:
            return Fate(cut=True) if hop.up and len(hop.payload) > 100_000 else super().fate(hop)

    async def main() -> None:
        broker = LossyBroker(Small({}))
        transport = await broker.client("aggregator")
        data = bytes(8 * 256 * 1024)
        holder, manifest = Holder(transport, Traffic(), TOPICS.repair), build_manifest(data)
        holder.hold(manifest, lambda index: data[: manifest.chunk])
        holder.pull("ada", Pull(manifest.blob_id, ((0, 8),)))
        await asyncio.sleep(3600)
        assert holder.running == 0
        await transport.close()

    virtual.run(main())
    (told,) = [one.getMessage() for one in caplog.records if one.name == "mhfl_mq.run.holder"]
    assert told.startswith("a chunk was not sent: ")
    assert "`chunk_bytes: small-packets`" in told


def test_a_device_that_knows_no_manifest_asks_for_it_until_it_comes(
    virtual: asyncio.Runner, bench: Bench, layout: Layout, tmp_path: Path
) -> None:
    async def main() -> None:
        down = Down(LossyBroker(), bench, tmp_path)
        await down.start()
        model, ended = put_model(bench, layout, 3.0), list[str]()
        wanted = [one.blob_id for one in bench.segments(model, CHUNK).manifests]
        gathering = await down.device("ada")
        gathering.want("round", wanted, ended.append)
        await asyncio.sleep(10)
        assert ended == []
        down.share(model, broadcast=False)
        down.broker.start(keep_retained=False)  # the manifests themselves do not come by themselves any more
        await asyncio.sleep(10)
        assert ended == [""]
        gathering.forget("nonesuch")
        assert gathering.useful() == set(wanted)
        gathering.close()
        await down.stop()

    virtual.run(main())


def test_a_model_is_forgotten_after_two_newer_ones(
    virtual: asyncio.Runner, bench: Bench, layout: Layout, tmp_path: Path
) -> None:
    async def main() -> None:
        down = Down(LossyBroker(), bench, tmp_path)
        await down.start()
        models = [put_model(bench, layout, value) for value in (1.0, 2.0, 3.0)]
        for model in models:
            down.share(model)
        assert [down.sharing.holds(model) for model in models] == [False, True, True]
        with pytest.raises(LocalMisuse, match="is not shared"):
            down.sharing.segments(models[0])
        with pytest.raises(LocalMisuse, match="without its segments"):
            down.sharing.share(models[0], None, broadcast=True)
        down.sharing.share(models[1], None, broadcast=True)  # held already
        await down.stop()

    virtual.run(main())


def test_manifests_are_retained_again_for_a_broker_that_lost_them(
    virtual: asyncio.Runner, bench: Bench, layout: Layout, tmp_path: Path
) -> None:
    async def main() -> None:
        down = Down(LossyBroker(), bench, tmp_path)
        await down.start()
        down.sharing.announce_again()  # nothing to announce yet
        down.share(put_model(bench, layout, 1.0))
        await asyncio.sleep(5)
        before = down.broker.retained
        assert len(before) == 2
        down.broker.start(keep_retained=False)
        down.sharing.announce_again()
        await asyncio.sleep(5)
        assert down.broker.retained == before
        await down.stop()

    virtual.run(main())


# ---- the way up -------------------------------------------------------------------------------------------------


class Up:
    """An aggregator that collects, and holders that answer its pulls."""

    def __init__(self, blobs: Blobs, bench: Bench, places: int = 2) -> None:
        self.posted: list[UpdateStored | UpdateBad] = []
        self.broker = LossyBroker(Lossy(double=0.2))
        self.holders: dict[str, Holder] = {}
        self.most = 0
        self.collecting = Collecting(blobs, bench, self._pull, self.posted.append, places=places)
        self._fetcher = self.collecting._fetcher

    async def start(self) -> None:
        self.transport = await self.broker.client("aggregator")
        await self.transport.subscribe(TOPICS.aggregator_filters())
        self.task = asyncio.create_task(serve(self.transport, self._take))

    async def device(self, name: str, data: bytes) -> Manifest:
        manifest = build_manifest(data, CHUNK)
        transport = await self.broker.client(name)
        holder = self.holders[name] = Holder(transport, Traffic(), lambda _peer: TOPICS.upload(name))
        holder.hold(manifest, lambda index: data[index * CHUNK : (index + 1) * CHUNK])
        return manifest

    def _pull(self, device: str, pull: Pull) -> None:
        if device in self.holders:
            self.holders[device].pull("aggregator", pull)

    def _take(self, topic: str, payload: bytes) -> None:
        self.most = max(self.most, self._fetcher.running)
        self.collecting.chunk(TOPICS.parse(topic).device, parse_chunk(payload))

    async def stop(self) -> None:
        self.collecting.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.parametrize("thread_from", [0, 2**20])
def test_updates_are_pulled_a_few_at_a_time_and_proven(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs, thread_from: int
) -> None:
    async def main() -> None:
        up = Up(blobs, bench)
        await up.start()
        manifests = {}
        for k in range(6):
            manifests[f"d{k}"] = await up.device(f"d{k}", update(100, float(k)))
        for name, manifest in manifests.items():
            up.collecting.fetch(FetchUpdate(1, name, 1, manifest))
            up.collecting.fetch(FetchUpdate(1, name, 1, manifest))  # said again
        await asyncio.sleep(60)
        assert sorted(up.posted, key=lambda one: one.device) == [
            UpdateStored(1, name, manifest.blob_id) for name, manifest in manifests.items()
        ]
        assert up.most == 2
        assert up.collecting.running == 0
        await up.stop()

    with mock.patch("mhfl_mq.run.collecting.THREAD_FROM", thread_from):
        virtual.run(main())


@pytest.mark.parametrize("thread_from", [0, 2**20])
def test_a_bad_update_is_told_and_deleted(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs, thread_from: int
) -> None:
    async def main() -> None:
        up = Up(blobs, bench)
        await up.start()
        manifest = await up.device("ada", update(100, float("nan")))
        up.collecting.fetch(FetchUpdate(1, "ada", 1, manifest))
        await asyncio.sleep(10)
        (bad,) = up.posted
        assert isinstance(bad, UpdateBad)
        assert (bad.retry, bad.blob_id, bad.reason) == (False, manifest.blob_id, "coordinate 0 is nan")
        assert blobs.path(manifest.blob_id) is None
        await up.stop()

    with mock.patch("mhfl_mq.run.collecting.THREAD_FROM", thread_from):
        virtual.run(main())


def test_a_sound_update_is_judged_as_it_comes_and_not_read_again(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs
) -> None:
    async def main() -> None:
        up = Up(blobs, bench)
        await up.start()
        manifest = await up.device("ada", update(100))
        with mock.patch.object(bench, "fault_in_update", side_effect=AssertionError("it was read")):
            up.collecting.fetch(FetchUpdate(1, "ada", 1, manifest))
            await asyncio.sleep(10)
        assert up.posted == [UpdateStored(1, "ada", manifest.blob_id)]
        await up.stop()

    virtual.run(main())


@pytest.mark.parametrize("at", [0, 57, 99])
@pytest.mark.parametrize("had", [0, 1, 3])
def test_a_bad_number_is_found_wherever_it_stands_and_whoever_brought_its_chunk(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs, at: int, had: int
) -> None:
    async def main() -> None:
        up = Up(blobs, bench)
        await up.start()
        numbers = np.ones(100, np.float32)
        numbers[at] = np.inf
        manifest = await up.device("ada", numbers.tobytes())
        blobs.begin(manifest)
        for index in range(had):  # an earlier life of the aggregator had them
            blobs.write(manifest.blob_id, index, numbers.tobytes()[index * CHUNK : (index + 1) * CHUNK])
        blobs.pause(manifest.blob_id)
        up.collecting.fetch(FetchUpdate(1, "ada", 1, manifest))
        await asyncio.sleep(10)
        (bad,) = up.posted
        assert isinstance(bad, UpdateBad)
        assert (bad.retry, bad.reason) == (False, f"coordinate {at} is inf")
        await up.stop()

    virtual.run(main())


def test_an_inline_update_needs_no_pull(virtual: asyncio.Runner, bench: Bench, blobs: Blobs) -> None:
    async def main() -> None:
        up, data = Up(blobs, bench), update(40)
        manifest = build_manifest(data, CHUNK)
        up.collecting.fetch(FetchUpdate(1, "ada", 0, manifest, data))
        assert up.posted == [UpdateStored(1, "ada", manifest.blob_id)]
        up.collecting.fetch(FetchUpdate(1, "bob", 0, manifest))  # the same update, without its bytes
        assert up.posted[1:] == [UpdateStored(1, "bob", manifest.blob_id)]

    virtual.run(main())


def test_an_inline_update_that_finds_no_room_is_asked_for_again(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs
) -> None:
    async def main() -> None:
        up, data = Up(blobs, bench), update(40)
        manifest = build_manifest(data, CHUNK)
        with mock.patch.object(blobs, "put", side_effect=StoreFull("no room")):
            up.collecting.fetch(FetchUpdate(1, "ada", 0, manifest, data))
        (bad,) = up.posted
        assert isinstance(bad, UpdateBad)
        assert bad.retry

    virtual.run(main())


def test_chunks_larger_than_the_aggregators_memory_are_refused(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs
) -> None:
    async def main() -> None:
        up = Up(blobs, bench)
        huge = Manifest("a" * 64, 2**30, 2**23, b"\0" * 16 * 128)
        up.collecting.fetch(FetchUpdate(1, "ada", 1, huge))
        (bad,) = up.posted
        assert isinstance(bad, UpdateBad)
        assert "too large" in bad.reason

    virtual.run(main())


def test_a_silent_device_loses_its_place_and_its_half_update_gives_way(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs
) -> None:
    """The room for half-received updates is bounded: what silent devices left must not keep others out."""

    async def main() -> None:
        up = Up(blobs, bench, places=1)
        await up.start()
        silent = [build_manifest(update(1000, float(k)), CHUNK) for k in range(2)]  # 4000 of 4096 bytes
        for k, manifest in enumerate(silent):
            up.collecting.fetch(FetchUpdate(1, f"silent{k}", 1, manifest))
        manifest = await up.device("ada", update(100))
        up.collecting.fetch(FetchUpdate(1, "ada", 1, manifest))
        await asyncio.sleep(200)
        bad = [(one.device, one.reason, one.retry) for one in up.posted if isinstance(one, UpdateBad)]
        assert bad == [(f"silent{k}", "sent nothing for too long", True) for k in range(2)]
        assert up.posted[-1] == UpdateStored(1, "ada", manifest.blob_id)
        await up.stop()

    virtual.run(main())


def test_an_update_that_has_no_room_at_all_is_asked_for_again(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs
) -> None:
    async def main() -> None:
        up = Up(blobs, bench)
        up.collecting.fetch(FetchUpdate(1, "ada", 1, build_manifest(update(2000), CHUNK)))
        (bad,) = up.posted
        assert isinstance(bad, UpdateBad)
        assert bad.retry
        assert up.collecting.running == 0

    virtual.run(main())


def test_a_newer_update_of_a_device_takes_the_place_of_its_older_one(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs
) -> None:
    async def main() -> None:
        up = Up(blobs, bench, places=1)
        await up.start()
        old = build_manifest(update(100, 5.0), CHUNK)
        new = await up.device("ada", update(100, 6.0))
        up.collecting.fetch(FetchUpdate(1, "ada", 1, old))
        up.collecting.fetch(FetchUpdate(2, "ada", 1, new))
        await asyncio.sleep(10)
        assert up.posted == [UpdateStored(2, "ada", new.blob_id)]
        up.collecting.drop("nonesuch")
        await up.stop()

    virtual.run(main())


def test_one_that_waits_for_a_place_is_done_when_another_brings_the_same_update(
    virtual: asyncio.Runner, bench: Bench, blobs: Blobs
) -> None:
    """Found by the simulator: the blob was pulled again beside its whole self, and dropping that deleted both."""

    async def main() -> None:
        up = Up(blobs, bench, places=1)
        await up.start()
        manifest = await up.device("ada", update(100))
        up.collecting.fetch(FetchUpdate(1, "ada", 1, manifest))
        up.collecting.fetch(FetchUpdate(1, "bob", 1, manifest))
        await asyncio.sleep(10)
        assert set(up.posted) == {UpdateStored(1, name, manifest.blob_id) for name in ("ada", "bob")}
        assert not blobs.incoming
        await up.stop()

    virtual.run(main())


def test_a_lost_broker_costs_nobody_its_place(virtual: asyncio.Runner, bench: Bench, blobs: Blobs) -> None:
    async def main() -> None:
        up = Up(blobs, bench)
        up.collecting.fetch(FetchUpdate(1, "ada", 1, build_manifest(update(100), CHUNK)))
        up.collecting.disconnected()
        await asyncio.sleep(600)
        assert up.posted == []
        up.collecting.connected(True)
        await asyncio.sleep(100)
        assert [one.device for one in up.posted] == ["ada"]
        up.collecting.close()

    virtual.run(main())
