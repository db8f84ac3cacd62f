"""A layout as a document of plain values, there and back: what travels, what is stored, what the digest is of."""

from collections.abc import Mapping
from dataclasses import dataclass

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments.axis import Axis
from mhfl_mq.segments.laws import MAX_AXES, MAX_PARAMETERS, MAX_TIERS
from mhfl_mq.segments.parts import Parameter, Tier

__all__ = ["FORMAT", "MAX_COORDINATES", "Read", "read", "written"]

FORMAT = "mhfl-layout/1"
MAX_NAME = 512  # characters; a module path of any real model is far shorter
MAX_COORDINATES = 1 << 36  # 256 GiB of float32: keeps every size far below 64-bit overflow

_ALWAYS = frozenset({"format", "tiers", "groups", "parameters"})
_SOMETIMES = frozenset({"whole", "rolls"})  # left out where they say nothing: older documents keep their digests


@dataclass(frozen=True, slots=True)
class Read:
    """The parts of a layout, as a document says them: well formed, and not yet checked against each other."""

    tiers: tuple[Tier, ...]
    groups: Mapping[str, tuple[int, ...]]
    parameters: tuple[Parameter, ...]
    whole: bool
    rolls: Mapping[str, int]


def written(parts: Read) -> dict[str, object]:
    """The document of these parts: plain strings, whole numbers, lists and dicts."""
    document: dict[str, object] = {
        "format": FORMAT,
        "tiers": [
            [t.name, repr(float(t.width)), t.depth, *([t.architecture] if t.architecture else [])] for t in parts.tiers
        ],
        "groups": {name: list(widths) for name, widths in parts.groups.items()},
        "parameters": [
            [
                p.name,
                p.since,
                [[a.channels, a.blocks, a.inner, a.group or ""] for a in p.axes],
                *([p.only] if p.private else []),
            ]
            for p in parts.parameters
        ],
    }
    if parts.whole:
        document["whole"] = True
    if parts.rolls:
        document["rolls"] = dict(parts.rolls)
    return document


def read(document: object) -> Read:
    """The parts that a document says; raises `LayoutError` for anything that `written` does not write."""
    if not isinstance(document, dict) or not _ALWAYS <= set(document) <= _ALWAYS | _SOMETIMES:
        raise LayoutError(f"a layout document has the fields {sorted(_ALWAYS)}, and this has not")
    if document["format"] != FORMAT:
        raise LayoutError(f"a layout of format {document['format']!r}", remedy=f"this version reads {FORMAT!r}")
    if document.get("whole", True) is not True:
        raise LayoutError(f"'whole' is {document['whole']!r}, not true or left out", where="layout document")
    tiers = tuple(_read_tier(item) for item in _items(document["tiers"], "tiers", MAX_TIERS))
    groups = {
        name: tuple(_whole(w) for w in _items(widths, "widths", MAX_TIERS))
        for name, widths in _map(document["groups"], "groups").items()
    }
    parameters = tuple(_read_parameter(item) for item in _items(document["parameters"], "parameters", MAX_PARAMETERS))
    rolls = {name: _whole(unit) for name, unit in _map(document.get("rolls", {}), "rolls").items()}
    if "rolls" in document and not rolls:
        raise LayoutError("'rolls' is empty, not left out", where="layout document")
    return Read(tiers, groups, parameters, "whole" in document, rolls)


def _items(value: object, what: str, most: int) -> list[object]:
    if not isinstance(value, list | tuple) or len(value) > most:
        raise LayoutError(f"{what!r} is not a list of at most {most} items", where="layout document")
    return list(value)


def _map(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict) or len(value) > MAX_PARAMETERS:
        raise LayoutError(f"{what!r} is not a mapping of reasonable size", where="layout document")
    return {_text(name): item for name, item in value.items()}


def _row(value: object, what: str, lengths: tuple[int, ...]) -> list[object]:
    row = _items(value, what, lengths[-1])
    if len(row) not in lengths:
        raise LayoutError(f"{what!r} has {len(row)} items instead of {lengths[0]}", where="layout document")
    return row


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COORDINATES:
        raise LayoutError(f"{value!r} is not a whole number in range", where="layout document")
    return value


def _text(value: object) -> str:
    if type(value) is not str or len(value) > MAX_NAME:
        raise LayoutError(f"{str(value)[:40]!r} is not a name", where="layout document")
    return value


def _read_tier(value: object) -> Tier:
    name, width, depth, *more = _row(value, "tier", (3, 4))
    if more == [""]:
        raise LayoutError("the architecture is empty, not left out", where="layout document")
    try:
        return Tier(_text(name), float(_text(width)), _whole(depth), *map(_text, more))
    except ValueError:
        raise LayoutError(f"the width {width!r} is not a number", where="layout document") from None


def _read_parameter(value: object) -> Parameter:
    name, since, axes, *only = _row(value, "parameter", (3, 4))
    read_axes = tuple(_read_axis(a) for a in _items(axes, "axes", MAX_AXES))
    return Parameter(_text(name), read_axes, _whole(since), *map(_whole, only))


def _read_axis(value: object) -> Axis:
    channels, blocks, inner, group = _row(value, "axis", (4,))
    return Axis(_whole(channels), _whole(blocks), _whole(inner), _text(group) or None)
