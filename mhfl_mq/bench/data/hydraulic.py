"""A hydraulic test rig: the state of a component from one load cycle of 17 sensors x 60 s.

Condition Monitoring of Hydraulic Systems (ZeMA, UCI data set 447, CC BY 4.0), reduced to 1 Hz. The rig ran through all
144 combinations of cooler, valve, pump and accumulator states, several cycles each. The natural devices are the three
states of the cooler, as three sites with other weather. Cycles of one combination are near duplicates, so the test part
is whole combinations (36 of 144), and so is a validation part. 2205 cycles: 1829 for training, 376 for the test.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.bench.data.base import BenchSet, Records
from mhfl_mq.bench.data.files import npz_arrays, read_file
from mhfl_mq.bench.data.foreign import foreign_networks
from mhfl_mq.bench.data.series import series_model
from mhfl_mq.errors import TaskError

__all__ = ["ACCUMULATOR", "FILE", "SHA256_OF_ARRAYS", "VALVE"]

FILE: Final = "hydraulic_1hz.npz"
SHA256_OF_ARRAYS: Final = "f676188e900cdb6ebac0ea279ef1c96f63b7a67540cdc678f47aea8940fbb2dd"
REMEDY: Final = f"give the folder that holds {FILE}; scripts/build_hydraulic.py makes it from its source (docs/data.md)"
SHAPE: Final = (17, 60)

# The working range of each sensor, in round numbers of its unit. They are ours: the source gives units and sampling
# rates, no measuring ranges, so they were read off the rig's training cycles as an engineer reads them off its gauges.
# They are constants that every device has from the start: no device's data are looked at to scale another's.
RANGES: Final = (
    (130.0, 190.0),  # PS1 pressure, bar
    (0.0, 170.0),  # PS2
    (0.0, 4.0),  # PS3
    (0.0, 10.0),  # PS4
    (8.0, 10.0),  # PS5
    (8.0, 10.0),  # PS6
    (2000.0, 3000.0),  # EPS1 motor power, W
    (0.0, 12.0),  # FS1 flow, l/min
    (8.5, 10.5),  # FS2
    (30.0, 60.0),  # TS1 temperature, degrees Celsius
    (30.0, 60.0),  # TS2
    (30.0, 60.0),  # TS3
    (30.0, 60.0),  # TS4
    (0.4, 0.8),  # VS1 vibration, mm/s
    (15.0, 50.0),  # CE cooling efficiency, %
    (1.0, 3.0),  # CP cooling power, kW
    (0.0, 100.0),  # SE efficiency factor, %
)
HALF_RANGE: Final = 2.0
"""A working range becomes [-2, 2]: about the spread that the networks' first layers are initialised for."""
FARTHEST: Final = 4.0
"""Scaled values are cut here: a sensor that fails reads anything."""


def _scale(steps: npt.NDArray[np.float32], raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Cycles (n, 60, 17) of int16 as network inputs (n, 17, 60)."""
    low, high = np.array(RANGES, np.float32).T
    values = raw.astype(np.float32) * steps
    scaled = ((values - low) / (high - low) * 2 - 1) * HALF_RANGE
    cut: npt.NDArray[np.float32] = np.clip(scaled, -FARTHEST, FARTHEST).transpose(0, 2, 1)
    return cut


@lru_cache(maxsize=2)
def _arrays(folder: Path | None) -> dict[str, npt.NDArray[Any]]:
    if folder is None:
        raise TaskError("no folder of data is given", where="the hydraulic data set", remedy=REMEDY)
    path = Path(folder) / FILE
    return npz_arrays(read_file(path, "", REMEDY), str(path), SHA256_OF_ARRAYS, REMEDY)


def load(target: str, folder: Path | None) -> Records:
    """The cycles with the states of one component ("valve", "accumulator") as their classes."""
    arrays = _arrays(folder)
    cooler = arrays["client"].astype(np.int64)
    return Records(
        inputs=arrays["X"],
        targets=arrays[target].astype(np.int64),
        client=cooler,
        place=cooler,
        unit=arrays["combo"].astype(np.int64),
        test=arrays["test"],
        scale=partial(_scale, arrays["scale"]),
    )


def _set(target: str, title: str) -> BenchSet:
    return BenchSet(
        name=f"hydraulic-{target}",
        title=title,
        classes=4,
        clients=3,
        shape=SHAPE,
        load=partial(load, target),
        model=partial(series_model, SHAPE, 4, False),
        architectures=foreign_networks(SHAPE, 4),
    )


VALVE: Final = _set("valve", "Hydraulic rig: state of the valve (73, 80, 90 or 100 % of its switching)")
ACCUMULATOR: Final = _set("accumulator", "Hydraulic rig: gas pressure of the accumulator (90, 100, 115 or 130 bar)")
