"""What travels of an update, and what is owed: whatever happens between training and receipt, nothing is owed twice."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.run.packing import Packing
from mhfl_mq.segments import Vector, stored_update
from mhfl_mq.segments.blocks import read_blocks
from mhfl_mq.store.residual import FILE
from mhfl_mq.wire.messages import Offer

LAYOUT = "ab" * 32
LENGTH = 300
INT8 = {"precision": 8.0, "top_k": 1.0}
SPARSE = {"precision": 8.0, "top_k": 0.1}


def offer(number: int, options: dict[str, float], *, tier: int = 1, layout: str = LAYOUT) -> Offer:
    return Offer(number, 0, tier, layout, ("cd" * 32,) * (tier + 1), "heterofl", options, (), "", 60.0)


class Device:
    """A device's folder; every packing may be that of a new process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.model = folder / "model.f32"
        np.full(LENGTH, 2.0, np.float32).tofile(self.model)
        self.counted = 0
        self.metrics: dict[str, float] = {}
        self.size = 0

    def pack(self, number: int, vector: Vector, options: dict[str, float], **of: object) -> Vector:
        """Train this, pack it; returns what the aggregator would read."""
        update = self.folder / f"update-{number}.f32"
        vector.tofile(update)
        packed = Packing(self.folder).pack(offer(number, options, **of), update, [self.model], self.counted)  # type: ignore[arg-type]
        self.metrics, self.size = dict(packed.metrics), packed.path.stat().st_size
        sent = np.concatenate([b.copy() for _, b in read_blocks(stored_update(packed.path), vector.size)])
        packed.path.unlink()
        return sent

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path != self.model)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "device")


def normal(seed: int, length: int = LENGTH) -> Vector:
    return np.random.default_rng(seed).standard_normal(length, np.float32)


# ---- one update -----------------------------------------------------------------------------------------------


def test_an_offer_that_asks_for_nothing_leaves_the_update_as_it_is(device: Device) -> None:
    assert np.array_equal(device.pack(1, normal(1), {"steps": 3.0}), normal(1))
    assert (device.metrics, device.size, device.files) == ({}, 4 * LENGTH, [])


def test_a_compacted_update_says_what_it_changed_saved_and_lost(device: Device) -> None:
    sent = device.pack(1, normal(1), INT8)
    assert device.size < 0.3 * 4 * LENGTH
    whole, lost = np.linalg.norm(normal(1)), np.linalg.norm(normal(1) - sent)
    assert device.metrics == {
        "change": pytest.approx(whole / (2.0 * LENGTH**0.5), rel=1e-5),
        "error": pytest.approx(lost / whole, rel=1e-4),
        "saved_bytes": 4 * LENGTH - device.size,
    }
    assert device.files == [FILE]


def test_a_float32_update_with_nothing_owed_says_that_it_lost_nothing(device: Device) -> None:
    assert np.array_equal(device.pack(1, normal(1), {"precision": 32.0}), normal(1))
    assert (device.metrics["error"], device.metrics["saved_bytes"], device.files) == (0.0, 0.0, [])


def test_a_zero_update_stays_one_and_a_model_of_zeros_divides_nothing(device: Device) -> None:
    np.zeros(LENGTH, np.float32).tofile(device.model)
    assert not device.pack(1, np.zeros(LENGTH, np.float32), INT8).any()
    assert (device.metrics["change"], device.metrics["error"]) == (0.0, 0.0)
    device.pack(2, normal(1), INT8)
    assert device.metrics["change"] == 1.0


def test_a_diverged_training_is_an_error_and_leaves_nothing_behind(device: Device) -> None:
    with pytest.raises(LocalMisuse, match="is nan"):
        device.pack(1, np.full(LENGTH, np.nan, np.float32), INT8)
    assert device.files == ["update-1.f32"]


@pytest.mark.parametrize("options", [{"precision": 7.0}, {"precision": 8.0, "top_k": 2.0}])
def test_an_offer_that_asks_for_what_there_is_not_is_an_error(device: Device, options: dict[str, float]) -> None:
    with pytest.raises(LocalMisuse):
        device.pack(1, normal(1), options)


