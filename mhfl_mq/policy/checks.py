"""What no single field can say: tiers that nest, names that exist, a quorum that can be reached, chunks that fit.

The checks read the plain values of a file that may be wrong elsewhere, so that a person sees all errors at once; a
value of the wrong type is somebody else's finding and is passed over.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from mhfl_mq.policy.documents import AlgorithmOptions, Communication, Limits, Participation
from mhfl_mq.policy.findings import Code, did_you_mean
from mhfl_mq.policy.quantities import parse_bytes, parse_duration, show_binary, show_duration
from mhfl_mq.policy.schedule import check_cron, fires
from mhfl_mq.wire.blobs import PROFILES
from mhfl_mq.wire.bounds import MAX_CHUNK, MAX_CHUNKS

__all__ = ["Fault", "Known", "cross_check"]

Path = tuple[str | int, ...]

CHUNK_EVERY_S: Final = 0.5
"""Seconds between two chunks of a broadcast: half of what a device waits at least before it stops to listen."""


@dataclass(frozen=True, slots=True)
class Known:
    """The names that a policy may use: what is installed here, which the policy package itself cannot know.

    `algorithms` maps a name to the option names that this algorithm has of its own. `stages_misfit` says what is
    wrong with stages in this order, `tiers_misfit` what an algorithm has against so many tiers, `option_misfit` what
    it has against the value of one of its own options, `compacting_misfit` what against updates that are compacted;
    empty: nothing. `models_apart` says whether an algorithm can serve tiers that are unrelated models.
    """

    algorithms: Mapping[str, frozenset[str]]
    stages: frozenset[str]
    stages_misfit: Callable[[Sequence[str]], str] = lambda _names: ""
    tiers_misfit: Callable[[str, int], str] = lambda _algorithm, _tiers: ""
    option_misfit: Callable[[str, str, float], str] = lambda _algorithm, _option, _value: ""
    compacting_misfit: Callable[[str, Mapping[str, float]], str] = lambda _algorithm, _options: ""
    models_apart: Callable[[str], bool] = lambda _algorithm: True


@dataclass(frozen=True, slots=True)
class Fault:
    """A finding before it has a place in the file; `key`: the place is the key's, not the value's."""

    code: Code
    path: Path
    message: str
    hint: str = ""
    key: bool = False


def cross_check(data: object, known: Known | None) -> Iterator[Fault]:
    """Every fault between the fields of a policy; without `known`, names of algorithms and stages are not checked."""
    yield from _tier_names(data)
    yield from _nesting(data)
    yield from _quorum(data)
    yield from _chunks(data)
    yield from _deadline(data)
    yield from _communication(data)
    yield from _schedule(data)
    yield from _rules(data)
    yield from _stage_names(data, known)
    if known is not None:
        yield from _algorithm(data, known)
        yield from _compacting(data, known)
        yield from _stage_order(data, known)


# ---- reading values that may not be there ---------------------------------------------------------------------


def _dig(data: object, *path: str) -> Any:
    """The value under these keys; None when one of them is not there."""
    for step in path:
        if not isinstance(data, dict):
            return None
        data = data.get(step)
    return data


_HUGE = 2.0**100  # not a number that a person meant, and beyond it a float overflows


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _HUGE:
        return None
    return float(value)


def _default(part: type[BaseModel], name: str, value: object) -> object:
    return part.model_fields[name].default if value is None else value


def _quantity(value: object, parse: Callable[[str], float]) -> float | None:
    if not isinstance(value, str):
        return _number(value)
    try:
        return float(parse(value))
    except ValueError:
        return None


def _items(data: object, *path: str) -> list[Any]:
    value = _dig(data, *path)
    return value if isinstance(value, list) else []


# ---- the checks -----------------------------------------------------------------------------------------------


def _names_twice(data: object, where: tuple[str, ...], word: str) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for index, item in enumerate(_items(data, *where)):
        name = _dig(item, "name")
        if isinstance(name, str):
            if name in seen:
                message = f"{word} '{name}' is there already (number {seen[name] + 1} of the list)"
                yield Fault(Code.NAME_TWICE, (*where, index, "name"), message, "give each one a name of its own")
            seen.setdefault(name, index)


def _tier_names(data: object) -> Iterator[Fault]:
    yield from _names_twice(data, ("spec", "tiers"), "a tier named")


def _nesting(data: object) -> Iterator[Fault]:
    """Each tier must hold the one before it: only then is a tier a prefix of the flat vector.

    A tier of an architecture of its own is a part of no other: it is passed over, whatever width it says.
    """
    before: tuple[float, float] | None = None
    for index, tier in enumerate(_items(data, "spec", "tiers")):
        if _dig(tier, "architecture"):
            continue
        width, depth = _number(_dig(tier, "width")), _number(_dig(tier, "depth"))
        if width is None or (depth is None and _dig(tier, "depth") is not None):
            before = None
            continue
        size = (width, float("inf") if depth is None else depth)
        if before is not None:
            at: Path = ("spec", "tiers", index)
            hint = "list the tiers smallest first, each at least as wide and as deep as the one before"
            for part, now, last in zip(("width", "depth"), size, before, strict=True):
                if now < last:
                    shown = "all blocks" if last == float("inf") else f"{last:g}"
                    message = f"{part} {now:g} is smaller than the tier before ({shown}): tiers must nest"
                    yield Fault(Code.NOT_NESTED, (*at, part), message, hint)
            if size == before:
                message = "the tier is as large as the one before it: it adds nothing"
                yield Fault(Code.NOT_NESTED, (*at, "width"), message, "make it wider or deeper, or remove it")
        before = size


def _quorum(data: object) -> Iterator[Fault]:
    at = ("spec", "participation")
    least = _number(_dig(data, *at, "quorum", "min"))
    cohort = _number(_dig(data, *at, "cohort"))
    devices = _number(_default(Limits, "devices", _dig(data, "spec", "limits", "devices")))
    if least is not None and cohort is not None and cohort < least:
        message = f"a cohort of {cohort:g} can never bring {least:g} updates"
        yield Fault(Code.QUORUM, (*at, "quorum", "min"), message, f"write at most {cohort:g}, or a larger cohort")
    for name, value in (("min", least), ("cohort", cohort)):
        if value is not None and devices is not None and value > devices:
            path: Path = (*at, "cohort") if name == "cohort" else (*at, "quorum", "min")
            message = f"{value:g} is more than limits.devices allows ({devices:g})"
            yield Fault(Code.QUORUM, path, message, f"write at most {devices:g}, or raise limits.devices")


def _chunks(data: object) -> Iterator[Fault]:
    at = ("spec", "limits")
    written = {name: _default(Limits, name, _dig(data, *at, name)) for name in ("update_bytes", "chunk_bytes")}
    profile = PROFILES.get(str(written["chunk_bytes"]))
    limits = {name: _quantity(value, parse_bytes) for name, value in written.items()}
    limits["chunk_bytes"] = limits["chunk_bytes"] if profile is None else float(profile)
    yield from _broadcast(data, limits["chunk_bytes"])
    update, chunk = limits["update_bytes"], limits["chunk_bytes"]
    if update is None or chunk is None or min(update, chunk) < 1:
        return
    named = "chunk_bytes" if _dig(data, *at, "chunk_bytes") is not None else "update_bytes"
    if chunk > update and _dig(data, *at, "chunk_bytes") is not None:
        message = f"a chunk of {show_binary(chunk)} is larger than the largest update ({show_binary(update)})"
        yield Fault(Code.CHUNKS, (*at, named), message, "make chunk_bytes smaller or update_bytes larger")
    if update > chunk * MAX_CHUNKS:
        message = f"an update of {show_binary(update)} would have more than {MAX_CHUNKS} chunks of {show_binary(chunk)}"
        needed = math.ceil(update / MAX_CHUNKS / 1024)
        fits = needed * 1024 <= MAX_CHUNK
        hint = f"write chunk_bytes of at least {needed}KiB" if fits else "make update_bytes smaller"
        yield Fault(Code.CHUNKS, (*at, named), message, hint)


def _broadcast(data: object, chunk: float | None) -> Iterator[Fault]:
    """A broadcast that pauses for long between two chunks is over, as devices see it: they would pull all of it."""
    at = ("spec", "limits", "broadcast_bytes_s")
    rate = _quantity(_dig(data, *at), parse_bytes)
    if rate is not None and chunk is not None and 0 < rate < chunk / CHUNK_EVERY_S:
        message = f"a chunk of {chunk:.0f} bytes every {chunk / rate:.2g} s: devices take such a silence for the end"
        fits = 2 ** int(math.log2(max(rate * CHUNK_EVERY_S, 1)))
        hint = f"write chunk_bytes of at most {fits} bytes, or at least {chunk / CHUNK_EVERY_S:.0f} bytes a second"
        yield Fault(Code.CHUNKS, at, message, hint)


def _deadline(data: object) -> Iterator[Fault]:
    """A device that is just within its tier's budget must be able to deliver in time."""
    raw = _default(Participation, "deadline", _dig(data, "spec", "participation", "deadline"))
    deadline = _quantity(raw, parse_duration)
    steps = _number(_default(AlgorithmOptions, "steps", _dig(data, "spec", "algorithm", "options", "steps")))
    for index, tier in enumerate(_items(data, "spec", "tiers")):
        budget = _dig(tier, "budget")
        transfer = _number(_dig(budget, "transfer_s")) or 0.0
        training = (_number(_dig(budget, "step_ms")) or 0.0) / 1000 * (steps or 0.0)
        if deadline is not None and deadline > 0 and transfer + training > deadline:
            message = (
                f"a device at this budget needs {show_duration(transfer + training)} for a round, "
                f"longer than the deadline of {show_duration(deadline)}"
            )
            hint = "make the deadline longer, or step_ms, transfer_s or algorithm.options.steps smaller"
            yield Fault(Code.DEADLINE, ("spec", "tiers", index, "budget"), message, hint, key=True)


