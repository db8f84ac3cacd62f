"""The policy file's form, as pydantic models: what a person may write, with its bounds and its description.

Only the aggregator's side reads policy files (extra `server`); everybody else has `mhfl_mq.policy.compiled`. Each
model turns itself into its compiled part. The descriptions are for editors and documents: they become the schema.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from mhfl_mq.policy import compiled
from mhfl_mq.policy.fields import (
    MAX_DEVICES,
    Bytes,
    ChunkBytes,
    Cohort,
    CronLine,
    Duration,
    Id,
    Lasting,
    Name,
    OptionValue,
    Part,
    PositiveFloat,
    Share,
    TimeZone,
)
from mhfl_mq.policy.kpi import read_target
from mhfl_mq.policy.rule_fields import Rule
from mhfl_mq.wire.blobs import DEFAULT_CHUNK
from mhfl_mq.wire.bounds import MAX_INT, MAX_NUMBERS, MAX_TIERS

__all__ = ["KINDS", "FederationPolicy"]

MAX_UPLOADS: Final = 1024
"""Uploads at once: each holds a window of chunks, so this is 2 GiB of aggregator memory at 256 KiB."""


MAX_EVERY: Final = 1000
"""Rounds between two updates of a device: beyond it, it is not taking part."""


class Metadata(Part):
    """What the policy is called."""

    name: Id = Field(description="the policy's name, in the ledger and in reports")
    description: Annotated[str, Field(max_length=2000)] = Field("", description="one or two sentences for people")
    revision: Annotated[int, Field(ge=0, le=MAX_INT)] = Field(
        0, description="counts up: a running aggregator takes no policy that does not follow its own; 0: not counted"
    )


class Budget(Part):
    """What a tier may cost on a device; what is left out has no bound."""

    step_ms: PositiveFloat | None = Field(None, description="milliseconds of one training step")
    memory_mb: PositiveFloat | None = Field(
        None, description="megabytes (10^6) that training adds at its peak, Python and torch left out"
    )
    transfer_s: PositiveFloat | None = Field(
        None, description="seconds per round for model down and update up, at the speed of the device's link"
    )

    def compiled(self) -> compiled.Budget:
        memory = None if self.memory_mb is None else round(self.memory_mb * 1e6)
        step = None if self.step_ms is None else self.step_ms / 1000
        return compiled.Budget(step_s=step, memory_bytes=memory, transfer_s=self.transfer_s)


class Tier(Part):
    """One size class of the model."""

    name: Id = Field(description="the tier's name, unique")
    width: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="share of the full model's width, over 0 to 1")
    depth: Annotated[int, Field(ge=1, le=MAX_INT)] | None = Field(None, description="blocks kept; left out: all")
    architecture: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/+-]{0,64}$")] = Field(
        "", description="a model of the task that is unlike the other tiers'; left out: the task's one model, cut"
    )
    budget: Budget = Field(default_factory=Budget, description="what the tier may cost on a device, measured")
    every: Annotated[int, Field(ge=1, le=MAX_EVERY)] = Field(
        1, description="ask a device of this tier for an update every so many rounds"
    )

    def compiled(self) -> compiled.Tier:
        budget = self.budget.compiled()
        return compiled.Tier(self.name, self.width, self.depth or 0, budget, self.architecture, self.every)


class AlgorithmOptions(Part):
    """Options that every algorithm has; an algorithm's own stand beside them and are numbers."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    weighting: Literal["uniform", "samples"] | None = Field(
        None, description="what an update counts in the mean: one, or its training examples; left out: as published"
    )
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(20, description="training steps per device and round")
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = Field(64, description="examples per training step")
    rate: PositiveFloat = Field(0.003, description="learning rate on the device")

    def numbers(self) -> dict[str, float]:
        """What travels in an offer."""
        return {"steps": self.steps, "batch": self.batch, "rate": self.rate, **(self.__pydantic_extra__ or {})}