# ---- what is owed ---------------------------------------------------------------------------------------------


def test_what_a_used_update_lost_is_in_the_next_one(device: Device) -> None:
    first = device.pack(1, normal(1), SPARSE)
    device.counted = 1
    second = device.pack(2, normal(2), {"precision": 32.0})
    assert np.allclose(first + second, normal(1) + normal(2), atol=1e-6)
    device.counted = 2
    assert np.array_equal(device.pack(3, normal(3), INT8), Device(device.folder / "new").pack(3, normal(3), INT8))


def test_an_update_that_was_not_used_changes_nothing_of_what_is_owed(device: Device) -> None:
    device.pack(1, normal(1), SPARSE)  # refused, withdrawn, or its round came to nothing
    assert np.array_equal(device.pack(2, normal(2), {"precision": 32.0}), normal(2))


def test_the_same_round_trained_again_gives_the_same_update(device: Device) -> None:
    device.pack(1, normal(1), SPARSE)
    device.counted = 1
    again = [device.pack(2, normal(2), SPARSE) for _ in range(3)]
    assert np.array_equal(again[0], again[1])
    assert np.array_equal(again[0], again[2])


@pytest.mark.parametrize("change", [{"tier": 0}, {"layout": "cd" * 32}])
def test_nothing_is_owed_to_another_tier_or_layout(device: Device, change: dict[str, object]) -> None:
    device.pack(1, normal(1), SPARSE)
    device.counted = 1
    assert np.array_equal(device.pack(2, normal(2), {"precision": 32.0}, **change), normal(2))


def test_nothing_is_owed_once_the_policy_compacts_no_more(device: Device) -> None:
    device.pack(1, normal(1), SPARSE)
    device.counted = 1
    device.pack(2, normal(2), {})
    assert device.files == []


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "older"])
def test_a_damaged_or_older_file_is_forgotten(device: Device, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    device.pack(1, normal(1), SPARSE)
    device.counted = 1
    path = device.folder / FILE
    data = bytearray(path.read_bytes())
    data[-700] ^= 0xFF if damage == "flip" else 0
    path.write_bytes({"cut": bytes(data[:400]), "empty": b""}.get(damage, bytes(data)))
    device.counted = 2 if damage == "older" else 1
    sent = device.pack(3, normal(2), {"precision": 32.0})
    if damage == "flip":  # where the archive's directory is hit, or what it holds: never a wrong number
        assert np.array_equal(sent, normal(2)) or not caplog.records
    else:
        assert np.array_equal(sent, normal(2))
        assert "power cut" in caplog.text


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devices")


ENDS = ("used", "refused", "aborted", "killed before it was kept", "killed after it was kept")


@given(
    story=st.lists(
        st.tuples(
            st.sampled_from(ENDS),
            st.sampled_from((INT8, SPARSE, {"precision": 16.0}, {"precision": 32.0})),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_all_that_used_updates_were_is_what_was_sent_and_what_is_owed(
    story: Sequence[tuple[str, dict[str, float]]], folders: Path
) -> None:
    device = Device(folders / "one")
    (device.folder / FILE).unlink(missing_ok=True)
    sent, trained = np.zeros(LENGTH), np.zeros(LENGTH)
    number = 0
    for number, (end, options) in enumerate(story, 1):
        vector = normal(number)
        if end == "killed after it was kept":  # and before it was announced: it is trained again
            device.pack(number, vector, options)
        got = device.pack(number, vector, options)
        if end in ("refused", "killed before it was kept"):
            continue  # the next life is past the round's deadline
        if end == "aborted":  # the gate said no, after the receipt
            continue
        device.counted = number
        sent, trained = sent + got, trained + vector
    last = device.pack(number + 1, np.zeros(LENGTH, np.float32), {"precision": 32.0})
    assert np.allclose(sent + last, trained, atol=1e-4)
