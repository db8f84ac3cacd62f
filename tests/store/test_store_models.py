"""Models: written once, content-addressed, readable by others, damaged ones told."""

import hashlib
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse, StoreError, StoreFull
from mhfl_mq.store.files import RealFiles
from mhfl_mq.store.models import BLOCK, Models, write_safetensors
from mhfl_mq.testing.files import FailingFiles, Failure

FLAT: npt.NDArray[np.float32] = np.linspace(-1, 1, 1000, dtype=np.float32)
LAYOUT = {"format": "test", "tiers": [["小", "0.5", 1]]}


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


def test_a_model_is_read_back_bit_for_bit_with_its_layout(models: Models) -> None:
    model = models.open(models.put(FLAT, LAYOUT, {"note": "x"}))
    assert model.length == 1000
    assert model.layout == LAYOUT
    assert model.metadata["note"] == "x"
    assert np.array_equal(model.map(), FLAT)
    assert np.array_equal(model.map(10, 20), FLAT[10:20])
    assert np.array_equal(model.read(10, 20), FLAT[10:20])
    assert np.array_equal(np.concatenate(list(model.blocks(300))), FLAT)
    assert [len(block) for block in model.blocks(300)] == [300, 300, 300, 100]


def test_a_mapped_model_cannot_be_changed(models: Models) -> None:
    with pytest.raises(ValueError, match="read-only"):
        models.open(models.put(FLAT, LAYOUT)).map()[0] = 1


def test_the_digest_is_the_file_s_and_the_name(models: Models, tmp_path: Path) -> None:
    digest = models.put(FLAT, LAYOUT)
    assert [one.name for one in tmp_path.iterdir()] == [digest + ".safetensors"]
    assert hashlib.sha256((tmp_path / f"{digest}.safetensors").read_bytes()).hexdigest() == digest
    assert models.digests() == (digest,)
    models.verify(digest)


def test_other_tools_open_the_file(models: Models) -> None:
    model = models.open(models.put(FLAT, LAYOUT, {"note": "x"}))
    assert np.array_equal(safetensors.numpy.load_file(model.path)["flat"], FLAT)
    with safetensors.safe_open(model.path, "np") as file:
        assert json.loads(file.metadata()["layout"]) == LAYOUT


def test_the_same_model_is_one_file_and_another_is_another(models: Models) -> None:
    assert models.put(FLAT, LAYOUT) == models.put(FLAT.copy(), dict(LAYOUT))
    models.put(FLAT, {**LAYOUT, "more": 1})
    models.put(FLAT[::-1], LAYOUT)
    assert len(models.digests()) == 3


