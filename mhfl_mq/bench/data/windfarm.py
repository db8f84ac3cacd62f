"""The demo's wind farm as a benchmark: the same file, scaling and test part as the task `wind`, with networks in depth.

A table of wind speed alone reaches 0.862 on the test part: easy physics, to be said wherever its accuracy is quoted.
"""

from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.bench.data.base import BenchSet, Records
from mhfl_mq.bench.data.files import npz_arrays, read_file
from mhfl_mq.bench.data.foreign import foreign_networks
from mhfl_mq.bench.data.series import series_model
from mhfl_mq.train import wind

__all__ = ["WIND"]

SHAPE: Final = (5, 12)
SEASONS: Final = 2
REMEDY: Final = f"give no folder (the package has the file), or the one that holds {wind.FILE}"


def _scale(steps: npt.NDArray[np.float32], raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Windows (n, 12, 5) of int16 as network inputs (n, 5, 12), as the task `wind` scales them."""
    values = raw.astype(np.float32) * steps
    centre, spread = np.array([wind.CENTRE, wind.SPREAD], np.float32)
    cut: npt.NDArray[np.float32] = np.clip((values - centre) / spread, -wind.FARTHEST, wind.FARTHEST).transpose(0, 2, 1)
    return cut


@lru_cache(maxsize=2)
def load(folder: Path | None) -> Records:
    """The windows; a natural device is a turbine in a season, and is scored on its turbine's test windows."""
    path = files("mhfl_mq.train").joinpath("data", wind.FILE) if folder is None else Path(folder) / wind.FILE
    arrays = npz_arrays(read_file(path, wind.SHA256, REMEDY), str(path))
    client = arrays["client"].astype(np.int64)
    return Records(
        inputs=arrays["X"],
        targets=arrays["y"].astype(np.int64),
        client=client,
        place=client // SEASONS,
        unit=np.arange(client.size),
        test=arrays["test"],
        scale=partial(_scale, arrays["scale"]),
    )


WIND: Final = BenchSet(
    name="wind",
    title="Wind farm: power band from two hours of wind (a table of wind speed alone reaches 0.862)",
    classes=wind.CLASSES,
    clients=wind.SHARDS,
    shape=SHAPE,
    load=load,
    model=partial(series_model, SHAPE, wind.CLASSES, True),
    architectures=foreign_networks(SHAPE, wind.CLASSES),
)
