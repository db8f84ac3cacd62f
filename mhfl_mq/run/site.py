"""A device's own file, `device.toml`: when and how much it takes part, whatever the aggregator asks. It only tightens.

    paused = false
    timezone = "Asia/Tokyo"
    windows = [{name = "night", cron = "0 22 * * *", duration = "8h"}]
    blackouts = []
    min_interval = "1h"
    upload_per_day = "20MB"
    training_per_day = "30m"
    quiet_on_battery = true
    required_stages = []
    denied_stages = []

The keys mean what they mean in a policy's schedule. Read without pydantic, which a device does not have.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import Algorithm, How, PerDevice, Policy, Schedule, Tier, Window, upload_bytes
from mhfl_mq.policy.eligible import Fleet, explain
from mhfl_mq.policy.facts import DeviceFacts, Past, Upload
from mhfl_mq.policy.findings import nearest
from mhfl_mq.policy.quantities import parse_bytes, parse_duration
from mhfl_mq.policy.schedule import check_cron, zone_of
from mhfl_mq.protocol.site import Spent
from mhfl_mq.protocol.work import StageRules
from mhfl_mq.wire.messages import Offer

__all__ = ["SiteFile", "SiteRules", "read_site"]


@dataclass(frozen=True, slots=True)
class SiteFile:
    """What the file says."""

    schedule: Schedule = field(default_factory=Schedule)
    stages: StageRules = field(default_factory=StageRules)
    paused: bool = False


class SiteRules:
    """The file's rules at work. `now` is the wall clock, `on_battery` says whether the machine runs on its battery."""

    def __init__(self, site: SiteFile, now: Callable[[], float], on_battery: Callable[[], bool | None]) -> None:
        self._site = site
        self._now = now
        self._on_battery = on_battery

    def objection(self, offer: Offer, length: int, spent: Spent) -> str:
        """Why this offer is not taken now."""
        if self._site.paused:
            return "this device is paused by its own file"
        now = self._now()
        battery = self._on_battery() if self._site.schedule.per_device.quiet_on_battery else None
        today = self._today(spent, now)
        device = DeviceFacts(
            device="this device",
            facts={} if battery is None else {"on_battery": battery},
            past=Past(
                turned_at=spent.turned_at or None,
                uploads=(Upload(today.day, today.size, today.seconds),),
                last_s=today.last_s,
            ),
            next_bytes=_most_bytes(offer, length),
        )
        found = explain(self._policy(offer.deadline_s), Fleet(), device, now)
        return "" if found.answer.now else f"this device's own file forbids it: {found.why}"

    def taken(self, spent: Spent) -> Spent:
        """An offer is taken now."""
        now = self._now()
        return replace(self._today(spent, now), turned_at=now)

    def sent(self, spent: Spent, size: int, seconds: float) -> Spent:
        """An update is finished now."""
        today = self._today(spent, self._now())
        return replace(today, size=today.size + size, seconds=today.seconds + seconds, last_s=seconds)

    def _today(self, spent: Spent, now: float) -> Spent:
        local = datetime.fromtimestamp(now, zone_of(self._site.schedule.timezone))
        day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()
        return spent if spent.day == day else replace(spent, day=day, size=0, seconds=0.0)

    def _policy(self, deadline_s: float) -> Policy:
        """The file as a policy, so that the same decisions are made."""
        policy = Policy("site", (Tier("any", 1.0),), Algorithm("any"), schedule=self._site.schedule)
        return replace(policy, participation=replace(policy.participation, deadline_s=deadline_s))


def _most_bytes(offer: Offer, length: int) -> int:
    return upload_bytes(length, How(int(offer.options.get("precision", 32)), offer.options.get("top_k", 1.0)))


# ---- reading ----------------------------------------------------------------------------------------------------


