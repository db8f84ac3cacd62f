"""Files of data sets: missing, damaged, or not what they should be."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.bench.data import fashion, files, hydraulic, windfarm
from mhfl_mq.errors import TaskError


@pytest.mark.parametrize("name", ["hydraulic", "wind", "fashion"])
def test_a_missing_or_changed_file_is_told_with_the_way_to_get_it(name: str, tmp_path: Path) -> None:
    load = {"hydraulic": hydraulic.VALVE.load, "wind": windfarm.WIND.load, "fashion": fashion.FASHION.load}[name]
    file = {"hydraulic": hydraulic.FILE, "wind": "wind_demo.npz", "fashion": next(iter(fashion.SHA256))}[name]
    way = {"hydraulic": "docs/data.md", "wind": "the package has", "fashion": "apt-get install"}[name]
    with pytest.raises(TaskError, match=f"{file} cannot be read") as caught:
        load(tmp_path)
    assert way in caught.value.remedy
    with (tmp_path / file).open("wb") as written:
        np.savez(written, allow_pickle=False, X=np.zeros(3))
    with pytest.raises(TaskError, match=r"the SHA-256 of .* is [0-9a-f]{64}, not") as caught:
        load(tmp_path)
    assert caught.value.where == str(tmp_path / file)
    assert way in caught.value.remedy


def test_the_rig_needs_a_folder() -> None:
    with pytest.raises(TaskError, match="no folder of data") as caught:
        hydraulic.VALVE.load(None)
    assert "docs/data.md" in caught.value.remedy


def test_the_rigs_sensors_are_scaled_by_their_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = np.array(hydraulic.RANGES).T
    values = np.stack([low, high, (low + high) / 2, low + 100 * (high - low)])
    steps = (np.abs(values).max(axis=0) / 32767).astype(np.float32)
    raw = np.rint(values / steps).astype(np.int16)[:, None].repeat(60, axis=1)
    whole = {n: np.arange(4, dtype=np.uint8) for n in ("valve", "accumulator", "client", "combo")}
    path = tmp_path / hydraulic.FILE
    np.savez(path, allow_pickle=False, X=raw, scale=steps, test=np.zeros(4, np.bool_), **whole)
    with np.load(path) as made:
        monkeypatch.setattr(hydraulic, "SHA256_OF_ARRAYS", files.digest_of_arrays(dict(made)))
    picked = hydraulic.ACCUMULATOR.load(tmp_path).pick(np.arange(4))
    assert picked.inputs.shape == (4, 17, 60)
    for row, wanted in enumerate((-2.0, 2.0, 0.0, 4.0)):
        # the last row makes a step of int16 a hundredth of the range
        assert np.abs(picked.inputs[row].numpy() - wanted).max() < 0.02 * 2
    assert picked.targets.tolist() == [0, 1, 2, 3]


def test_pictures_are_read_from_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {}
    for number, name in enumerate(fashion.SHA256):
        count = 3 if name.startswith("train") else 6
        values = np.arange(count * 784 if "images" in name else count, dtype=np.int64) % 256
        shape = (count, 28, 28) if "images" in name else (count,)
        head = bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)
        raw = gzip.compress(head + values.astype(np.uint8).tobytes(), mtime=number)
        (tmp_path / name).write_bytes(raw)
        digests[name] = hashlib.sha256(raw).hexdigest()
    monkeypatch.setattr(fashion, "SHA256", digests)
    records = fashion.load(tmp_path)
    assert records.targets.tolist() == [0, 1, 2, 0, 4]  # of the test pictures one in four
    assert records.test.tolist() == [False] * 3 + [True] * 2
    picked = records.pick(np.array([0, 4]))
    assert picked.inputs.shape == (2, 1, 28, 28)
    assert float(picked.inputs.min()) == -1.0
    assert float(picked.inputs.max()) == 127 / 128


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"plain", "no gzip file"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x05abcd"), "no idx file"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01abcd"), "no idx file"),
        (gzip.compress(b"\0\0\x08\x03\0\0"), "no idx file"),
        (gzip.compress(b""), "no idx file"),
    ],
    ids=["no gzip", "too long", "of floats", "of three axes without sizes", "empty"],
)
def test_what_is_no_idx_file_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        files.idx_array(raw, "here")


def test_what_is_no_npz_file_is_refused() -> None:
    with pytest.raises(TaskError, match="no npz file"):
        files.npz_arrays(b"not a zip", "here")
