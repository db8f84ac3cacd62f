"""Algorithms by name, made from a policy's options."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from math import isfinite

from mhfl_mq.errors import ConfigError
from mhfl_mq.families.base import Algorithm
from mhfl_mq.families.heterofl import FedAvg, HeteroFL, Weighting

__all__ = ["algorithm_names", "make_algorithm"]


def algorithm_names() -> tuple[str, ...]:
    """Every algorithm that a policy can name."""
    return tuple(sorted(_MAKERS))


def make_algorithm(name: str, options: Mapping[str, object] | None = None) -> Algorithm:
    """The algorithm of this name with these options; `ConfigError` for a name or an option that is not known."""
    maker = _MAKERS.get(name)
    if maker is None:
        raise ConfigError(f"there is no algorithm {name!r}", where="algorithm", remedy=_hint(name, _MAKERS))
    return maker(dict(options or {}))


def _heterofl(options: dict[str, object]) -> Algorithm:
    weighting, rate = _weighting(options, Weighting.UNIFORM), _rate(options)
    _nothing_left(options)
    return HeteroFL(weighting, rate)


def _fedavg(options: dict[str, object]) -> Algorithm:
    weighting, rate = _weighting(options, Weighting.SAMPLES), _rate(options)
    _nothing_left(options)
    return FedAvg(weighting, rate)


_MAKERS: dict[str, Callable[[dict[str, object]], Algorithm]] = {"fedavg": _fedavg, "heterofl": _heterofl}
_OPTIONS = ("server_rate", "weighting")
MAX_RATE = 10.0  # a server step of ten times the mean has diverged in every published run


def _weighting(options: dict[str, object], default: Weighting) -> Weighting:
    value = options.pop("weighting", default.value)
    try:
        return Weighting(value)
    except ValueError:
        raise ConfigError(f"weighting {value!r}", where="algorithm", remedy="say 'uniform' or 'samples'") from None


def _rate(options: dict[str, object]) -> float:
    value = options.pop("server_rate", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"server_rate {value!r} is not a number", where="algorithm", remedy="say 1.0")
    if not (isfinite(value) and 0 < value <= MAX_RATE):
        raise ConfigError(f"server_rate {value}", where="algorithm", remedy=f"above 0, at most {MAX_RATE}")
    return float(value)


def _nothing_left(options: Mapping[str, object]) -> None:
    for name in options:
        raise ConfigError(f"there is no option {name!r}", where="algorithm", remedy=_hint(name, _OPTIONS))


def _hint(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    close = get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(known))}"