def _schedule(data: object) -> Iterator[Fault]:
    """Rounds begin by cron or after an interval, and a whole round fits into each window."""
    at = ("spec", "schedule")
    written = _dig(data, *at)
    if not isinstance(written, dict):
        return
    interval = _quantity(written.get("interval", 0), parse_duration)
    if "cron" in written and interval:
        message = "rounds begin by cron, so the interval between them has no effect"
        yield Fault(Code.SCHEDULE, (*at, "interval"), message, "remove the interval or the cron", key=True)
    jitter, times = _quantity(written.get("jitter", 0), parse_duration), _times(written.get("cron"))
    closest = min((after - before for before, after in pairwise(times)), default=None)
    if jitter and closest is not None and jitter >= closest:
        message = f"a jitter of {show_duration(jitter)} is no less than the {show_duration(closest)} between two times"
        yield Fault(Code.SCHEDULE, (*at, "jitter"), message, f"write less than {show_duration(closest)}")
    if "within" in written and "cron" not in written:
        message = "within has no effect without cron"
        yield Fault(Code.SCHEDULE, (*at, "within"), message, "write a cron, or remove it", key=True)
    days = any(_dig(written, "per_device", key) is not None for key in ("upload_per_day", "training_per_day"))
    if "timezone" in written and not days and not written.keys() & {"cron", "windows", "blackouts"}:
        message = "timezone has no effect: nothing here depends on the hour"
        yield Fault(
            Code.SCHEDULE,
            (*at, "timezone"),
            message,
            "write a cron, windows, blackouts or a limit per day, or remove it",
            True,
        )
    for part in ("windows", "blackouts"):
        yield from _names_twice(data, (*at, part), "a window named")
        for index, window in enumerate(_items(data, *at, part)):
            lasts, times = _quantity(_dig(window, "duration"), parse_duration), _times(_dig(window, "cron"))
            if lasts is not None and len(times) > MOST_BEGINNINGS and times[-1] - times[0] < lasts:
                message = f"the window begins more than {MOST_BEGINNINGS} times before it has ended once"
                hint = "write a cron line that begins it once, e.g. 0 22 * * *"
                yield Fault(Code.SCHEDULE, (*at, part, index, "cron"), message, hint)
    deadline = _quantity(
        _default(Participation, "deadline", _dig(data, "spec", "participation", "deadline")), parse_duration
    )
    for index, window in enumerate(_items(data, *at, "windows")):
        lasts = _quantity(_dig(window, "duration"), parse_duration)
        if lasts is not None and deadline is not None and 0 < lasts <= deadline:
            message = f"no round of up to {show_duration(deadline)} (the deadline) fits into {show_duration(lasts)}"
            hint = f"write more than {show_duration(deadline)}, or a shorter participation.deadline"
            yield Fault(Code.SCHEDULE, (*at, "windows", index, "duration"), message, hint)