def read_site(path: Path) -> SiteFile:
    """A device's file; raises `ConfigError` that names what is wrong and where."""
    try:
        with path.open("rb") as file:
            written = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), remedy="check --site") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", where=str(path), remedy="docs/policy.md shows such a file") from None
    found = {key: _read(_Place(path, key), value) for key, value in written.items()}
    limits = PerDevice(
        found.get("min_interval", 0.0),
        found.get("upload_per_day"),
        found.get("training_per_day"),
        found.get("quiet_on_battery", False),
    )
    schedule = Schedule(
        timezone=found.get("timezone", "UTC"),
        windows=found.get("windows", ()),
        blackouts=found.get("blackouts", ()),
        per_device=limits,
    )
    stages = StageRules(
        denied=found.get("denied_stages", frozenset()), required=found.get("required_stages", frozenset())
    )
    return SiteFile(schedule, stages, found.get("paused", False))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands, for errors."""

    path: Path
    key: str

    def wrong(self, what: str, remedy: str) -> ConfigError:
        return ConfigError(f"{self.key} {what}", where=str(self.path), remedy=remedy)


def _read(place: _Place, value: Any) -> Any:
    read = _KEYS.get(place.key)
    if read is None:
        near = nearest(place.key, _KEYS)
        remedy = f"did you mean {near}?" if near else f"known here: {', '.join(_KEYS)}"
        raise ConfigError(f"there is no key {place.key}", where=str(place.path), remedy=remedy)
    return read(place, value)


def _flag(place: _Place, value: Any) -> bool:
    if not isinstance(value, bool):
        raise place.wrong("must be true or false", f"write {place.key} = true")
    return value


def _quantity(parse: Callable[[str], float], example: str) -> Callable[[_Place, Any], Any]:
    def read(place: _Place, value: Any) -> float:
        try:
            if not isinstance(value, str):
                raise ValueError(f"must be a text with a unit; write {place.key} = {example!r}")
            return parse(value)
        except ValueError as error:
            says, _, remedy = str(error).partition("; ")
            raise place.wrong(f"is wrong: {says}", remedy) from None

    return read


def _zone(place: _Place, value: Any) -> str:
    try:
        if isinstance(value, str):
            zone_of(value)
            return value
        says = "is not a text"
    except ValueError as error:
        says = f"is wrong: {error}"
    raise place.wrong(says, "write e.g. Asia/Tokyo; a system without time zones needs the package tzdata")


def _windows(place: _Place, value: Any) -> tuple[Window, ...]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise place.wrong("must be a list of tables", f'write {place.key} = [{{cron = "0 22 * * *", duration = "8h"}}]')
    return tuple(_window(_Place(place.path, f"{place.key}[{index}]"), one) for index, one in enumerate(value))


def _window(place: _Place, value: Mapping[str, Any]) -> Window:
    unknown = value.keys() - {"name", "cron", "duration"}
    if unknown:
        raise place.wrong(f"has no key {', '.join(sorted(unknown))}", "its keys are name, cron and duration")
    cron = value.get("cron", "")
    try:
        check_cron(cron if isinstance(cron, str) else "")
    except ValueError as error:
        raise place.wrong(f"has no cron line: {error}", 'write e.g. cron = "0 22 * * 1-5"') from None
    lasts_s = _quantity(parse_duration, "8h")(_Place(place.path, f"{place.key}.duration"), value.get("duration"))
    name = value.get("name", "")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", name):
        raise place.wrong("has a name that is none", "1 to 64 of A-Z a-z 0-9 _ -")
    return Window(cron, lasts_s, name)


def _names(place: _Place, value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise place.wrong("must be a list of names", f'write {place.key} = ["clip"]')
    return frozenset(value)


_KEYS: Final[dict[str, Callable[[_Place, Any], Any]]] = {
    "paused": _flag,
    "timezone": _zone,
    "windows": _windows,
    "blackouts": _windows,
    "min_interval": _quantity(parse_duration, "1h"),
    "upload_per_day": _quantity(parse_bytes, "20MB"),
    "training_per_day": _quantity(parse_duration, "30m"),
    "quiet_on_battery": _flag,
    "required_stages": _names,
    "denied_stages": _names,
}
