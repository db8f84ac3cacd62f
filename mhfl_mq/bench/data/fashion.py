"""Fashion-MNIST: 28 x 28 grey pictures of ten kinds of clothing, 60 000 for training and 10 000 for the test.

No natural devices: the training pictures are split by a drawn mix of classes. Zalando SE, MIT licence; Debian and
Ubuntu have it as the package dataset-fashion-mnist.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.bench.data.base import BenchSet, Records
from mhfl_mq.bench.data.files import idx_array, read_file
from mhfl_mq.bench.data.foreign import foreign_networks
from mhfl_mq.bench.data.picture import picture_model

__all__ = ["FASHION", "FOLDER", "SHA256"]

FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package puts the files."""

SHA256: Final = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
REMEDY: Final = (
    "apt-get install dataset-fashion-mnist, or without root: apt-get download dataset-fashion-mnist, "
    "dpkg -x dataset-fashion-mnist*.deb FOLDER, and give FOLDER/usr/share/datasets/fashion-mnist"
)
SHAPE: Final = (1, 28, 28)
CLASSES: Final = 10
TEST_EVERY: Final = 4
"""One of so many test pictures is scored, which is 2500: a run scores every tier each round, and with all 10 000 that
takes longer than the training. The standard error of an accuracy of 0.8 is then 0.008."""
CENTRE: Final = 128.0
"""The middle of a byte, and its half range: a picture's values become [-1, 1), whatever the pictures are."""


def _scale(raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Pictures (n, 28, 28) of bytes as network inputs (n, 1, 28, 28)."""
    scaled: npt.NDArray[np.float32] = ((raw.astype(np.float32) - CENTRE) / CENTRE)[:, None]
    return scaled


@lru_cache(maxsize=1)
def load(folder: Path | None) -> Records:
    """The pictures, those for training first."""
    content = {}
    for name, sha256 in SHA256.items():
        path = (folder or FOLDER) / name
        content[name] = idx_array(read_file(path, sha256, REMEDY), str(path))
    train, train_labels, test, test_labels = content.values()
    test, test_labels = test[::TEST_EVERY], test_labels[::TEST_EVERY]
    count = len(train) + len(test)
    nowhere = np.zeros(count, np.int64)
    return Records(
        inputs=np.concatenate([train, test]),
        targets=np.concatenate([train_labels, test_labels]).astype(np.int64),
        client=nowhere,
        place=nowhere,
        unit=np.arange(count),
        test=np.arange(count) >= len(train),
        scale=_scale,
    )


FASHION: Final = BenchSet(
    name="fashion-mnist",
    title="Fashion-MNIST: ten kinds of clothing",
    classes=CLASSES,
    clients=0,
    shape=SHAPE,
    load=load,
    model=picture_model,
    architectures=foreign_networks(SHAPE, CLASSES),
)
