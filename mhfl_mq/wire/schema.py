"""Plain msgpack values <-> typed messages: one pair of functions for each class, made once from its annotations.

`load` accepts exactly what the annotations allow (exact types, exact field set in the declared order, sorted
dict keys) and `dump` gives exactly that, so each message has one form. Fields that a class names as `added` are there
exactly when they differ from their default. Two things are forgiven to our own side:
an `int` where a float is declared becomes the float, and free text is made printable and cut to length, since
a reason that comes from an exception must not keep its message from being sent.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from mhfl_mq.wire.blobs import fault_in_inline, fault_in_manifest
from mhfl_mq.wire.bounds import Floats, Ints, Items, Length, OneOf, Pattern, Words
from mhfl_mq.wire.messages import Manifest, ManifestNote, Offer, Pull, TierSpec, UpdateReady

__all__ = ["Shape", "Wrong", "says", "shape_of"]

_MAX_EXACT: Final = 2**53  # larger integers are not all floats


class Wrong(Exception):
    """A value that its annotation does not allow: `what` is wrong at `path`. The codec says whose fault it is."""

    def __init__(self, what: str, path: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.path = path

    def under(self, name: str) -> "Wrong":
        """The same, seen from one level up."""
        return Wrong(self.what, name + (self.path if self.path.startswith("[") or not self.path else "." + self.path))


@dataclass(frozen=True, slots=True)
class Shape:
    """How one type goes over the wire: both raise `Wrong`; `says` describes it in docs/wire.md."""

    load: Callable[[Any], Any]
    dump: Callable[[Any], Any]
    says: str


# ---- rules between the fields of one message ------------------------------------------------------------------


def _manifest_rule(manifest: Manifest) -> str:
    return fault_in_manifest(manifest)


def _inline_rule(message: UpdateReady | ManifestNote) -> str:
    if message.inline and (fault := fault_in_inline(message.manifest, message.inline)):
        return f"inline {fault}"
    return ""


def _ascending(numbers: tuple[int, ...]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))


def _tier_rule(tier: TierSpec) -> str:
    return "" if _ascending(tier.segments) else f"segments {tier.segments} are not ascending"


def _offer_rule(offer: Offer) -> str:
    needed = len(offer.holds) or offer.tier + 1
    if len(offer.segments) != needed:
        return f"has {len(offer.segments)} segments, tier {offer.tier} needs {needed}"
    return "" if _ascending(offer.holds) else f"holds {offer.holds} is not ascending"


def _pull_rule(pull: Pull) -> str:
    end = 0
    for start, stop in pull.ranges:
        if start >= stop:
            return f"range {start}..{stop} is empty"
        if start < end:
            return f"range {start}..{stop} begins before the one in front of it ends"
        end = stop
    return ""


RULES: Final[dict[type, Callable[[Any], str]]] = {
    Manifest: _manifest_rule,
    UpdateReady: _inline_rule,
    ManifestNote: _inline_rule,
    Offer: _offer_rule,
    TierSpec: _tier_rule,
    Pull: _pull_rule,
}


# ---- scalars --------------------------------------------------------------------------------------------------


def _bool() -> Shape:
    def check(value: object) -> bool:
        if type(value) is not bool:
            raise Wrong(f"is {_name(value)}, not bool")
        return value

    return Shape(check, check, "true or false")


def _int(bound: Ints) -> Shape:
    low, high = bound.low, bound.high

    def check(value: object) -> int:
        if type(value) is not int:
            raise Wrong(f"is {_name(value)}, not int")
        if not low <= value <= high:
            raise Wrong(f"is not within {low} to {high}")
        return value

    return Shape(check, check, f"int, {low} to {_power(high)}")


def _float(bound: Floats) -> Shape:
    low, above = bound.low, bound.above

    def load(value: object) -> float:
        if type(value) is not float:
            raise Wrong(f"is {_name(value)}, not float")
        if not math.isfinite(value):
            raise Wrong("is not finite")
        if value < low or (above and value == low):
            raise Wrong(f"is {value}, not {'above' if above else 'at least'} {low}")
        return value

    def dump(value: object) -> float:
        if type(value) is int and -_MAX_EXACT <= value <= _MAX_EXACT:
            return load(float(value))
        return load(float(value) if isinstance(value, float) else value)  # numpy.float64 is a float of its own type

    bounds = "" if low == -math.inf else f", {'above' if above else 'at least'} {low:g}"
    return Shape(load, dump, f"finite float{bounds}")


def _pattern(bound: Pattern) -> Shape:
    matches = bound.matches.fullmatch

    def check(value: object) -> str:
        if type(value) is not str:
            raise Wrong(f"is {_name(value)}, not str")
        if matches(value) is None:
            raise Wrong(f"is {_shown(value)}, not {bound.says}")
        return value

    return Shape(check, check, f"str, {bound.says}")


def _words(bound: Words) -> Shape:
    limit = bound.limit

    def load(value: object) -> str:
        if type(value) is not str:
            raise Wrong(f"is {_name(value)}, not str")
        if len(value) > limit:
            raise Wrong(f"has {len(value)} characters, at most {limit} are allowed")
        if not value.isprintable():
            raise Wrong("has characters that cannot be printed")
        return value

    def dump(value: object) -> str:
        if type(value) is not str:
            raise Wrong(f"is {_name(value)}, not str")
        if not value.isprintable():
            value = "".join(letter if letter.isprintable() else " " for letter in value)
        return value if len(value) <= limit else value[: limit - 1] + "…"

    return Shape(load, dump, f"printable text of at most {limit} characters")


def _one_of(bound: OneOf) -> Shape:
    allowed = frozenset(bound.values)
    says = ", ".join(f"`{value}`" for value in bound.values)

    def check(value: object) -> str:
        if type(value) is not str or value not in allowed:
            raise Wrong(f"is {_shown(value)}, not one of {says}")
        return value

    return Shape(check, check, f"one of {says}")


def _bytes(bound: Length) -> Shape:
    limit, step = bound.limit, bound.step

    def check(value: object) -> bytes:
        if type(value) is not bytes:
            raise Wrong(f"is {_name(value)}, not bytes")
        if len(value) > limit or len(value) % step:
            raise Wrong(f"has {len(value)} bytes, not a multiple of {step} up to {limit}")
        return value

    multiple = f", a multiple of {step}" if step > 1 else ""
    return Shape(check, check, f"at most {limit} bytes{multiple}")


# ---- containers -----------------------------------------------------------------------------------------------


def _sequence(item: Shape, bound: Items) -> Shape:
    low, high = bound.low, bound.high

    def through(convert: Callable[[Any], Any], value: Any) -> list[Any]:
        if not low <= len(value) <= high:
            raise Wrong(f"has {len(value)} items, {low} to {high} are allowed")
        made: list[Any] = []
        try:
            for one in value:
                made.append(convert(one))  # noqa: PERF401  the index of the wrong item is len(made)
        except Wrong as wrong:
            raise wrong.under(f"[{len(made)}]") from None
        return made

    def load(value: object) -> tuple[Any, ...]:
        if type(value) is not list:
            raise Wrong(f"is {_name(value)}, not an array")
        return tuple(through(item.load, value))

    def dump(value: object) -> list[Any]:
        if type(value) is not tuple:
            raise Wrong(f"is {_name(value)}, not a tuple")
        return through(item.dump, value)

    return Shape(load, dump, f"{low} to {high} of: {item.says}")


def _pair(first: Shape, second: Shape) -> Shape:
    def load(value: object) -> tuple[Any, Any]:
        if type(value) is not list or len(value) != 2:
            raise Wrong("is not an array of two")
        return first.load(value[0]), second.load(value[1])

    def dump(value: object) -> list[Any]:
        if type(value) is not tuple or len(value) != 2:
            raise Wrong("is not a tuple of two")
        return [first.dump(value[0]), second.dump(value[1])]

    return Shape(load, dump, f"pair ({first.says}; {second.says})")


def _mapping(key: Shape, item: Shape, bound: Items) -> Shape:
    high = bound.high

    def through(convert: Callable[[Any], Any], value: dict[Any, Any]) -> dict[str, Any]:
        if len(value) > high:
            raise Wrong(f"has {len(value)} items, at most {high} are allowed")
        made = {}
        before = ""
        for name, one in value.items():
            try:
                key.load(name)
            except Wrong as wrong:
                raise Wrong(f"key {wrong.what}") from None
            if name <= before:
                raise Wrong("keys are not sorted")
            before = name
            try:
                made[name] = convert(one)
            except Wrong as wrong:
                raise wrong.under(f"[{name!r}]") from None
        return made

    def load(value: object) -> dict[str, Any]:
        if type(value) is not dict:
            raise Wrong(f"is {_name(value)}, not a map")
        return through(item.load, value)

    def dump(value: object) -> dict[str, Any]:
        if type(value) is not dict or not all(type(name) is str for name in value):
            raise Wrong(f"is {_name(value)}, not a dict with str keys")
        return through(item.dump, dict(sorted(value.items())))

    return Shape(load, dump, f"map of at most {high}, keys sorted; key: {key.says}; value: {item.says}")


# ---- classes --------------------------------------------------------------------------------------------------


def shape_of(cls: type) -> Shape:
    """The shape of a message or of a part of one; compiled anew, so keep it."""
    hints = get_type_hints(cls, include_extras=True)
    names = tuple(one.name for one in fields(cls))
    shapes = [(name, _shape(hints[name])) for name in names]
    loads = [(name, shape.load) for name, shape in shapes]
    dumps = [(name, shape.dump) for name, shape in shapes]
    rule = RULES.get(cls)
    added = getattr(cls, "added", ())
    absent = {one.name: _default(one) for one in fields(cls) if one.name in added}

    def load(value: object) -> Any:
        if type(value) is not dict:
            raise Wrong(f"is {_name(value)}, not a map")
        if tuple(value) != names and tuple(value) != tuple(n for n in names if n in value or n not in absent):
            raise Wrong(_other_fields(tuple(n for n in names if n in value or n not in absent), value))
        name = ""
        found = []
        try:
            for name, convert in loads:
                if name in absent and name not in value:
                    found.append(absent[name]())
                    continue
                found.append(convert(value[name]))
                if name in absent and found[-1] == absent[name]():
                    raise Wrong("has its default, and is left out then")
        except Wrong as wrong:
            raise wrong.under(name) from None
        made = cls(*found)
        if rule is not None and (fault := rule(made)):
            raise Wrong(fault)
        return made

    def dump(value: object) -> dict[str, Any]:
        if type(value) is not cls:
            raise Wrong(f"is {_name(value)}, not {cls.__name__}")
        name = ""
        made = {}
        try:
            for name, convert in dumps:
                one = getattr(value, name)
                made[name] = convert(one)
                if name in absent and one == absent[name]():
                    del made[name]
        except Wrong as wrong:
            raise wrong.under(name) from None
        if rule is not None and (fault := rule(value)):
            raise Wrong(fault)
        return made

    return Shape(load, dump, f"`{cls.__name__}`")


def _default(one: Field[Any]) -> Callable[[], Any]:
    """What makes a field's default; a field that was added without one is a mistake in the message."""
    if one.default_factory is not MISSING:
        return one.default_factory
    if one.default is MISSING:
        raise TypeError(f"the added field {one.name!r} has no default")
    return lambda: one.default