YEAR_S: Final = 1_767_225_600.0
"""Seconds since 1970 of a year's beginning, from which cron lines are looked at."""
MOST_BEGINNINGS: Final = 200
"""Of a window before it ends: every one of them is looked at, whenever the schedule is asked."""


def _times(cron: object) -> list[float]:
    """The first times of a cron line; none for what is no cron line."""
    try:
        begun = fires(check_cron(cron if isinstance(cron, str) else ""), ZoneInfo("UTC"), YEAR_S)
    except ValueError:
        return []
    return list(islice(begun, MOST_BEGINNINGS + 1))


def _rules(data: object) -> Iterator[Fault]:
    """Rules have names of their own, and name tiers that there are."""
    at = ("spec", "participation")
    seen: set[str] = set()
    tiers = {str(_dig(tier, "name")) for tier in _items(data, "spec", "tiers")}
    for part in ("forbid", "require"):
        for index, rule in enumerate(_items(data, *at, part)):
            name = _dig(rule, "name")
            if isinstance(name, str) and name in seen:
                message = f"a rule named '{name}' is there already"
                yield Fault(Code.NAME_TWICE, (*at, part, index, "name"), message, "give each one a name of its own")
            seen.add(str(name))
            named = _dig(rule, "tier")
            for one in [named] if isinstance(named, str) else named if isinstance(named, list) else ():
                if isinstance(one, str) and "*" not in one and tiers and one not in tiers:
                    message = f"there is no tier '{one}'"
                    yield Fault(Code.RULE, (*at, part, index, "tier"), message, did_you_mean(one, tiers))
    if _dig(data, *at, "failures") is not None and not _dig(data, *at, "cooldown"):
        message = "failures has no effect without a cooldown"
        yield Fault(Code.RULE, (*at, "failures"), message, "write a cooldown, or remove it", key=True)


