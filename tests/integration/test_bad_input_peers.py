"""Devices and clients that send what they should not: rounds go on, and it is told once, not a thousand times."""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.run.clock import SystemClock, seeded_luck
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import DeviceSetup, run_device
from mhfl_mq.run.ports import TrainResult
from mhfl_mq.testing.light import LightTrainer, light_layout
from mhfl_mq.testing.plant import Plant
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.mqtt import MqttTransport
from mhfl_mq.wire.blobs import build_manifest, chunk_payload
from mhfl_mq.wire.codec import encode, pack
from mhfl_mq.wire.messages import (
    Accept,
    Capability,
    Close,
    Hello,
    Message,
    Offer,
    Presence,
    ProbeResult,
    Pull,
    Survey,
    UpdateReady,
)
from mhfl_mq.wire.topics import Topics

pytestmark = [pytest.mark.broker]

TOPICS = Topics("federation")
FLOOD = 2000
MOST_MB = 90.0
"""Of an aggregator of a small model, flooded or not: Python with numpy, SQLite and pydantic takes about 65."""

Spoil = Callable[[TrainResult, Offer], TrainResult]


def quick(plant: Plant) -> MqttTransport:
    return MqttTransport(plant.broker.url_for("device"), backoff=Backoff(seeded_luck().random, first_s=0.1))


@asynccontextmanager
async def client(plant: Plant, name: str) -> AsyncIterator[MqttTransport]:
    """Somebody who has the devices' password, and nothing of a device."""
    transport = quick(plant)
    await transport.connect(Session(name, clean=True))
    try:
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def device(plant: Plant, name: str, make: Callable[[Path], LightTrainer]) -> AsyncIterator[DeviceHost]:
    """A real device in this process, but for what trains."""
    started: asyncio.Future[DeviceHost] = asyncio.get_running_loop().create_future()
    setup = DeviceSetup(plant.folder / name, name, TOPICS.federation, "wind")
    running = asyncio.create_task(
        run_device(setup, quick(plant), make, clock=SystemClock(), luck=seeded_luck(), started=started.set_result)
    )
    try:
        yield await started
    finally:
        with suppress(Exception):
            (await started).stop()
        await running


async def patiently(wait: Callable[[], object]) -> None:
    """Wait for the plant while this process's own device goes on."""
    await asyncio.to_thread(wait)


