"""Where the real data lie, and torch on one thread."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mhfl_mq.bench.data import fashion, hydraulic

SHARED = Path(__file__).parents[4] / "shared" / "data"
"""Beside the repository; not part of it."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch on one thread, as in the training child."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rig() -> Path:
    """The folder of the hydraulic rig's data."""
    folder = SHARED / "hydraulic_1hz"
    if not (folder / hydraulic.FILE).is_file():
        pytest.skip(f"{hydraulic.FILE} is not here; docs/data.md says how to get it")
    return folder


@pytest.fixture
def pictures() -> Path:
    """The folder of Fashion-MNIST."""
    if not all((fashion.FOLDER / name).is_file() for name in fashion.SHA256):
        pytest.skip("the package dataset-fashion-mnist is not installed")
    return fashion.FOLDER
