"""Unit tests of a policy as a file: a fleet, points in time, and what is expected of each device and round.

    apiVersion: mhfl-mq/v1
    kind: PolicyTest
    policy: ../press-line.yaml
    devices:
      gw-1: {ram_gb: 2, idle: true}
    tests:
      - {at: 2026-11-24T22:30, device: gw-1, expect: in}

Read as policy files are: a mistake is a finding at its line and column.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, create_model, model_validator
from pydantic_core import PydanticCustomError

from mhfl_mq.policy.checks import Fault
from mhfl_mq.policy.compiled import Policy, Schedule
from mhfl_mq.policy.eligible import Eligibility, Fleet, explain
from mhfl_mq.policy.facts import FACTS, DeviceFacts, Fact, Kind, Past, Upload, Value
from mhfl_mq.policy.fields import MAX_DEVICES, Bytes, Duration, Id, Part
from mhfl_mq.policy.findings import Code, did_you_mean
from mhfl_mq.policy.registry import tags_of
from mhfl_mq.policy.schedule import opening, read_time, show_time

__all__ = ["Outcome", "PolicyTest", "case_faults", "run_cases"]

_SCHEDULE: Final = ("schedule.cron", "schedule.windows", "schedule.blackouts")


# ---- the file ---------------------------------------------------------------------------------------------------


def _value(fact: str, written: object) -> Value:
    """A fact's value as a test gives it."""
    match FACTS[fact].kind, written:
        case Kind.NUMBER, int() | float() if not isinstance(written, bool) and math.isfinite(written):
            return float(written)
        case Kind.FLAG, bool():
            return written
        case Kind.TEXT, str():
            return written
        case Kind.TAGS, list() if all(isinstance(one, str) for one in written):
            return tuple(written)
    kind = FACTS[fact].kind.value
    hint = {"number": "a number", "flag": "true or false", "text": "a text", "tags": "a list of texts"}[kind]
    raise PydanticCustomError("condition", "{says}", {"says": f"not a value of {fact}", "hint": f"write {hint}"})


def _field(fact: Fact) -> Any:
    form = Annotated[Any, PlainValidator(partial(_value, fact.name)), WithJsonSchema({})]
    return form, Field(None, description=fact.says)


class _Device(Part):
    """A device of the test's fleet: its facts, and what it did before the test's time."""

    present: bool = Field(True, description="whether it is connected")
    turned_ago: Duration | None = Field(None, description="how long ago its last turn began; left out: it had none")
    uploaded: Bytes | None = Field(None, description="bytes that it has sent today")
    trained: Duration | None = Field(None, description="time that it has trained today, in one training")
    next_upload: Bytes | None = Field(None, description="bytes of its next update, at most")

    def facts(self, device: str, policy: Policy, now: float) -> DeviceFacts:
        """The device at this time, with the policy's registry."""
        known: dict[str, Value] = {name: value for name in FACTS if (value := getattr(self, name)) is not None}
        own: Any = known.get("tags", ())
        known |= {"device": device, "tags": tuple(dict.fromkeys((*own, *tags_of(device, policy.devices))))}
        number = {name: int(float(known.get(name, 0.0))) for name in ("rounds", "missed")}  # type: ignore[arg-type]
        today = Upload(now, self.uploaded or 0, self.trained or 0.0)
        sent = () if self.uploaded is None and self.trained is None else (today,)
        turned_at = None if self.turned_ago is None else now - self.turned_ago
        past = Past(number["rounds"], number["missed"], turned_at, sent, self.trained or 0.0)
        return DeviceFacts(device, known, past, now, self.next_upload or 0, self.present)


Device: Final[Any] = create_model(
    "Device", __base__=_Device, __doc__=_Device.__doc__, **{fact.name: _field(fact) for fact in FACTS.values()}
)


def _time(written: object) -> object:
    try:
        read_time(written if isinstance(written, str) else "", Schedule())
    except ValueError as error:
        says, _, hint = str(error).partition("; ")
        raise PydanticCustomError("time", "{says}", {"says": says, "hint": hint}) from None
    return written


Time = Annotated[str, PlainValidator(_time), WithJsonSchema({"type": "string"})]


