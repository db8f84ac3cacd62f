"""The stage contract: a privacy step with a device half that seals and an aggregator half that opens.

A stage turns contributions into contributions that still add: sealing each, summing, and opening the sum gives what
the plain sum would have been (within the stage's stated error). Stages run forward on the device and reversed on the
sum (as the postprocessors of pfl-research do). A stage that needs a dialogue, for keys say, speaks in letters, which
the host carries without reading them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mhfl_mq.segments import Contribution, Domain

__all__ = ["Cohort", "Entropy", "Letter", "Opener", "Options", "Quiet", "Sealer", "Stage"]

Options = Mapping[str, object]  # a stage's part of the policy: the stage itself refuses what it does not know


@dataclass(frozen=True, slots=True)
class Cohort:
    """Whose contributions are summed together: the tier of every device of the round, and the tiers' lengths.

    A device withholds a segment that too few of the others hold, so every half sees the whole roster.
    """

    round: int
    lengths: tuple[int, ...]
    tiers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Letter:
    """An opaque note between the two halves of one stage. `to` is a device, or empty for the aggregator."""

    to: str
    body: bytes


class Entropy(Protocol):
    """Where a stage takes its random bytes from: the system's in service, a seed in a test."""

    def token(self, count: int) -> bytes:
        """`count` fresh random bytes."""
        ...


class Sealer(Protocol):
    """The device half of a stage, for one round."""

    def begin(self, cohort: Cohort) -> Sequence[Letter]:
        """The first letters; called once, before everything else."""
        ...

    def receive(self, sender: str, body: bytes) -> Sequence[Letter]:
        """Letters that answer one; raises `PeerFault` for one that this stage's other half would not write."""
        ...

    @property
    def ready(self) -> bool:
        """Whether `seal` can be called: nothing more needs to come."""
        ...

    def seal(self, one: Contribution) -> Contribution:
        """This device's contribution as the next stage, or the wire, may see it."""
        ...


class Opener(Protocol):
    """The aggregator half of a stage, for one round."""

    def begin(self, cohort: Cohort) -> Sequence[Letter]:
        """The first letters; called once, before everything else."""
        ...

    def receive(self, sender: str, body: bytes) -> Sequence[Letter]:
        """Letters that answer one; raises `PeerFault` for one that this stage's other half would not write."""
        ...

    def closing(self, survivors: frozenset[str]) -> Sequence[Letter]:
        """The round closes with these devices' contributions in the sum; letters that ask for what that needs."""
        ...

    @property
    def ready(self) -> bool:
        """Whether `open` can be called."""
        ...

    def open(self, total: Contribution) -> Contribution:
        """The sum as the stage before (in the policy's order) made its addends."""
        ...


class Stage(Protocol):
    """A named maker of sealers and openers. What the entry-point group `mhfl_mq.stages` offers."""

    @property
    def name(self) -> str:
        """What policies call it: the entry point's own name."""
        ...

    @property
    def takes(self) -> Domain:
        """The numbers that it seals."""
        ...

    @property
    def gives(self) -> Domain:
        """The numbers that sealing makes of them."""
        ...

    def check(self, options: Options) -> None:
        """Raise `ConfigError` for options that are unknown or out of range: called when a policy is loaded."""
        ...

    def sealer(self, device: str, options: Options, entropy: Entropy) -> Sealer:
        """The device half for one round."""
        ...

    def opener(self, options: Options, entropy: Entropy) -> Opener:
        """The aggregator half for one round."""
        ...


class Quiet:
    """A half that exchanges no letters: a stage without a dialogue inherits only this."""

    def begin(self, cohort: Cohort) -> Sequence[Letter]:
        """No letters."""
        return ()

    def receive(self, sender: str, body: bytes) -> Sequence[Letter]:
        """No letters."""
        return ()

    def closing(self, survivors: frozenset[str]) -> Sequence[Letter]:
        """No letters."""
        return ()

    @property
    def ready(self) -> bool:
        """Always."""
        return True
