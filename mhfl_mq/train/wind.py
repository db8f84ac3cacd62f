"""The demo's task: the power band of a wind turbine from two hours of wind, on a real wind farm's data.

A virtual power sensor: 5 channels x 12 ten-minute means in, one of 5 power bands out. The data ship with the package
(`data/ATTRIBUTION.txt`: ENGIE, La Haute Borne, Open Licence 2.0). Easy physics: a table of wind speed alone reaches
0.862 on the test part. Eight natural shards (turbine x season) differ in their mix of bands. Beside widths of one
network it has three unrelated ones by name (`mlp`, `cnn`, `lstm`), and a public set for distillation.
"""

import hashlib
import io
import re
import zipfile
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mhfl_mq.errors import TaskError
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.task import Examples, Task
from mhfl_mq.train.wind_architectures import FEATURES, WindLSTM, WindMLP

__all__ = ["FILE", "SHARDS", "TASK", "WindNet", "device_data", "model", "public_data", "training_part"]

FILE: Final = "wind_demo.npz"
SHA256: Final = "74f08a3ee1f714d9897835d48b9d27ffe5eeba850a9c04b8cac0f40868b89e1d"
SHARDS: Final = 8
CLASSES: Final = 5
FULL_WIDTH: Final = 32
DEPTH: Final = 4
CHANNELS_PER_NORM: Final = 2
"""Channels of one normalisation group. Fixed, so that a narrower model's groups are the first groups of a wider one:
with a number of groups that does not grow, a tier would normalise over other channels than the tier above it."""

# What a value of each channel is about, and how far it goes: physics and instruments, not statistics of the data, so
# nothing about a device's data leaves it. Wind m/s, vane degrees, outdoor degrees Celsius, wind minus nacelle, nacelle.
CENTRE: Final = (6.0, 0.0, 12.0, 0.0, 180.0)
SPREAD: Final = (3.0, 10.0, 8.0, 10.0, 100.0)
FARTHEST: Final = 4.0
"""Scaled values are cut here: the vane of a turbine that stands still turns freely."""

PUBLIC_EVERY: Final = 10
"""One of so many training windows, drawn by a fixed seed, is in the public set."""

_ARRAYS: Final = {"X": (np.int16, 3), "scale": (np.float32, 1), "y": (np.uint8, 1), "client": (np.uint8, 1)}
_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


class WindNet(nn.Module):
    """Four 1-D convolutions with GroupNorm, `width` and 3 x 2 `width` channels, mean over time, one linear head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.conv1, self.norm1 = nn.Conv1d(5, width, 3, padding=1), _norm(width)
        self.conv2, self.norm2 = nn.Conv1d(width, wide, 3, padding=1, stride=2), _norm(wide)
        self.conv3, self.norm3 = nn.Conv1d(wide, wide, 3, padding=1, stride=2), _norm(wide)
        self.conv4, self.norm4 = nn.Conv1d(wide, wide, 3, padding=1), _norm(wide)
        self.head = nn.Linear(wide, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        """Band scores (n, 5) of scaled windows (n, 5 channels, 12 steps)."""
        x = relu(self.norm1(self.conv1(windows)))
        x = relu(self.norm2(self.conv2(x)))
        x = relu(self.norm3(self.conv3(x)))
        x = relu(self.norm4(self.conv4(x)))
        scores: Tensor = self.head(x.mean(dim=2))
        return scores


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // CHANNELS_PER_NORM, channels)


def model(shape: TierShape) -> WindNet:
    """The tier's model; its width is rounded to whole normalisation groups. Its depth is not a choice."""
    if shape.depth not in (0, DEPTH):
        raise TaskError(f"a depth of {shape.depth}", where="task 'wind'", remedy="its tiers differ in width only")
    groups = round(shape.width * FULL_WIDTH / CHANNELS_PER_NORM)
    return WindNet(max(groups, 1) * CHANNELS_PER_NORM)


# ---- data -----------------------------------------------------------------------------------------------------

Whole = npt.NDArray[np.int64]