class Algorithm(Part):
    """The method of federated learning."""

    name: Name = Field(description="an algorithm that is installed, e.g. heterofl")
    options: AlgorithmOptions = Field(default_factory=AlgorithmOptions, description="its numbers")

    def compiled(self) -> compiled.Algorithm:
        return compiled.Algorithm(self.name, self.options.weighting or "", self.options.numbers())


class Quorum(Part):
    """How many updates a round needs to be merged."""

    min: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = Field(1, description="at least so many updates")
    fraction: Share = Field(0.0, description="and at least this share of the cohort, 0 to 1")


MAX_RULES: Final = 100
"""Rules of one list."""
Rules = Annotated[list[Rule], Field(max_length=MAX_RULES)]


class Participation(Part):
    """Who is invited, how many must deliver, and by when."""

    cohort: Cohort = Field(None, description="'all', or how many updates a round aims at")
    over_provision: Annotated[float, Field(ge=1, le=10)] = Field(
        1.0, description="invite so many times the cohort, because some fail"
    )
    quorum: Quorum = Field(default_factory=Quorum)
    deadline: Lasting = Field(300.0, description="from the offer to the last update")
    require: Rules = Field(default_factory=list, description="rules that must hold for a device to be invited")
    forbid: Rules = Field(default_factory=list, description="rules that must not hold; they win over require")
    largest_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of the rounds in which one device may have its turn, at most"
    )
    cooldown: Duration = Field(0.0, description="rest of a device whose turns brought no update, again and again")
    failures: Annotated[int, Field(ge=1, le=1000)] = Field(
        3, description="with cooldown: turns in a row without an update after which a device rests"
    )

    def compiled(self) -> compiled.Participation:
        return compiled.Participation(
            cohort=self.cohort,
            over_provision=self.over_provision,
            quorum=compiled.Quorum(self.quorum.min, self.quorum.fraction),
            deadline_s=self.deadline,
            require=tuple(rule.compiled() for rule in self.require),
            forbid=tuple(rule.compiled() for rule in self.forbid),
            largest_share=self.largest_share,
            cooldown_s=self.cooldown,
            failures=self.failures,
        )


MAX_WINDOWS: Final = 100
"""Windows, or blackouts, of one schedule."""
LONGEST_WINDOW_S: Final = 31 * 86400.0
LONGEST_DELAY_S: Final = 7 * 86400.0
"""Of a time that a round may begin later: all times within it are looked at."""


class Window(Part):
    """A time that comes again and again."""

    name: Id | None = Field(None, description="what people call it, in reasons and reports")
    cron: CronLine = Field(description="when it begins: minute, hour, day, month, weekday, e.g. 0 22 * * 1-5")
    duration: Annotated[Lasting, Field(le=LONGEST_WINDOW_S)] = Field(description="how long it lasts, at most 31d")

    def compiled(self) -> compiled.Window:
        return compiled.Window(self.cron, self.duration, self.name or "")


Windows = Annotated[list[Window], Field(max_length=MAX_WINDOWS)]


class PerDevice(Part):
    """What is the most for each device. A day is one of the schedule's time zone."""

    min_interval: Duration = Field(0.0, description="least time between the beginnings of two turns of a device")
    upload_per_day: Bytes | None = Field(None, description="bytes of updates that a device sends in a day")
    training_per_day: Lasting | None = Field(None, description="time that a device trains in a day")
    quiet_on_battery: bool = Field(False, description="do not invite a device that runs on its battery")

    def compiled(self) -> compiled.PerDevice:
        return compiled.PerDevice(self.min_interval, self.upload_per_day, self.training_per_day, self.quiet_on_battery)


