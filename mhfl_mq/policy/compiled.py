"""A policy as everybody but its loader knows it: frozen, checked, in seconds and bytes, with a digest.

Needs nothing but the standard library, so that what acts on a policy needs neither YAML nor pydantic. A later kind
of rule (schedules with windows, roll-out, privacy floors) becomes one more part of `Policy`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = [
    "API_VERSION",
    "Algorithm",
    "Budget",
    "Communication",
    "Condition",
    "Gate",
    "Kpi",
    "Limits",
    "Option",
    "Participation",
    "PerDevice",
    "Policy",
    "Quorum",
    "Registered",
    "Rule",
    "Schedule",
    "StageUse",
    "Tier",
    "Window",
]

API_VERSION: Final = "mhfl-mq/v1"

Option = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tier may cost on a device; None: no bound."""

    step_s: float | None = None  # seconds of one training step
    memory_bytes: int | None = None  # peak memory while training
    transfer_s: float | None = None  # seconds per round, model down and update up, at the speed its segments came in


@dataclass(frozen=True, slots=True)
class Tier:
    """One size class: the share of the width, the number of blocks (0: all), and what it may cost.

    `architecture` names a model of the task that is unlike the others; empty: the task's one model, cut. A device of
    this tier is asked for an update `every` so many rounds.
    """

    name: str
    width: float
    depth: int = 0
    budget: Budget = Budget()
    architecture: str = ""
    every: int = 1


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The method by name; `weighting` says what an update counts in the mean: `uniform`, `samples`, or empty for what
    the method itself says.

    `options` are its numbers (steps, batch, rate, ...) and travel in each offer.
    """

    name: str
    weighting: str = ""
    options: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many updates a round needs: at least `min`, and at least this share of the cohort."""

    min: int = 1
    fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class Condition:
    """What a fact must be: `operator` is one of >=, <=, >, <, == (numbers), `is` (yes or no), `one of` (texts, where
    `*` stands for any letters) and `has` (tags: all of these).
    """

    fact: str
    operator: str
    value: float | bool | tuple[str, ...]

    def __str__(self) -> str:
        match self.value:
            case bool():
                return f"{self.fact} is {'yes' if self.value else 'no'}"
            case tuple():
                return f"{self.fact} {'is' if self.operator == 'one of' else 'has'} {', '.join(self.value)}"
            case _:
                return f"{self.fact} {self.operator} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule by its name, which is the same in reasons, logs and the ledger: all of its conditions together."""

    name: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Participation:
    """Who is invited to a round, how many must deliver, and by when.

    `cohort` is how many updates a round aims at (None: everyone who can). `over_provision` times as many are
    invited, so that a few may fail. Only devices for which all rules of `require` hold and none of `forbid` does may
    be invited; a fact that is not known means no. A device has its turn in at most `largest_share` of the rounds, and
    after `failures` turns in a row without an update rests for `cooldown_s` (0: does not).
    """

    cohort: int | None = None
    over_provision: float = 1.0
    quorum: Quorum = Quorum()
    deadline_s: float = 300.0
    require: tuple[Rule, ...] = ()
    forbid: tuple[Rule, ...] = ()
    largest_share: float = 1.0
    cooldown_s: float = 0.0
    failures: int = 3


@dataclass(frozen=True, slots=True)
class Window:
    """A time that comes again and again: it begins by a cron line, in the schedule's zone, and lasts real seconds."""

    cron: str
    lasts_s: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class PerDevice:
    """What is the most for each device: how often it has its turn, and bytes up and training per day (None: no bound).

    A day is one of the schedule's zone. With `quiet_on_battery` a device that runs on its battery is not invited.
    """

    min_interval_s: float = 0.0
    upload_bytes: int | None = None
    training_s: float | None = None
    quiet_on_battery: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """When rounds are opened: at the times of `cron`, or `interval_s` after the end of the last one.

    A time of `cron` lapses after `within_s`. Both are up to `jitter_s` later, and hold only inside a window (where
    there are any) and outside all blackouts. At most `max_rounds`
    (None: no end). What it means is in `mhfl_mq.policy.schedule`.
    """

    interval_s: float = 0.0
    max_rounds: int | None = None
    cron: str = ""
    timezone: str = "UTC"
    within_s: float = 3600.0
    windows: tuple[Window, ...] = ()
    blackouts: tuple[Window, ...] = ()
    jitter_s: float = 0.0
    per_device: PerDevice = PerDevice()


