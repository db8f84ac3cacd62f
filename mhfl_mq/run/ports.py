"""What the processes of mhfl-mq take as arguments besides a transport and a store: the bench, and what trains.

The real ones are `mhfl_mq.run.bench` and `mhfl_mq.run.training`; the simulator brings its own. Both are used from the
one event loop of a process.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mhfl_mq.policy import Policy
from mhfl_mq.segments import Layout, Span
from mhfl_mq.wire.messages import Capability, Offer, Survey

__all__ = ["Conclude", "Evaluate", "Foundation", "Founded", "TrainResult", "Trainer"]


class Evaluate(Protocol):
    """Measures a version: `flat` is the file of its raw little-endian float32 vector."""

    async def __call__(self, flat: Path) -> Mapping[str, float]:
        """Metrics such as `accuracy/<tier>`; raises `MhflError` when it cannot be measured."""
        ...


class Conclude(Protocol):
    """An algorithm's own step at the aggregator, after its sum was finalized."""

    async def __call__(
        self, *, head: Span, merged: Path, updates: Sequence[tuple[Path, int, float]], round_number: int
    ) -> None:
        """Make the file `merged` anew. `head` is the version before it, `updates` are files, tiers and weights."""
        ...


@dataclass(frozen=True, slots=True)
class Founded:
    """What a federation begins with: the layout, and the SHA-256 of the public examples (empty: it needs none).

    `flat` is a file of version 0 (raw float32), where one was asked for.
    """

    layout: Layout
    public: str = ""
    flat: Path | None = None


class Foundation(Protocol):
    """What a federation stands on: the layout of its task's models, their first version, and how good a version is."""

    async def found(self, policy: Policy, folder: Path | None) -> Founded:
        """The layout at the policy's tiers and algorithm; with a folder, also version 0 in a file there."""
        ...

    async def evaluate(self, policy: Policy, flat: Path) -> Mapping[str, float]:
        """`<metric>/<tier>` of a version, one for each tier: the gate and people compare versions by them.

        Empty for an algorithm whose models never leave the devices whole: these report their own scores.
        """
        ...

    async def conclude(
        self, policy: Policy, *, head: Span, merged: Path, updates: Sequence[tuple[Path, int, float]], round_number: int
    ) -> None:
        """See `Conclude`; only called where the policy's algorithm concludes."""
        ...

    async def close(self) -> None: ...


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

    async def train(
        self, survey: Survey, offer: Offer, segments: Sequence[Path], began: Callable[[], None]
    ) -> TrainResult:
        """Train from the segments' files (raw float32, smallest tier first); raises `MhflError` without a result.

        `began` is to be called when the first step begins: what is loaded before it is none of the steps' time.

        `survey` is the one that the device's tier was assigned from: it has the tiers' sizes.
        The update's file is the caller's: on the disk of the device's store, and moved away from there.
        """
        ...

    async def close(self) -> None: ...