def _communication(data: object) -> Iterator[Fault]:
    """What is rounded or left out cannot be masked or clipped; the bounds of what adapts enclose where it begins."""
    at = ("spec", "communication")
    written = _dig(data, *at)
    if not isinstance(written, dict):
        return
    value = {name: _default(Communication, name, written.get(name)) for name in Communication.model_fields}
    adaptive = value["adaptive"] is True
    if _items(data, "spec", "stages") and _compacts(data):
        message = "updates that are compacted cannot pass privacy stages, which need every value as it is"
        hint = "leave the stages out, or the communication: its every alone goes with stages"
        yield Fault(Code.COMMUNICATION, at, message, hint, key=True)
    if not adaptive:
        for name in ("transfer", "smallest_top_k", "longest_every", "quiet"):
            if name in written:
                message = f"{name} has no effect, for nothing adapts"
                yield Fault(Code.COMMUNICATION, (*at, name), message, "write adaptive: true, or remove it", key=True)
        return
    share, least = _number(value["top_k"]), _number(value["smallest_top_k"])
    if share is not None and least is not None and least > share and "smallest_top_k" in written:
        message = f"at least {least:g} of an update is more than the {share:g} that top_k begins with"
        yield Fault(Code.COMMUNICATION, (*at, "smallest_top_k"), message, f"write at most {share:g}")
    every, most = _number(value["every"]), _number(value["longest_every"])
    if every is not None and most is not None and most < every and "longest_every" in written:
        message = f"every {most:g} rounds is more often than the {every:g} that every begins with"
        yield Fault(Code.COMMUNICATION, (*at, "longest_every"), message, f"write {every:g} or more")
    seconds = _quantity(value["transfer"], parse_duration)
    deadline = _quantity(
        _default(Participation, "deadline", _dig(data, "spec", "participation", "deadline")), parse_duration
    )
    if seconds is not None and deadline is not None and seconds > deadline > 0:
        message = f"an upload of {show_duration(seconds)} is longer than the deadline of {show_duration(deadline)}"
        path: Path = (*at, "transfer") if "transfer" in written else at
        yield Fault(Code.COMMUNICATION, path, message, f"write at most {show_duration(deadline)}")


