"""Builds the hydraulic rig's data, `hydraulic_1hz.npz`, from a checkout of a public GitHub repository.

    git clone https://github.com/Machine-Learning-FGA/Hydraulic-systems
    git -C Hydraulic-systems checkout 7d2af1342f5d10a604979ebb46f9f8b8aeb6f729
    python scripts/build_hydraulic.py Hydraulic-systems hydraulic_1hz.npz

Condition Monitoring of Hydraulic Systems (ZeMA; Helwig, Pignanelli, Schuetze, I2MTC 2015; UCI data set 447; CC BY 4.0):
2205 load cycles of 60 s, 17 sensors. What this makes of it:

- sensors that were read once a second come from `data/*.txt`; the faster ones from that repository's means per second,
  `data_compressed_1hz`, in which CE and CP have lost their decimal points;
- each sensor is stored as int16, in steps of its largest value / 32767, in single precision;
- the states are numbered in ascending order; `client` is the cooler's, `client12` cooler x accumulator, `combo` the
  combination of all four;
- the test part is the 36 of 144 combinations whose Python tuple of states, as text, has the lowest CRC-32.

The arrays are the same on every machine and `SHA256_OF_ARRAYS` is checked before anything is written; the file's own
digest can differ where another zlib packs it.
"""

import hashlib
import sys
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mhfl_mq.bench.data.files import digest_of_arrays
from mhfl_mq.bench.data.hydraulic import SHA256_OF_ARRAYS

SENSORS = [*(f"PS{k}" for k in range(1, 7)), "EPS1", "FS1", "FS2", *(f"TS{k}" for k in range(1, 5)), "VS1"]
SENSORS += ["CE", "CP", "SE"]
ONCE_A_SECOND = {"TS1", "TS2", "TS3", "TS4", "VS1", "CE", "CP", "SE"}
STATES = ("cooler", "valve", "pump", "accumulator", "stable")  # the columns of profile.txt
LARGEST_STORED = np.float32(32767)
HELD_OUT = 36


def read_sensor(source: Path, name: str) -> npt.NDArray[np.float32]:
    """The cycles (2205, 60) of one sensor."""
    slow = name in ONCE_A_SECOND
    path = source / "data" / f"{name}.txt" if slow else source / "data_compressed_1hz" / f"{name}_normalized.csv"
    return np.loadtxt(path).astype(np.float32)


def build(source: Path) -> dict[str, npt.NDArray[np.generic]]:
    """All arrays, in the order in which the file holds them."""
    cycles = np.stack([read_sensor(source, name) for name in SENSORS], axis=-1)
    scale = np.abs(cycles).max(axis=(0, 1)) / LARGEST_STORED
    profile = np.loadtxt(source / "data" / "profile.txt").astype(np.int64)
    states = {k: np.unique(profile[:, i], return_inverse=True)[1].astype(np.uint8) for i, k in enumerate(STATES)}
    cooler, valve, pump, accumulator = (states[name] for name in STATES[:4])
    told = [str(tuple(row[:4])) for row in profile.tolist()]
    held = sorted(set(told), key=lambda text: zlib.crc32(text.encode()))[:HELD_OUT]
    return {
        "X": np.round(cycles / scale).astype(np.int16),
        "scale": scale,
        **states,
        "client": cooler,
        "client12": cooler * 4 + accumulator,
        "combo": cooler * 48 + valve * 12 + pump * 4 + accumulator,
        "test": np.isin(told, held),
        "sensors": np.array(SENSORS),
    }


def main(argv: list[str]) -> int:
    """Builds the file, or says why not."""
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    arrays = build(Path(argv[0]))
    if digest_of_arrays(arrays) != SHA256_OF_ARRAYS:
        print(f"other arrays than expected: {digest_of_arrays(arrays)}; is it that commit?", file=sys.stderr)
        return 1
    target = Path(argv[1])
    np.savez_compressed(target, allow_pickle=False, **arrays)
    print(f"{target}: {target.stat().st_size} bytes, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