class Schedule(Part):
    """When rounds are opened: the update frequency."""

    interval: Duration = Field(0.0, description="pause between the end of a round and the next offer")
    cron: CronLine | None = Field(None, description="rounds begin at these times; left out: after the interval")
    within: Annotated[Lasting, Field(le=LONGEST_DELAY_S)] = Field(
        3600.0, description="with cron: how much later than its time a round may begin"
    )
    timezone: TimeZone = Field("UTC", description="of all cron lines here, e.g. Asia/Tokyo")
    windows: Windows = Field(default_factory=list, description="rounds only in these times; left out: at all times")
    blackouts: Windows = Field(default_factory=list, description="no rounds in these times")
    jitter: Annotated[Duration, Field(le=LONGEST_DELAY_S)] = Field(
        0.0, description="begin up to so much later, not together with other federations"
    )
    max_rounds: Annotated[int, Field(ge=1, le=MAX_INT)] | None = Field(None, description="left out: no end")
    per_device: PerDevice = Field(default_factory=PerDevice, description="limits of each device")

    def compiled(self) -> compiled.Schedule:
        return compiled.Schedule(
            interval_s=self.interval,
            max_rounds=self.max_rounds,
            cron=self.cron or "",
            timezone=self.timezone,
            within_s=self.within,
            windows=tuple(window.compiled() for window in self.windows),
            blackouts=tuple(window.compiled() for window in self.blackouts),
            jitter_s=self.jitter,
            per_device=self.per_device.compiled(),
        )


class Gate(Part):
    """What a merged model must pass before it becomes the head."""

    max_drop: Annotated[float, Field(ge=0)] | None = Field(
        None, description="how much worse than the head it may be, on the mean over tiers; left out: only finite"
    )


class Communication(Part):
    """How updates travel, fixed or, with `adaptive`, by each device's link."""

    adaptive: bool = Field(False, description="choose for each device and round what its link carries")
    precision: Literal["float32", "float16", "int8"] = Field(
        "float32", description="of an update's values; with adaptive: at best"
    )
    top_k: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of an update's coordinates that is sent, the largest ones; with adaptive: at best"
    )
    every: Annotated[int, Field(ge=1, le=MAX_EVERY)] = Field(
        1, description="ask a device for an update every so many rounds; with adaptive: at best"
    )
    transfer: Lasting = Field(10.0, description="how long an upload may take, per round")
    smallest_top_k: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="adaptive: no smaller share")
    longest_every: Annotated[int, Field(ge=1, le=MAX_EVERY)] = Field(4, description="adaptive: no less often")
    quiet: Share = Field(0.001, description="adaptive: a device whose update changed less is asked half as often")

    def compiled(self) -> compiled.Communication:
        return compiled.Communication(
            adaptive=self.adaptive,
            precision=int(self.precision.lstrip("floatin")),
            top_k=self.top_k,
            every=self.every,
            transfer_s=self.transfer,
            smallest_top_k=self.smallest_top_k,
            longest_every=self.longest_every,
            quiet=self.quiet,
        )


class StageUse(Part):
    """A privacy stage; stages are applied in the order of the list."""

    name: Name = Field(description="a stage that is installed")
    options: dict[Id, OptionValue] = Field(default_factory=dict, max_length=MAX_NUMBERS, description="the stage's own")


MOST_WEIGHT = 1e12  # examples; far below what the exact sum can hold, far above what a device has


class Limits(Part):
    """What the aggregator takes at most."""

    update_bytes: Bytes = Field(256 * 2**20, description="size of one update")
    chunk_bytes: ChunkBytes = Field(
        DEFAULT_CHUNK,
        description="size of a chunk, or default, small-packets (for brokers that take 128 KB) or websockets; "
        "clamped to the largest packet that the broker announces",
    )
    concurrent_uploads: Annotated[int, Field(ge=1, le=MAX_UPLOADS)] = Field(4, description="uploads at once")
    devices: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = Field(1000, description="devices of the federation")
    max_weight: PositiveFloat = Field(1e6, le=MOST_WEIGHT, description="what one update may count in the mean")
    largest_value: PositiveFloat = Field(1e3, description="absolute value of one coordinate of an update")
    broadcast_bytes_s: Bytes | None = Field(
        None, description="broadcast at most so many bytes a second; left out: as fast as the broker takes it"
    )