def _compacts(data: object) -> bool:
    """Whether updates may be anything but raw float32."""
    written = _dig(data, "spec", "communication")
    if not isinstance(written, dict):
        return False
    precision, share = written.get("precision", "float32"), _number(written.get("top_k", 1.0))
    return written.get("adaptive") is True or precision != "float32" or share != 1.0


def _compacting(data: object, known: Known) -> Iterator[Fault]:
    name = _dig(data, "spec", "algorithm", "name")
    if isinstance(name, str) and name in known.algorithms and _compacts(data):
        options = _dig(data, "spec", "algorithm", "options")
        numbers = {str(key): _number(value) for key, value in options.items()} if isinstance(options, dict) else {}
        given = {key: value for key, value in numbers.items() if value is not None}
        misfit = known.compacting_misfit(name, given)
        if misfit:
            message = f"updates of {name} cannot be compacted: {misfit}"
            hint = "leave the communication out, or take another algorithm"
            yield Fault(Code.COMMUNICATION, ("spec", "communication"), message, hint, key=True)


def _stage_names(data: object, known: Known | None) -> Iterator[Fault]:
    yield from _names_twice(data, ("spec", "stages"), "a stage named")
    for index, stage in enumerate(_items(data, "spec", "stages")):
        name = _dig(stage, "name")
        if known is not None and isinstance(name, str) and name not in known.stages:
            hint = did_you_mean(name, known.stages) or "no stage is installed here: install the plugin that has it"
            yield Fault(Code.UNKNOWN_STAGE, ("spec", "stages", index, "name"), f"there is no stage '{name}'", hint)


def _algorithm(data: object, known: Known) -> Iterator[Fault]:
    at = ("spec", "algorithm")
    name, options = _dig(data, *at, "name"), _dig(data, *at, "options")
    if not isinstance(name, str):
        return
    own = known.algorithms.get(name)
    if own is None:
        hint = did_you_mean(name, known.algorithms)
        yield Fault(Code.UNKNOWN_ALGORITHM, (*at, "name"), f"there is no algorithm '{name}'", hint)
    else:
        yield from _tiers_for(name, _items(data, "spec", "tiers"), known)
    has = frozenset(AlgorithmOptions.model_fields).union(*([own] if own is not None else known.algorithms.values()))
    for option in options if isinstance(options, dict) else ():
        if option not in has:
            message = f"{'no algorithm' if own is None else name} has {'an' if own is None else 'no'} option '{option}'"
            yield Fault(Code.UNKNOWN_OPTION, (*at, "options", option), message, did_you_mean(option, has), key=True)
            continue
        value = _number(options[option])
        misfit = "" if value is None or own is None else known.option_misfit(name, str(option), value)
        if misfit:
            hint = f"`mhfl algorithms {name}` shows its options"
            yield Fault(Code.OUT_OF_RANGE, (*at, "options", option), f"{option}: {misfit}", hint)


def _tiers_for(algorithm: str, tiers: Sequence[Any], known: Known) -> Iterator[Fault]:
    """What an algorithm has against these tiers."""
    misfit = known.tiers_misfit(algorithm, len(tiers)) if tiers else ""
    if misfit:
        yield Fault(Code.TIER_COUNT, ("spec", "tiers"), misfit, "change the algorithm, or the tiers", key=True)
    if known.models_apart(algorithm):
        return
    for index, tier in enumerate(tiers):
        if _dig(tier, "architecture"):
            message = f"{algorithm} makes all tiers of one model: no tier can have an architecture of its own"
            hint = "use an algorithm for unlike models, such as fedproto, or leave the architecture out"
            yield Fault(Code.ARCHITECTURE, ("spec", "tiers", index, "architecture"), message, hint)


def _stage_order(data: object, known: Known) -> Iterator[Fault]:
    names = [_dig(stage, "name") for stage in _items(data, "spec", "stages")]
    if names and len(set(map(str, names))) == len(names) and known.stages.issuperset(map(str, names)):
        misfit = known.stages_misfit(names)
        if misfit:
            yield Fault(Code.STAGE_ORDER, ("spec", "stages"), misfit, "change the order of the stages", key=True)