@dataclass(frozen=True, slots=True)
class Gate:
    """A merged model may be at most `max_drop` worse than the head, on the mean over tiers (None: only finite)."""

    max_drop: float | None = None


@dataclass(frozen=True, slots=True)
class Communication:
    """How updates travel: bits of a value (32, 16, 8), the share of coordinates sent, and every how many rounds.

    With `adaptive` this is the best that a device gets, and each gets what its link carries in `transfer_s`, down to
    int8 of `smallest_top_k` of the coordinates every `longest_every` rounds. A device whose last update changed less
    than `quiet` of its model is asked half as often.
    """

    adaptive: bool = False
    precision: int = 32
    top_k: float = 1.0
    every: int = 1
    transfer_s: float = 10.0  # seconds of an upload, per round
    smallest_top_k: float = 0.1
    longest_every: int = 4
    quiet: float = 0.001

    @property
    def compacts(self) -> bool:
        """Whether an update may be anything but raw float32."""
        return self.adaptive or self.precision != 32 or self.top_k < 1.0


@dataclass(frozen=True, slots=True)
class StageUse:
    """A privacy stage by name, with its options."""

    name: str
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the aggregator takes at most; all bytes, all counts, `largest_value` of one coordinate of an update.

    `broadcast_bytes_s` is what it sends at most, on the one broadcast of a segment; None: as the broker takes it.
    """

    update_bytes: int = 256 * 2**20
    chunk_bytes: int = 256 * 2**10
    concurrent_uploads: int = 4
    devices: int = 1000
    max_weight: float = 1e6
    largest_value: float = 1e3
    broadcast_bytes_s: int | None = None


@dataclass(frozen=True, slots=True)
class Kpi:
    """A key figure and its target: `operator` is one of >=, <=, >, <. Over the last `window_s` (None: all time).

    `of` is the accuracy that is to be reached, `watts` what a device takes while it trains, for the figures that need
    them. What they mean is in `mhfl_mq.policy.kpi`.
    """

    metric: str
    operator: str
    target: float
    window_s: float | None = None
    of: float | None = None
    watts: float | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """What the registry says of a device, or of all devices whose id the pattern fits (`*`: any letters)."""

    pattern: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole federation policy, checked. Tiers are smallest first, and each holds the one before it."""

    name: str
    tiers: tuple[Tier, ...]
    algorithm: Algorithm
    description: str = ""
    participation: Participation = Participation()
    schedule: Schedule = Schedule()
    gate: Gate = Gate()
    stages: tuple[StageUse, ...] = ()
    limits: Limits = Limits()
    communication: Communication = Communication()
    devices: tuple[Registered, ...] = ()
    revision: int = 0  # an applied policy must have a higher one than the running policy, once that has one
    kpi: tuple[Kpi, ...] = ()
    require_signatures: int = 0  # people who must have signed the file, and its successor

    @property
    def digest(self) -> str:
        """SHA-256 over the content: another layout, order of keys, or `900s` for `15m` give the same digest."""
        policy = dataclasses.asdict(self)
        policy["tiers"] = [
            _used(tier, since=("name", "width", "depth", "budget", "architecture")) for tier in self.tiers
        ]
        for later in ("communication", "devices", "revision", "require_signatures", "kpi"):
            if getattr(self, later) in (Communication(), (), 0):
                del policy[later]
        policy["schedule"] = _used(self.schedule, since=("interval_s", "max_rounds"))
        policy["participation"] = _used(self.participation, since=("cohort", "over_provision", "quorum", "deadline_s"))
        content = {"apiVersion": API_VERSION, "policy": policy}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _used(part: Any, since: Sequence[str]) -> dict[str, Any]:
    """A part without the keys that it does not use; but for those it had from the beginning.

    So a policy that does not use what came later keeps its digest.
    """
    fields = dataclasses.fields(part)
    used = {field.name for field in fields if field.name in since or getattr(part, field.name) != field.default}
    return {name: value for name, value in dataclasses.asdict(part).items() if name in used}
