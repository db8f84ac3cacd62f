"""Virtual time, a small layout and an empty folder of blobs, for the tests of the edge."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mhfl_mq.segments import Axis, Layout, Parameter, Tier
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.testing.sim_time import SimLoop


@pytest.fixture
def virtual() -> Iterator[asyncio.Runner]:
    """Runs coroutines under virtual time, and threads inline: nothing waits for real."""
    with asyncio.Runner(loop_factory=lambda: SimLoop(lambda: 0.01)) as runner:
        yield runner


@pytest.fixture
def layout() -> Layout:
    """Two tiers of 40 and 100 coordinates."""
    axes = (Axis(10, group="units"), Axis(10))
    return Layout((Tier("small", 0.4), Tier("large", 1.0)), {"units": (4, 10)}, (Parameter("weight", axes),))


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Blobs]:
    """An empty folder of blobs with room for 4 KiB."""
    folder = tmp_path / "blobs"
    folder.mkdir()
    made = Blobs(folder, 4096, lambda: 0.0)
    yield made
    made.close()
