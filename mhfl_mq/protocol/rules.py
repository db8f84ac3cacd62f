"""What the aggregator's machine goes by: the numbers of the policy, and who decides.

The machine reads no policy and the policy knows no machine: `mhfl_mq.run` translates the one into `Rules` and
implements `Decider` by the other's pure decisions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mhfl_mq.protocol.records import PastSaved
from mhfl_mq.protocol.words import plain
from mhfl_mq.wire.messages import Capability, Facts, TierSpec

__all__ = ["Asked", "Candidate", "Decider", "Decision", "May", "Opening", "Rules", "Upload"]

Candidate = tuple[str, int, int]
"""A device that may be invited: its id, its tier, and in how many rounds it had its turn."""


@dataclass(frozen=True, slots=True)
class Rules:
    """One federation's rules, fixed while the process lives. `layout` is the layout's digest, `policy` the policy's."""

    task: str
    agent: str
    layout: str
    tiers: tuple[TierSpec, ...]
    algorithm: str
    policy: str
    quorum_min: int  # no round is opened with fewer devices present
    deadline_s: float
    max_devices: int
    max_update_bytes: int
    max_weight: float
    batch: int
    algorithm_why: str = ""  # where the policy left the choice to us
    options: Mapping[str, float] = field(default_factory=dict)
    public: str = ""  # SHA-256 of the public examples; empty: the algorithm needs none
    stages: tuple[str, ...] = ()
    cohort: int | None = None  # counted updates that close a round early (more are invited); None: all invited
    compacts: bool = False  # an update may be smaller than raw float32
    max_rounds: int | None = None  # rounds of this state folder, over all lives of its process


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer with its reasons; `tier` is the index of the tier that was given.

    `alarms` are among the reasons: a person should see them although the answer stands.
    """

    yes: bool
    reasons: tuple[str, ...] = ()
    tier: int | None = None
    alarms: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The reasons in one line."""
        return plain("; ".join(self.reasons))


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether the schedule allows a round now, why, and in how many seconds that changes (None: not foreseeably)."""

    yes: bool
    changes_s: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Upload:
    """How a device sends its updates: numbers for its offers, every how many rounds it is asked, and why.

    `why` is empty for who sends as everybody may. An update has at most `most_bytes` (0: it is raw).
    """

    options: Mapping[str, float] = field(default_factory=dict)
    every: int = 1
    why: str = ""
    most_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A device that would be invited, as far as it is known; `said` is what it says of itself, and since when."""

    device: str
    tier: int
    turns: int
    past: PastSaved
    examples: int
    link_bytes_s: float
    said: tuple[Facts, float] | None
    next_bytes: int


@dataclass(frozen=True, slots=True)
class May:
    """The rule that keeps a device out (empty: none), and when waiting alone would let it in (None: it would not)."""

    rule: str = ""
    again_at: float | None = None

    @property
    def yes(self) -> bool:
        """Whether it may be invited."""
        return not self.rule


class Decider(Protocol):
    """The policy's pure decisions: the same question always gets the same answer."""

    def assign(self, capability: Capability) -> Decision:
        """Which tier this device carries; no tier when none fits its budget."""
        ...

    def opening(self, now: float, committed_at: float | None) -> Opening:
        """Whether a round may begin now; the last one that made a version began at `committed_at` (None: none did).

        Times are seconds since 1970, UTC.
        """
        ...

    def pause_s(self, last_round: int) -> float:
        """Seconds of pause after this round, before the schedule is asked."""
        ...

    @property
    def selective(self) -> bool:
        """Whether any rule is about single devices; where none is, nobody need be asked about."""
        ...

    def may(self, asked: Asked, rounds: int, now: float) -> May:
        """Whether this device may be invited now; `rounds` have ended so far."""
        ...

    def invite(self, candidates: tuple[Candidate, ...], present: int) -> tuple[str, ...]:
        """Whom to invite to a round, out of these; nobody when it is too early for a round.

        `present` are there, those among them whom a rule keeps out.
        """
        ...

    def needed(self, invited: int) -> int:
        """How many updates a round must count, of so many invited."""
        ...

    def upload(self, tier: int, link_bytes_s: float, change: float | None) -> Upload:
        """How a device of this tier and link (0: not measured) sends; `change` is how large its last update was,
        as a part of its model (None: it has not said)."""
        ...

    def weight(self, examples: float) -> float:
        """What an update counts in the mean, when so many examples are behind it; above 0."""
        ...

    def best(self, metrics: Mapping[str, float]) -> tuple[int, ...]:
        """For each tier, the tier whose model its devices had better use; empty: each its own."""
        ...

    def gate(self, new: Mapping[str, float], head: Mapping[str, float]) -> Decision:
        """Whether a model with these metrics may follow the head with those."""
        ...
