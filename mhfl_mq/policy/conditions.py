"""Conditions on facts: `ram_gb: ">= 1"`, `tags: [press]`, `idle: true`, `device: gw-*`; read once, then compared."""

import operator
import re
from collections.abc import Callable
from typing import Any, Final

from mhfl_mq.policy.compiled import Condition
from mhfl_mq.policy.facts import FACTS, Kind, Value
from mhfl_mq.policy.registry import fits

__all__ = ["COMPARE", "NUMBER_CONDITION", "condition", "holds", "show_value", "test_of"]

NUMBER_CONDITION: Final = r"\s*(>=|<=|>|<|==)\s*(-?[0-9]{1,15}(?:\.[0-9]{1,9})?)\s*"
_NUMBER: Final = re.compile(NUMBER_CONDITION)
COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}


def condition(fact: str, written: object) -> Condition:
    """A condition as it stands in a policy file; raises `ValueError` with what to write, after `; `."""
    kind = FACTS[fact].kind
    match kind, written:
        case Kind.NUMBER, bool():
            pass
        case Kind.NUMBER, int() | float():
            return Condition(fact, "==", float(written))
        case Kind.NUMBER, str():
            match = _NUMBER.fullmatch(written)
            if match is not None:
                return Condition(fact, match[1], float(match[2]))
        case Kind.FLAG, bool():
            return Condition(fact, "is", written)
        case Kind.TEXT, str() if written:
            return Condition(fact, "one of", (written,))
        case ((Kind.TEXT | Kind.TAGS), list()) if written and all(isinstance(one, str) and one for one in written):
            return Condition(fact, "one of" if kind is Kind.TEXT else "has", tuple(written))
        case Kind.TAGS, str() if written:
            return Condition(fact, "has", (written,))
    raise ValueError(f"not a condition on {fact}, which is {_WORDS[kind]}; {_HINTS[kind].format(fact=fact)}")


_WORDS: Final = {
    Kind.NUMBER: "a number",
    Kind.TEXT: "a text",
    Kind.FLAG: "yes or no",
    Kind.TAGS: "a list of tags",
}
_HINTS: Final = {
    Kind.NUMBER: 'write a comparison in quotes, e.g. {fact}: ">= 1" (>=, <=, >, <, ==)',
    Kind.TEXT: "write a text, or a list of those that are allowed, e.g. {fact}: [gw-*, pc-07]",
    Kind.FLAG: "write {fact}: true or {fact}: false",
    Kind.TAGS: "write the tags that it must have, e.g. {fact}: [press]",
}


def holds(condition: Condition, value: Value) -> bool:
    """Whether a fact's value meets a condition."""
    return test_of(condition)(value)


def test_of(condition: Condition) -> Callable[[Value], bool]:
    """A condition made ready for many values: those of the fact's own type; others do not meet it."""
    wanted: Any = condition.value
    match condition.operator:
        case "is":
            return lambda value: value is wanted
        case "one of" if any("*" in one for one in wanted):
            return lambda value: isinstance(value, str) and any(fits(one, value) for one in wanted)
        case "one of":
            allowed = frozenset(wanted)
            return lambda value: value in allowed
        case "has":
            return lambda value: isinstance(value, tuple) and all(one in value for one in wanted)
        case compare:
            number = COMPARE[compare]
            return lambda value: isinstance(value, float | int) and number(value, wanted)


def show_value(value: Value | None) -> str:
    """A fact's value for people."""
    match value:
        case None:
            return "not known"
        case bool():
            return "yes" if value else "no"
        case float() | int():
            return f"{value:g}"
        case tuple():
            return f"[{', '.join(value)}]"
        case _:
            return value
