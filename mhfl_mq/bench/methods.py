"""What a benchmark compares: every algorithm of the registry by its name, and the baselines."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import algorithm_names

__all__ = ["BASELINES", "EXCLUSIVE", "LOCAL", "REFERENCE", "SMALLEST", "UPPER", "closest", "method_names", "pick"]

SMALLEST: Final = "smallest-on-all"
EXCLUSIVE: Final = "exclusive-largest"
LOCAL: Final = "local-only"
UPPER: Final = "largest-on-all"
BASELINES: Final[Mapping[str, str]] = {
    SMALLEST: "FedAvg of the smallest tier on every device",
    EXCLUSIVE: "FedAvg of the largest tier on the devices that can hold it; the others are left out",
    LOCAL: "each device trains its own tier alone",
    UPPER: "FedAvg of the largest tier on every device, whatever it can hold: an upper bound, not a choice",
}
"""What every method is compared with."""
REFERENCE: Final = "heterofl"
"""The algorithm by whose costs budgets are placed."""
ONE_TIER: Final = "fedavg"
"""Trains one tier: in a benchmark it is a baseline."""


def method_names() -> tuple[str, ...]:
    """Every algorithm that a benchmark can run, then the baselines."""
    return (*(name for name in algorithm_names() if name != ONE_TIER), *BASELINES)


def pick(what: str, wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names that were asked for, each once; raises `ConfigError`, with the closest one, for a wrong name."""
    for name in wanted:
        if name not in known:
            raise ConfigError(f"there is no {what} {name!r}", where="mhfl bench", remedy=closest(name, known))
    return tuple(dict.fromkeys(wanted))


def closest(name: str, known: Sequence[str]) -> str:
    """What a person may have meant."""
    if name == ONE_TIER:
        return f"it trains one tier: here it is {SMALLEST!r}, {EXCLUSIVE!r} and {UPPER!r}, which always run"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