_SCALARS: Final[dict[type, Callable[[Any], Shape]]] = {
    Ints: _int,
    Floats: _float,
    Pattern: _pattern,
    Words: _words,
    OneOf: _one_of,
    Length: _bytes,
}


def _shape(hint: Any) -> Shape:
    """The shape of one annotation; an annotation without a bound is a mistake in the message, found at import."""
    if hint is bool:
        return _bool()
    if is_dataclass(hint) and isinstance(hint, type):
        return shape_of(hint)
    if get_origin(hint) is tuple:
        first, second = get_args(hint)
        return _pair(_shape(first), _shape(second))
    if get_origin(hint) is not Annotated:
        raise TypeError(f"{hint} has no bound: use the words of mhfl_mq.wire.bounds")
    inner, bound = get_args(hint)
    if not isinstance(bound, Items):
        return _SCALARS[type(bound)](bound)
    if get_origin(inner) is dict:
        key, item = get_args(inner)
        return _mapping(_shape(key), _shape(item), bound)
    return _sequence(_shape(get_args(inner)[0]), bound)


def says(hint: Any) -> str:
    """What a field of this annotation holds, in words (for docs/wire.md)."""
    return _shape(hint).says


# ---- words for what is wrong ----------------------------------------------------------------------------------


def _name(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _other_fields(names: tuple[str, ...], value: dict[Any, Any]) -> str:
    missing = [name for name in names if name not in value]
    extra = [_shown(name) for name in value if name not in names]
    if missing:
        return f"lacks {', '.join(missing)}"
    if extra:
        return f"has unknown fields: {', '.join(extra[:4])}"
    return "has its fields in another order"


def _power(high: int) -> str:
    return "2^63 - 1" if high == 2**63 - 1 else str(high)
