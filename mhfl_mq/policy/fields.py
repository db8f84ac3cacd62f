"""The fields of a policy file: durations, sizes, names, cron lines, each with what an editor checks it by."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Final
from zoneinfo import available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from mhfl_mq.policy import compiled
from mhfl_mq.policy.findings import did_you_mean, nearest
from mhfl_mq.policy.quantities import MAX_BYTES, PART, SIZE, parse_bytes, parse_duration
from mhfl_mq.policy.schedule import check_cron, zone_of
from mhfl_mq.wire.blobs import PROFILES
from mhfl_mq.wire.bounds import MAX_CHUNK, MIN_CHUNK

__all__ = [
    "MAX_DEVICES",
    "Bytes",
    "ChunkBytes",
    "Cohort",
    "CronLine",
    "Duration",
    "Id",
    "Lasting",
    "Name",
    "OptionValue",
    "Part",
    "PositiveFloat",
    "Share",
    "TimeZone",
]

MAX_DEVICES: Final = 100_000
"""Devices of one federation: ten times what one broker and one aggregator were ever measured with elsewhere."""


LASTING_SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": rf"^(?:{PART}){{1,5}}$",
    "quantity": "duration",
}
DURATION_SCHEMA: Final[dict[str, Any]] = {"anyOf": [LASTING_SCHEMA, {"const": 0}], "quantity": "duration"}
BYTES_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string", "pattern": rf"^{SIZE}$"}, {"type": "integer", "minimum": 1}],
    "quantity": "bytes",
}
CRON_PATTERN: Final = r"^\s*\S+(?:\s+\S+){4}\s*$"
"""As editors check them; `quantity` is for `mhfl_mq.policy.schema`, which writes the defaults with their units."""


def _quantity(parse: Callable[[str], float]) -> Callable[[object], object]:
    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except ValueError as error:
            says, _, hint = str(error).partition("; ")
            raise PydanticCustomError("quantity", "{says}", {"says": says, "hint": hint}) from None

    return read


def _duration(value: object) -> object:
    """A bare number says nothing about seconds or minutes, so it is refused; 0 needs no unit."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value != 0:
        hint = f"write {value:g}s, {value:g}m or {value:g}h"
        raise PydanticCustomError("quantity", "a duration needs a unit", {"hint": hint})
    return _quantity(parse_duration)(value)


def _chunk(value: object) -> object:
    """A size, or the name of a kind of broker."""
    if isinstance(value, str) and value.replace("-", "").isalpha():
        if value not in PROFILES:
            hint = f"{did_you_mean(value, PROFILES)}; or write a size such as 256KiB"
            raise PydanticCustomError("quantity", "there is no kind of chunk '{name}'", {"name": value, "hint": hint})
        return PROFILES[value]
    return _quantity(parse_bytes)(value)


def _all_or_number(value: object) -> object:
    if value == "all":
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("cohort", "must be 'all' or a whole number", {"hint": "write all, or e.g. 20"})
    return value


def _option(value: object) -> object:
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise PydanticCustomError(
            "option", "must be text, a finite number, true or false", {"hint": "write one of these"}
        )
    return value


def _cron(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return check_cron(value)
    except ValueError as error:
        hint = "write minute, hour, day, month and weekday, e.g. 0 2 * * 1-5 for 02:00 from Monday to Friday"
        raise PydanticCustomError("time", "{says}", {"says": str(error), "hint": hint}) from None


def _zone(value: object) -> object:
    if isinstance(value, str):
        try:
            zone_of(value)
        except ValueError:
            near = nearest(value, available_timezones())
            hint = f"did you mean '{near}'?" if near else "write e.g. Asia/Tokyo, Europe/Berlin or UTC"
            said = {"value": value[:40], "hint": hint}
            raise PydanticCustomError("time", "there is no time zone '{value}'", said) from None
    return value


Duration = Annotated[float, BeforeValidator(_duration), Field(ge=0), WithJsonSchema(DURATION_SCHEMA)]
Lasting = Annotated[float, BeforeValidator(_duration), Field(gt=0), WithJsonSchema(LASTING_SCHEMA)]
Bytes = Annotated[int, BeforeValidator(_quantity(parse_bytes)), Field(ge=1, le=MAX_BYTES), WithJsonSchema(BYTES_SCHEMA)]
PositiveFloat = Annotated[float, Field(gt=0)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/+-]{1,64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
OptionValue = Annotated[
    compiled.Option, PlainValidator(_option), WithJsonSchema({"type": ["string", "number", "boolean"]})
]
Cohort = Annotated[
    Annotated[int, Field(ge=1, le=MAX_DEVICES)] | None,
    BeforeValidator(_all_or_number),
    WithJsonSchema({"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 1, "maximum": MAX_DEVICES}]}),
]


ChunkBytes = Annotated[
    int,
    BeforeValidator(_chunk),
    Field(ge=MIN_CHUNK, le=MAX_CHUNK),
    WithJsonSchema({"anyOf": [{"enum": list(PROFILES)}, *BYTES_SCHEMA["anyOf"]], "quantity": "bytes"}),
]
CronLine = Annotated[
    str, Field(max_length=200), BeforeValidator(_cron), WithJsonSchema({"type": "string", "pattern": CRON_PATTERN})
]
TimeZone = Annotated[str, Field(max_length=64), BeforeValidator(_zone), WithJsonSchema({"type": "string"})]


class Part(BaseModel):
    """What all parts share: no unknown keys, no silent conversions, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
