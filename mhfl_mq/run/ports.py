"""What the processes of mhfl-mq take as arguments besides a transport and a store: the bench, and what trains.

The real ones are `mhfl_mq.run.bench` and `mhfl_mq.run.training`; the simulator brings its own. Both are used from the
one event loop of a process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mhfl_mq.wire.messages import Capability, Offer, Survey

__all__ = ["Evaluate", "TrainResult", "Trainer"]


class Evaluate(Protocol):
    """Measures a model: `flat` is the file of its raw little-endian float32 vector."""

    async def __call__(self, flat: Path) -> Mapping[str, float]:
        """Metrics such as `accuracy/<tier>`; raises `MhflError` when it cannot be measured."""
        ...


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training: the update as raw little-endian float32, and what was measured.

    `weight` is how many examples are behind it; the aggregator makes of it what the update counts.
    """

    update: Path
    weight: float
    metrics: Mapping[str, float]


class Trainer(Protocol):
    """What trains on the device; the real one is a child process with torch."""

    async def check(self) -> None:
        """Load the task; raises `TaskError` when it cannot be, and never will."""
        ...

    async def probe(self, survey: Survey, session: int) -> Capability:
        """Build and measure every tier; raises `MhflError` when the task does not run here.

        `link_bytes_s` of the answer is 0: the device's machine fills in what its transfers showed.
        """
        ...

    async def train(self, survey: Survey, offer: Offer, segments: Sequence[Path]) -> TrainResult:
        """Train from the segments' files (raw float32, smallest tier first); raises `MhflError` without a result.

        `survey` is the one that the device's tier was assigned from: it has the tiers' sizes.
        The update's file is the caller's: on the disk of the device's store, and moved away from there.
        """
        ...

    async def close(self) -> None: ...
