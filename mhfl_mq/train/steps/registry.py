"""The device's half of an algorithm, by the name that its other half has in `mhfl_mq.families`."""

from collections.abc import Callable, Mapping
from typing import Final

from mhfl_mq.families import algorithm_class
from mhfl_mq.train.steps.base import Method
from mhfl_mq.train.steps.fedrep import FedRep
from mhfl_mq.train.steps.personal import Personal
from mhfl_mq.train.steps.plain import Plain

__all__ = ["METHODS", "method_of"]

METHODS: Final[Mapping[str, Callable[[], Method]]] = {
    "fedavg": Plain,
    "heterofl": Plain,
    "fedper": Personal,
    "fedrep": FedRep,
    "lg-fedavg": Personal,
}
"""One for each algorithm (a test holds the two registries against each other)."""


def method_of(name: str) -> Method:
    """The method of an algorithm; `ConfigError`, with the closest name, when there is none."""
    return METHODS[algorithm_class(name).ABOUT.name]()