@settings(max_examples=30)
@given(st.integers(1, 2 * BLOCK // 4), st.integers(0, 7))
def test_a_file_of_raw_floats_gives_the_same_model_as_the_array(
    tmp_path_factory: pytest.TempPathFactory, length: int, padding: int
) -> None:
    folder = tmp_path_factory.mktemp("models")
    models, raw = Models(folder), folder / "raw"
    flat = np.arange(length, dtype=np.float32)
    flat.astype("<f4").tofile(raw)
    layout = {"x": "y" * padding}
    digest = models.put(raw, layout)
    assert models.put(flat, layout) == digest
    model = models.open(digest)
    assert model.start % 8 == 0
    assert np.array_equal(model.map(), flat)


def test_a_strided_vector_is_stored_as_it_reads(models: Models) -> None:
    assert models.put(FLAT[::2], LAYOUT) == models.put(FLAT[::2].copy(), LAYOUT)


def test_neither_writing_nor_reading_takes_a_second_copy(models: Models) -> None:
    flat = np.zeros(16 * BLOCK // 4, np.float32)
    tracemalloc.start()
    model = models.open(models.put(flat, LAYOUT))
    assert sum(len(block) for block in model.blocks()) == len(flat)
    models.verify(model.digest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * BLOCK


@pytest.mark.parametrize(
    "flat", [np.zeros((2, 2), np.float32), np.zeros(4, np.float64), np.zeros(0, np.float32), np.zeros(3, np.int8)]
)
def test_what_is_not_a_float32_vector_is_refused_and_leaves_nothing(models: Models, tmp_path: Path, flat: Any) -> None:
    with pytest.raises(LocalMisuse, match="float32"):
        models.put(flat, LAYOUT)
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_is_too_long_is_refused(models: Models, tmp_path: Path) -> None:
    with pytest.raises(LocalMisuse, match="model header"):
        models.put(FLAT, {"x": "y" * 17_000_000})
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_do_not_fill_their_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalMisuse, match="8 bytes of tensors were given, their shapes need 12"):
        write_safetensors(RealFiles(), tmp_path / "x", {"a": (3,)}, iter([memoryview(bytes(8))]), metadata={})


@pytest.mark.parametrize("failure", [Failure.FULL, Failure.TORN, Failure.BAD])
def test_a_write_that_fails_anywhere_stores_the_whole_model_or_nothing(tmp_path: Path, failure: Failure) -> None:
    digest = Models(tmp_path).put(FLAT, LAYOUT)
    for nth in range(1, 100):
        for one in tmp_path.iterdir():
            one.unlink()
        files = FailingFiles(nth, failure)
        try:
            Models(tmp_path, files).put(FLAT, LAYOUT)
        except StoreError as error:
            full = isinstance(error, StoreFull)
        else:
            break
        assert full == (failure is not Failure.BAD)
        there = [one.name for one in tmp_path.iterdir()]
        assert there in ([], [f"{digest}.safetensors"])
        for found in Models(tmp_path).digests():
            Models(tmp_path).verify(found)
    assert nth == 7


def test_drafts_of_a_crash_are_swept_and_models_are_not(models: Models, tmp_path: Path) -> None:
    digest = models.put(FLAT, LAYOUT)
    (tmp_path / "123.tmp").touch()
    (tmp_path / "readme.safetensors").touch()
    models.sweep()
    assert models.digests() == (digest,)
    assert not (tmp_path / "123.tmp").exists()


# ---- damage ---------------------------------------------------------------------------------------------------


def test_a_changed_byte_is_found_by_verify(models: Models) -> None:
    model = models.open(models.put(FLAT, LAYOUT))
    data = bytearray(model.path.read_bytes())
    data[-1] ^= 1
    model.path.write_bytes(data)
    with pytest.raises(StoreError, match=r"has digest .*restore it from a backup"):
        models.verify(model.digest)


def test_a_cut_file_is_found_when_it_is_opened_or_read(models: Models) -> None:
    model = models.open(models.put(FLAT, LAYOUT))
    data = model.path.read_bytes()
    model.path.write_bytes(data[:-4])
    with pytest.raises(StoreError, match="bytes instead of"):
        models.open(model.digest)
    with pytest.raises(StoreError, match="ends before coordinate 1000"):
        model.read(0, 1000)


def test_a_model_that_is_not_there_is_told(models: Models) -> None:
    with pytest.raises(StoreError, match="is not there"):
        models.open("ab" * 32)
    with pytest.raises(StoreError, match="reading the model"):
        models.verify("ab" * 32)


@pytest.mark.parametrize("name", ["", "../lock", "AB" * 32, "zz" * 32])
def test_what_is_not_a_digest_never_becomes_a_path(models: Models, name: str) -> None:
    with pytest.raises(LocalMisuse, match="is not the SHA-256 of a model"):
        models.open(name)


def header(value: object) -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


FLAT_ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
LAID_OUT = {"layout": "{}"}
HOSTILE = {
    "empty": b"",
    "short": b"\1",
    "cut header": struct.pack("<Q", 100) + b"{",
    "endless header": struct.pack("<Q", 2**63) + b"{}",
    "not JSON": struct.pack("<Q", 2) + b"{x",
    "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "a list": header([]),
    "no tensor": header({"__metadata__": LAID_OUT}),
    "no layout": header({"flat": FLAT_ENTRY}) + bytes(4),
    "numbers as metadata": header({"__metadata__": {"layout": 1}, "flat": FLAT_ENTRY}) + bytes(4),
    "metadata is a list": header({"__metadata__": [], "flat": FLAT_ENTRY}) + bytes(4),
    "two tensors": header({"__metadata__": LAID_OUT, "flat": FLAT_ENTRY, "x": FLAT_ENTRY}) + bytes(4),
    "other type": header({"__metadata__": LAID_OUT, "flat": {**FLAT_ENTRY, "dtype": "F64"}}) + bytes(4),
    "other shape": header({"__metadata__": LAID_OUT, "flat": {**FLAT_ENTRY, "shape": [2]}}) + bytes(4),
    "more data": header({"__metadata__": LAID_OUT, "flat": FLAT_ENTRY}) + bytes(8),
    "less data": header({"__metadata__": LAID_OUT, "flat": FLAT_ENTRY}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_not_one_of_ours_is_told(models: Models, tmp_path: Path, name: str) -> None:
    (tmp_path / f"{'ab' * 32}.safetensors").write_bytes(HOSTILE[name])
    with pytest.raises(StoreError, match="this model"):
        models.open("ab" * 32)