def highest_mb(plant: Plant) -> float:
    """The most memory that the aggregator ever had."""
    status = Path(f"/proc/{plant.processes.process('aggregator').pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1000


# ---- devices that do not fit ----------------------------------------------------------------------------------


def test_a_device_of_another_task_is_refused_with_both_names_and_stays_up(plant: Plant) -> None:
    plant.aggregator()
    plant.device("good", 0)
    (plant.folder / "pump_tasks.py").touch()
    here = {"PYTHONPATH": os.pathsep.join((str(plant.folder), os.environ.get("PYTHONPATH", "")))}
    plant.device("other", 0, "--task", "pump_tasks:PUMP", env=here)
    plant.await_log("other", "the federation runs the task wind, this device has pump_tasks:PUMP (task)")
    plant.await_rounds(3)
    assert plant.processes.process("other").poll() is None
    refused = [one for one in plant.entries("device.refuse") if one["device"] == "other"]
    assert len(refused) == 1  # it asks again after half a minute at the soonest
    assert refused[0]["code"] == "task"
    plant.processes.stop()
    plant.verify()


class OtherLayout(LightTrainer):
    """Builds the tiers of another version of the task."""

    async def probe(self, survey: Survey, session: int) -> Capability:
        capability = await super().probe(survey, session)
        return replace(capability, layout=light_layout([one.length + 1 for one in survey.tiers]).digest)


async def test_a_device_of_another_layout_is_refused_with_both_digests(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    plant.aggregator()
    plant.device("good", 0)
    theirs, ours = light_layout([301, 20_001]).digest, light_layout([300, 20_000]).digest
    async with device(plant, "other", lambda scratch: OtherLayout("other", 1, scratch)):
        await patiently(lambda: plant.await_entry("device.refuse", device="other", code="layout"))
        await patiently(lambda: plant.processes.until(lambda: theirs in caplog.text, "words of the device"))
        await patiently(lambda: plant.await_counted("good"))
    assert f"this device derives layout {theirs}, the federation has {ours}" in caplog.text
    assert "install the same version of the task on both" in caplog.text
    assert all(one["device"] == "good" for one in plant.entries("update.count"))
    plant.processes.stop()
    plant.verify()


# ---- updates that are no good ---------------------------------------------------------------------------------


class Spoiled(LightTrainer):
    """Trains, then spoils the update."""

    def __init__(self, name: str, strength: int, scratch: Path, spoil: Spoil) -> None:
        super().__init__(name, strength, scratch)
        self._spoil = spoil

    async def train(
        self, survey: Survey, offer: Offer, segments: Sequence[Path], began: Callable[[], None]
    ) -> TrainResult:
        return self._spoil(await super().train(survey, offer, segments, began), offer)


def with_value(value: float) -> Spoil:
    def spoil(result: TrainResult, _offer: Offer) -> TrainResult:
        vector = np.fromfile(result.update, "<f4")
        vector[-1] = value
        vector.tofile(result.update)
        return result

    return spoil


def cut(result: TrainResult, _offer: Offer) -> TrainResult:
    with result.update.open("r+b") as file:
        file.truncate(4 * 299)
    return result


def from_nothing(result: TrainResult, _offer: Offer) -> TrainResult:
    return replace(result, weight=0.0)


@pytest.mark.parametrize(
    ("strength", "spoil", "why"),
    [
        (1, with_value(float("nan")), "nan"),
        pytest.param(0, with_value(float("inf")), "inf", marks=pytest.mark.slow),
        pytest.param(0, with_value(1e30), "1e+30", marks=pytest.mark.slow),
        (0, cut, "wrong shape: 1196 bytes, tier tier0 has 1200"),
        (0, from_nothing, "it says that 0 examples are behind it"),
    ],
    ids=["NaN", "Inf", "huge", "short", "from nothing"],
)
async def test_a_bad_update_is_refused_and_the_round_goes_on_without_it(
    plant: Plant, caplog: pytest.LogCaptureFixture, strength: int, spoil: Spoil, why: str
) -> None:
    plant.aggregator()
    plant.device("good", 0)
    async with device(plant, "bad", lambda scratch: Spoiled("bad", strength, scratch, spoil)):
        await patiently(lambda: plant.await_entry("update.refuse", device="bad"))
        await patiently(lambda: plant.await_counted("good"))
        await patiently(lambda: plant.await_rounds(1))
        words = "was refused: "
        await patiently(lambda: plant.processes.until(lambda: words in caplog.text, "words of the device"))
    reasons = {one["reason"] for one in plant.entries("update.refuse")}
    assert all(why in reason.lower() for reason in reasons), reasons
    assert why in caplog.text.lower()
    assert all(one["device"] == "good" for one in plant.entries("update.count"))
    plant.processes.stop()
    plant.verify()


async def test_an_update_of_a_stale_base_or_of_no_round_is_refused(plant: Plant) -> None:
    plant.aggregator()
    plant.device("good", 0)
    await patiently(lambda: plant.await_counted("good"))
    manifest = build_manifest([b"\0" * 1200])
    async with client(plant, "stale") as liar:
        topic = TOPICS.event("good")
        await liar.publish(topic, encode(UpdateReady(10**6, 0, 1.0, manifest)))
        await patiently(lambda: plant.await_entry("update.refuse", reason="round 1000000 was never offered"))
        await patiently(lambda: plant.await_rounds(2))  # who was counted in the last round is told so again
        await liar.publish(topic, encode(UpdateReady(1, 0, 1.0, manifest)))
        await patiently(lambda: plant.await_entry("update.late", round=1))
    await patiently(lambda: plant.await_counted("good"))
    plant.processes.stop()
    plant.verify()


# ---- garbage --------------------------------------------------------------------------------------------------


def garbage(number: int) -> bytes:
    """Bytes that look like nothing, of many lengths."""
    seed = hashlib.sha256(str(number).encode()).digest()
    return (seed * 40)[: number % 1200]


def absurd(number: int) -> bytes:
    """Frames that decode, with values that no device would send."""
    most = 2**63 - 1
    frames: list[Message] = [
        Presence(most, False, "x" * 512),
        Hello(most, "wind", "x", "", most),
        Hello(number, "wind", "x", "", 100 + number),
        Hello(number, "t" * 64, "x"),
        Capability(number, f"{number:064x}", most, 1e300, (ProbeResult("tier0", 1e300, most),)),
        Capability(number, light_layout([300, 20_000]).digest, 0, 0.0, ()),
        UpdateReady(number, most, 1e300, build_manifest([b"\0" * 1200]), {"seconds": 1e308}, b""),
        Pull(f"{number:064x}", ((0, 5000),)),
        Accept(number),
        Close(number, "committed", most),
    ]
    return encode(frames[number % len(frames)])


async def send_all(transport: MqttTransport, messages: Sequence[tuple[str, bytes]], qos: int) -> None:
    """As fast as the broker takes them, a window at a time."""
    for start in range(0, len(messages), 100):
        batch = messages[start : start + 100]
        await asyncio.gather(*(transport.publish(topic, payload, qos=qos) for topic, payload in batch))


def flood(kind: Callable[[int], bytes], victim: str) -> list[tuple[str, bytes]]:
    topics = [TOPICS.event(victim), TOPICS.upload(victim), TOPICS.pull(victim), TOPICS.status(victim)]
    return [(topics[number % len(topics)], kind(number)) for number in range(FLOOD)]


def oversized(number: int) -> bytes:
    """Whole packets of nothing, up to what the broker takes, and chunks of blobs that nobody asked for."""
    if number % 2:
        return pack({"kind": "hello", "x": b"\0" * 90_000}) + b"\0" * 100_000
    return b"".join(bytes(part) for part in (chunk_payload("ab" * 32, number, b"\1" * 200_000),))


FLOODS: dict[str, list[tuple[str, bytes]]] = {
    "garbage": flood(garbage, "good"),
    "absurd": flood(absurd, "nobody"),
    "oversized": flood(oversized, "good")[:200],
    "absurd of the good one": flood(absurd, "good"),
}


@pytest.mark.parametrize(
    ("kind", "qos"),
    [
        ("garbage", 1),
        ("oversized", 0),
        ("absurd", 1),
        pytest.param("garbage", 0, marks=pytest.mark.slow),
        pytest.param("oversized", 1, marks=pytest.mark.slow),
        pytest.param("absurd", 0, marks=pytest.mark.slow),
        pytest.param("absurd of the good one", 1, marks=pytest.mark.slow),  # it is refused, and asks again after 30 s
        pytest.param("absurd of the good one", 0, marks=pytest.mark.slow),
    ],
)
async def test_a_flood_of_bad_frames_stops_no_round_and_fills_neither_memory_nor_ledger(
    plant: Plant, kind: str, qos: int
) -> None:
    plant.aggregator()
    plant.device("good", 0)
    await patiently(lambda: plant.await_counted("good"))
    async with client(plant, "noisy") as noisy:
        await send_all(noisy, FLOODS[kind], qos)
        await noisy.publish(TOPICS.event("last"), b"\xff", qos=1)
        await patiently(lambda: plant.await_entry("peer.fault", device="last"))
    await patiently(lambda: plant.await_rounds(2))
    await patiently(lambda: plant.await_counted("good"))
    assert highest_mb(plant) < MOST_MB
    rounds = len(plant.entries("round.open"))
    about_it = ["peer.fault", "device.refuse", "device.assign", "update.refuse", "update.late", "round.skip"]
    entries = {name: len(plant.entries(name)) for name in about_it}
    assert sum(entries.values()) < 10 * rounds + 20, (entries, rounds)
    alarms = [line for line in plant.processes.log("aggregator").splitlines() if "WARNING" in line]
    assert alarms
    assert len(alarms) < 30 + rounds, "\n".join(alarms[-5:])
    plant.processes.stop()
    plant.verify()


async def test_topics_that_are_none_of_ours_share_one_entry(plant: Plant) -> None:
    """Their names are the sender's choice, and may be 64 KiB long."""
    plant.aggregator()
    plant.device("good", 0)
    await patiently(lambda: plant.await_counted("good"))
    async with client(plant, "noisy") as noisy:
        odd = [(f"{TOPICS.prefix}d/{'x' * 20_000}{number}/status", b"x") for number in range(500)]
        odd += [(f"{TOPICS.prefix}d/good/out/{'y' * number}", b"x") for number in range(1, 100)]
        await send_all(noisy, odd, 1)
        await noisy.publish(TOPICS.event("last"), b"\xff", qos=1)
        await patiently(lambda: plant.await_entry("peer.fault", device="last"))
    await patiently(lambda: plant.await_rounds(1))
    assert highest_mb(plant) < MOST_MB
    faults = plant.entries("peer.fault")
    assert len(faults) <= 2 * len(plant.entries("round.open"))
    assert all(len(str(one)) < 1000 for one in faults)
    assert len(plant.processes.log("aggregator")) < 10_000
    plant.processes.stop()
    plant.verify()