class Kpi(Part):
    """A key figure of the federation, and its target."""

    metric: Literal[
        "participation_rate",
        "accuracy",
        "accuracy_worst_tenth",
        "bytes_per_device_round",
        "training_per_device_round",
        "energy_per_device_round",
        "time_to_accuracy",
    ] = Field(description="which figure")
    target: Annotated[str, Field(max_length=40)] = Field(description="a comparison in quotes, e.g. '>= 0.9', '<= 2MB'")
    window: Lasting | None = Field(None, description="over the rounds that ended in so long a time; left out: all")
    of: Share | None = Field(None, description="time_to_accuracy: the accuracy that is to be reached")
    watts: PositiveFloat | None = Field(None, description="energy_per_device_round: what a device takes as it trains")

    @model_validator(mode="after")
    def _fits(self) -> "Kpi":
        try:
            read_target(self.metric, self.target)
        except ValueError as error:
            says, _, hint = str(error).partition("; ")
            raise PydanticCustomError("kpi", "{says}", {"says": says, "hint": hint}) from None
        for key, metric in (("of", "time_to_accuracy"), ("watts", "energy_per_device_round")):
            if (getattr(self, key) is not None) != (self.metric == metric):
                needs = self.metric == metric
                says = f"{self.metric} {'needs' if needs else 'has no'} {key}"
                hint = f"add {key}: {'0.9' if key == 'of' else '12'}" if needs else f"remove {key}"
                raise PydanticCustomError("kpi", "{says}", {"says": says, "hint": hint})
        return self

    def compiled(self) -> compiled.Kpi:
        operator, target = read_target(self.metric, self.target)
        return compiled.Kpi(self.metric, operator, target, self.window, self.of, self.watts)


DevicePattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_*-]{1,64}$")]


class Registered(Part):
    """What the registry says of a device, or of all devices whose id a pattern fits."""

    tags: Annotated[list[Id], Field(max_length=MAX_NUMBERS)] = Field(
        default_factory=list, description="words that rules can ask for, e.g. the line it stands at"
    )


class Spec(Part):
    """The rules."""

    tiers: Annotated[list[Tier], Field(min_length=1, max_length=MAX_TIERS)] = Field(description="smallest first")
    algorithm: Algorithm
    participation: Participation = Field(default_factory=Participation)
    schedule: Schedule = Field(default_factory=Schedule)
    gate: Gate = Field(default_factory=Gate)
    stages: Annotated[list[StageUse], Field(max_length=MAX_TIERS)] = Field(default_factory=list)
    limits: Limits = Field(default_factory=Limits)
    communication: Communication = Field(default_factory=Communication)
    devices: dict[DevicePattern, Registered] = Field(
        default_factory=dict, description="the registry: what is known of devices, by id or pattern (gw-*)"
    )
    kpi: Annotated[list[Kpi], Field(max_length=MAX_NUMBERS)] = Field(
        default_factory=list, description="key figures and their targets"
    )
    require_signatures: Annotated[int, Field(ge=0, le=32)] = Field(
        0, description="so many people must have signed this file, and the one that follows it"
    )


class FederationPolicy(Part):
    """A whole federation in one file."""

    apiVersion: Literal["mhfl-mq/v1"]  # noqa: N815  the file's own spelling, as administrators know it
    kind: Literal["FederationPolicy"]
    metadata: Metadata
    spec: Spec

    def compiled(self) -> compiled.Policy:
        """The same content for those who act on it."""
        spec = self.spec
        return compiled.Policy(
            name=self.metadata.name,
            description=self.metadata.description,
            revision=self.metadata.revision,
            require_signatures=spec.require_signatures,
            kpi=tuple(kpi.compiled() for kpi in spec.kpi),
            tiers=tuple(tier.compiled() for tier in spec.tiers),
            algorithm=spec.algorithm.compiled(),
            participation=spec.participation.compiled(),
            schedule=spec.schedule.compiled(),
            gate=compiled.Gate(spec.gate.max_drop),
            stages=tuple(compiled.StageUse(stage.name, dict(stage.options)) for stage in spec.stages),
            limits=compiled.Limits(**spec.limits.model_dump()),
            communication=spec.communication.compiled(),
            devices=tuple(compiled.Registered(name, tuple(one.tags)) for name, one in sorted(spec.devices.items())),
        )


KINDS: Final[dict[str, Any]] = {"FederationPolicy": FederationPolicy}
"""Each kind of document and its model; a policy that is split over several kinds adds them here."""