class _Data:
    """The file's content, scaled for the network: inputs (6800, 5, 12), targets, shard and part of each window."""

    def __init__(self, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
        raw = arrays["X"].astype(np.float32) * arrays["scale"].astype(np.float32)
        scaled = (raw - np.array(CENTRE, np.float32)) / np.array(SPREAD, np.float32)
        cut = np.clip(scaled, -FARTHEST, FARTHEST).transpose(0, 2, 1)
        self.inputs = torch.from_numpy(np.ascontiguousarray(cut))
        self.targets = torch.from_numpy(arrays["y"].astype(np.int64))
        self.client = arrays["client"].astype(np.int64)
        self.test = arrays["test"].astype(np.bool_)
        self.names = tuple(str(name) for name in arrays["client_names"])

    def pick(self, index: Whole) -> Examples:
        """The windows of these numbers."""
        chosen = torch.from_numpy(index)
        return Examples(self.inputs[chosen], self.targets[chosen])


def device_data(shard: str, folder: Path | None) -> Examples:
    """One device's training windows: `R80711-winter` or `3` for a natural shard, `2/6` for device 2 of 6 (from 0).

    With at most 8 devices, device i of n holds the natural shards i, i + n, ...; with more, device i shares the
    shard i mod 8 with the others of it, each its own windows. Empty: all training windows.
    """
    data = _load(folder)
    return data.pick(_training_index(data, shard))


def training_part(shard: str, folder: Path | None, *, held_out: bool) -> Examples:
    """A fixed sixth of a shard's training windows (`held_out`) for choosing settings, or the rest of them.

    Settings are chosen on these, never on the test part.
    """
    data = _load(folder)
    index = _training_index(data, shard)
    place = np.arange(index.size) % 6 == 5
    return data.pick(index[place if held_out else ~place])


def test_data(folder: Path | None) -> Examples:
    """The test part: 2000 windows of the last six months, 500 of each turbine."""
    data = _load(folder)
    return data.pick(np.flatnonzero(data.test))


def public_data(folder: Path | None) -> Examples:
    """480 training windows without their bands, the same on all sides: those that ship, whatever `folder` holds.

    They are copies of windows that devices have: the data have no part that nobody owns. A plant's own public set
    should be examples that are nobody's secret.
    """
    data = _load(None)
    training = np.flatnonzero(~data.test)
    chosen = np.random.default_rng(0).choice(training, training.size // PUBLIC_EVERY, replace=False)
    inputs = data.inputs[torch.from_numpy(np.sort(chosen))]
    return Examples(inputs, torch.zeros(len(inputs), dtype=torch.int64))


def _training_index(data: _Data, shard: str) -> Whole:
    """The numbers of a shard's training windows."""
    if not shard:
        return np.flatnonzero(~data.test)
    part = _PART.fullmatch(shard)
    if part:
        device, devices = int(part[1]), int(part[2])
        if device >= devices:
            raise _no_shard(data, shard)
        if devices <= SHARDS:
            mine = (data.client % devices == device) & ~data.test
            return np.flatnonzero(mine)
        own = np.flatnonzero((data.client == device % SHARDS) & ~data.test)
        sharing = len(range(device % SHARDS, devices, SHARDS))
        picked = own[device // SHARDS :: sharing]
        if not picked.size:
            raise TaskError(
                f"no window is left for device {device} of {devices}", where="task 'wind'", remedy="run fewer"
            )
        return picked
    number = int(shard) if shard.isdecimal() and len(shard) < 4 else -1
    if shard in data.names:
        number = data.names.index(shard)
    if not 0 <= number < SHARDS:
        raise _no_shard(data, shard)
    return np.flatnonzero((data.client == number) & ~data.test)


def _no_shard(data: _Data, shard: str) -> TaskError:
    known = f"0 to {SHARDS - 1}, 'i/n' for device i of n, or one of {', '.join(data.names)}"
    return TaskError(f"there is no shard {shard!r}", where="task 'wind'", remedy=f"give {known}")


@lru_cache(maxsize=2)
def _load(folder: Path | None) -> _Data:
    """The data of a folder that holds wind_demo.npz, or those that ship with the package."""
    if folder is None:
        raw = files("mhfl_mq.train").joinpath("data", FILE).read_bytes()
        where = f"the package's {FILE}"
    else:
        path = Path(folder) / FILE
        where = str(path)
        try:
            raw = path.read_bytes()
        except OSError as error:
            what = f"{FILE} cannot be read: {error.strerror}"
            raise TaskError(what, where=where, remedy=f"give a folder that holds {FILE}") from error
    found = hashlib.sha256(raw).hexdigest()
    arrays = _arrays(raw, where)
    if folder is None and found != SHA256:
        raise TaskError(
            f"the SHA-256 of {FILE} is {found}", where=where, remedy="install mhfl-mq again: the file was changed"
        )
    return _Data(arrays)


def _arrays(raw: bytes, where: str) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an npz, with the shapes that the task needs."""
    remedy = "scripts/build_wind_demo.py makes the file from its source"
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise TaskError(f"{FILE} is no npz file: {error}", where=where, remedy=remedy) from error
    for name, (kind, axes) in {**_ARRAYS, "test": (np.bool_, 1), "client_names": (np.str_, 1)}.items():
        array = arrays.get(name)
        if array is None or not np.issubdtype(array.dtype, kind) or array.ndim != axes:
            told = "is missing" if array is None else f"is {array.dtype} {array.shape}"
            raise TaskError(f"the array {name!r} of {FILE} {told}", where=where, remedy=remedy)
    count = len(arrays["X"])
    fits = arrays["X"].shape[1:] == (12, 5) and arrays["scale"].shape == (5,)
    fits = fits and all(len(arrays[name]) == count for name in ("y", "client", "test"))
    fits = fits and count > 0 and int(arrays["y"].max()) < CLASSES and int(arrays["client"].max()) < SHARDS
    if not (fits and len(arrays["client_names"]) == SHARDS):
        raise TaskError(f"the arrays of {FILE} do not fit together", where=where, remedy=remedy)
    return arrays


def sample() -> Tensor:
    """Two windows of made-up values, each other than the next."""
    return torch.linspace(-2.0, 2.0, 2 * 5 * 12).reshape(2, 5, 12).sin()


TASK: Final = Task(
    name="wind",
    model=model,
    device_data=device_data,
    test_data=test_data,
    sample=sample,
    public_data=public_data,
    architectures={
        "mlp": lambda: WindMLP(CLASSES),
        "cnn": lambda: WindNet(FEATURES // 2),
        "lstm": lambda: WindLSTM(CLASSES),
    },
)
