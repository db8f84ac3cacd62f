"""Which examples a step learns from."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["batches"]


def batches(count: int, size: int, luck: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Endless minibatches of `size` of `count` examples: each at most once per pass, then shuffled anew.

    What is left at the end of a pass and does not fill a batch is dropped; less than `size` examples are one batch.
    """
    size = min(size, count)
    while True:
        order = luck.permutation(count)
        for at in range(0, count - size + 1, size):
            yield order[at : at + size]
