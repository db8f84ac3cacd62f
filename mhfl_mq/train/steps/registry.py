"""The device's half of an algorithm, by the name that its other half has in `mhfl_mq.families`."""

from collections.abc import Callable, Mapping
from typing import Final

from mhfl_mq.families import algorithm_class
from mhfl_mq.train.steps.base import Method
from mhfl_mq.train.steps.depthfl import DepthFL
from mhfl_mq.train.steps.dsfl import SemiSupervised
from mhfl_mq.train.steps.feddf import Ensemble, EnsembleOfUpdates
from mhfl_mq.train.steps.feddistill import ClassLogits
from mhfl_mq.train.steps.fedepth import FeDepth
from mhfl_mq.train.steps.fedet import EnsembleTransfer
from mhfl_mq.train.steps.fedgroups import Groups
from mhfl_mq.train.steps.fedmd import DigestAndRevisit
from mhfl_mq.train.steps.fedproto import Prototypes
from mhfl_mq.train.steps.fedrep import FedRep
from mhfl_mq.train.steps.fedtgp import TrainedPrototypes
from mhfl_mq.train.steps.fiarse import Fiarse
from mhfl_mq.train.steps.fjord import FjORD
from mhfl_mq.train.steps.masked import Masked
from mhfl_mq.train.steps.personal import Personal
from mhfl_mq.train.steps.plain import Plain
from mhfl_mq.train.steps.scalefl import ScaleFL
from mhfl_mq.train.steps.slimmable import Slimmable

__all__ = ["METHODS", "method_of"]

METHODS: Final[Mapping[str, Callable[[], Method]]] = {
    "fedavg": Plain,
    "heterofl": Masked,
    "depthfl": DepthFL,
    "scalefl": ScaleFL,
    "fedepth": FeDepth,
    "inclusivefl": Plain,
    "fedrolex": Masked,
    "slimmable": Slimmable,
    "fjord": FjORD,
    "fiarse": Fiarse,
    "fedper": Personal,
    "fedrep": FedRep,
    "lg-fedavg": Personal,
    "fedmd": DigestAndRevisit,
    "dsfl": SemiSupervised,
    "feddistill": ClassLogits,
    "feddf": Ensemble,
    "feddf-weights": EnsembleOfUpdates,
    "fedet": EnsembleTransfer,
    "fedproto": Prototypes,
    "fedtgp": TrainedPrototypes,
    "fedgroups": Groups,
}
"""One for each algorithm (a test holds the two registries against each other)."""


def method_of(name: str) -> Method:
    """The method of an algorithm; `ConfigError`, with the closest name, when there is none."""
    return METHODS[algorithm_class(name).ABOUT.name]()
