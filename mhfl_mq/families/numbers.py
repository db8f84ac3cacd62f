"""The numbers that an algorithm has of its own, and how a policy's values are held against them."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Final

from mhfl_mq.errors import ConfigError

__all__ = ["SERVER_RATE", "Number", "hint", "read_numbers"]


@dataclass(frozen=True, slots=True)
class Number:
    """One option: its default, the least and the most that it may be, whether it is whole, and what it says."""

    default: float
    low: float
    high: float
    says: str
    whole: bool = False

    def fault(self, value: object) -> str:
        """What is wrong with a value; empty when nothing is."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            return f"{value!r} is not a number"
        if not self.low <= value <= self.high:
            return f"{value:g} is not within {self.low:g} to {self.high:g}"
        return f"{value:g} is not a whole number" if self.whole and value != int(value) else ""


MAX_RATE: Final = 10.0
"""A server step of ten times the mean has diverged in every published run."""
SERVER_RATE: Final = Number(1.0, 1e-6, MAX_RATE, "how much of the mean step the new version takes")


def read_numbers(known: Mapping[str, Number], given: Mapping[str, object], algorithm: str) -> dict[str, float]:
    """Every number, with the default where none is given; `ConfigError` for one that is unknown or out of range."""
    for name, value in given.items():
        if name not in known:
            what = f"{algorithm} has no option {name!r}"
            raise ConfigError(what, where="algorithm", remedy=hint(name, {**known, "weighting": None}))
        fault = known[name].fault(value)
        if fault:
            number = known[name]
            raise ConfigError(
                f"{name}: {fault}", where="algorithm", remedy=f"{number.says}; default {number.default:g}"
            )
    return {name: float(given.get(name, number.default)) for name, number in known.items()}  # type: ignore[arg-type]


def hint(name: str, known: Mapping[str, object]) -> str:
    """The closest known name, or all of them."""
    close = get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(known)) or 'none'}"
