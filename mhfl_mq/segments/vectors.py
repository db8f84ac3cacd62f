"""The words for arrays: a flat vector, and a model's arrays by their names."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["Arrays", "Vector"]

Vector = npt.NDArray[np.float32]
Arrays = Mapping[str, Vector]