class Case(Part):
    """One expectation: of a device, or of the schedule."""

    name: Annotated[str, Field(max_length=200)] = Field("", description="what it shows, for people")
    at: Time | None = Field(None, description="the time; left out: the file's")
    device: Id | None = Field(None, description="a device of the file's; left out: of the schedule alone")
    expect: Literal["in", "out"] = Field(description="whether it may be invited, or a round may begin")
    because: list[Annotated[str, Field(max_length=200)]] | None = Field(
        None, description="with out: the rules that do not hold, all of them"
    )
    next: Time | None = Field(None, description="with out: when it may be")

    @model_validator(mode="after")
    def _fits(self) -> "Case":
        if self.expect == "in" and (self.because is not None or self.next is not None):
            raise PydanticCustomError(
                "condition", "because and next are for out", {"hint": "remove them, or write expect: out"}
            )
        return self


class PolicyTest(Part):
    """A file of tests."""

    apiVersion: Literal["mhfl-mq/v1"]  # noqa: N815  as in policy files
    kind: Literal["PolicyTest"]
    policy: str = Field(description="the policy's file, from this file's folder, or the name of a shipped one")
    at: Time | None = Field(None, description="the time of tests that name none")
    rounds: Annotated[int, Field(ge=0)] = Field(0, description="rounds that have ended")
    last_round: Time | None = Field(None, description="when the last round that made a version began")
    devices: Annotated[dict[Id, Device], Field(max_length=MAX_DEVICES)] = Field(default_factory=dict)
    tests: Annotated[list[Case], Field(min_length=1, max_length=10_000)]

    def compiled(self) -> "PolicyTest":
        return self


def case_faults(data: Any) -> Iterator[Fault]:
    """What lies between the fields: devices that there are, and a time for each test."""
    if not isinstance(data, dict):
        return
    devices, tests = data.get("devices"), data.get("tests")
    known = [str(one) for one in devices] if isinstance(devices, dict) else []
    for index, case in enumerate(tests if isinstance(tests, list) else ()):
        if not isinstance(case, dict):
            continue
        device = case.get("device")
        if isinstance(device, str) and device not in known:
            hint = did_you_mean(device, known) or "list it under devices"
            yield Fault(Code.OUT_OF_RANGE, ("tests", index, "device"), f"there is no device '{device}' here", hint)
        if case.get("at") is None and data.get("at") is None:
            hint = "add at: 2026-11-24T22:00 here, or once for the file"
            yield Fault(Code.MISSING_KEY, ("tests", index), "the test has no time", hint)


# ---- running ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test; `got` says what was decided instead, when it failed."""

    index: int
    name: str
    passed: bool
    expected: str
    got: str


def run_cases(tests: PolicyTest, policy: Policy) -> tuple[list[Outcome], list[str], list[str]]:
    """The outcomes; the policy's rules that some test saw fail; and those that none did."""
    outcomes, seen = [], set[str]()
    committed_at = None if tests.last_round is None else read_time(tests.last_round, policy.schedule)
    for index, case in enumerate(tests.tests):
        now = read_time(case.at or tests.at or "", policy.schedule)
        if case.device is None:
            found = opening(policy.schedule, policy.participation.deadline_s, now, committed_at)
        else:
            device = tests.devices[case.device].facts(case.device, policy, now)
            found = explain(policy, Fleet((device,), tests.rounds, committed_at), device, now)
        against = [one.rule for one in found.reasons if not one.holds and one.rule != "schedule"]
        seen |= set(against)
        changes_at = found.answer.changes_at
        wrong = []
        if found.answer.now is not (case.expect == "in"):
            wrong.append(f"{'in' if found.answer.now else 'out'}: {found.why}" if found.reasons else "in")
        if case.because is not None and sorted(case.because) != sorted(against):
            wrong.append(f"because {_listed(against)}")
        if case.next is not None and changes_at != read_time(case.next, policy.schedule):
            wrong.append(f"next {'never' if changes_at is None else show_time(changes_at, policy.schedule)}")
        outcomes.append(Outcome(index, _name(case, index), not wrong, _expected(case), "; ".join(wrong)))
    rules = [*Eligibility(policy).names, *(one for one in _SCHEDULE if _has(policy, one))]
    return outcomes, [one for one in rules if one in seen], [one for one in rules if one not in seen]


def _has(policy: Policy, rule: str) -> bool:
    return bool(getattr(policy.schedule, rule.partition(".")[2]))


def _name(case: Case, index: int) -> str:
    return case.name or f"test {index + 1}: {case.device or 'a round'} is {case.expect}"


def _expected(case: Case) -> str:
    parts: list[str] = [case.expect]
    parts += [] if case.because is None else [f"because {_listed(case.because)}"]
    parts += [] if case.next is None else [f"next {case.next}"]
    return ", ".join(parts)


def _listed(rules: Sequence[str]) -> str:
    return ", ".join(rules) or "of no rule"
