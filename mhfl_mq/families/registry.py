"""Algorithms by name, made from a policy's options."""

from collections.abc import Mapping
from typing import Final

from mhfl_mq.errors import ConfigError
from mhfl_mq.families.base import Algorithm, Averaging, Weighting
from mhfl_mq.families.distillation.dsfl import DSFL
from mhfl_mq.families.distillation.feddf import FedDF, FedDFWeights
from mhfl_mq.families.distillation.feddistill import FedDistill
from mhfl_mq.families.distillation.fedet import FedET
from mhfl_mq.families.distillation.fedmd import FedMD
from mhfl_mq.families.native.fedgroups import FedGroups
from mhfl_mq.families.native.fedproto import FedProto
from mhfl_mq.families.native.fedtgp import FedTGP
from mhfl_mq.families.numbers import Number, hint, read_numbers
from mhfl_mq.families.sharing.depthfl import DepthFL
from mhfl_mq.families.sharing.fedavg import FedAvg
from mhfl_mq.families.sharing.fedepth import FeDepth
from mhfl_mq.families.sharing.fedper import FedPer
from mhfl_mq.families.sharing.fedrep import FedRep
from mhfl_mq.families.sharing.fedrolex import FedRolex
from mhfl_mq.families.sharing.fiarse import Fiarse
from mhfl_mq.families.sharing.fjord import FjORD
from mhfl_mq.families.sharing.heterofl import HeteroFL
from mhfl_mq.families.sharing.inclusivefl import InclusiveFL
from mhfl_mq.families.sharing.lgfedavg import LGFedAvg
from mhfl_mq.families.sharing.scalefl import ScaleFL
from mhfl_mq.families.sharing.slimmable import Slimmable

__all__ = ["algorithm_class", "algorithm_names", "algorithm_numbers", "make_algorithm"]

_CLASSES: Final[tuple[type[Averaging], ...]] = (
    FedAvg,
    HeteroFL,
    DepthFL,
    ScaleFL,
    FeDepth,
    InclusiveFL,
    FedRolex,
    Slimmable,
    FjORD,
    Fiarse,
    FedPer,
    FedRep,
    LGFedAvg,
    FedMD,
    DSFL,
    FedDistill,
    FedDF,
    FedDFWeights,
    FedET,
    FedProto,
    FedTGP,
    FedGroups,
)
_BY_NAME: Final = {cls.ABOUT.name: cls for cls in _CLASSES}


def algorithm_names() -> tuple[str, ...]:
    """Every algorithm that a policy can name, by family."""
    return tuple(_BY_NAME)


def algorithm_class(name: str) -> type[Averaging]:
    """The class of this name; `ConfigError`, with the closest name, when there is none."""
    found = _BY_NAME.get(name)
    if found is None:
        raise ConfigError(f"there is no algorithm {name!r}", where="algorithm", remedy=hint(name, _BY_NAME))
    return found


def algorithm_numbers(name: str) -> Mapping[str, Number]:
    """The options that an algorithm has of its own."""
    return algorithm_class(name).NUMBERS


def make_algorithm(name: str, options: Mapping[str, object] | None = None) -> Algorithm:
    """The algorithm of this name with these options; `ConfigError` for a name or an option that is not known."""
    cls = algorithm_class(name)
    given = dict(options or {})
    weighting = _weighting(given.pop("weighting", cls.WEIGHTING.value))
    return cls(weighting, read_numbers(cls.NUMBERS, given, name))


def _weighting(value: object) -> Weighting:
    try:
        return Weighting(value)
    except ValueError:
        raise ConfigError(f"weighting {value!r}", where="algorithm", remedy="say 'uniform' or 'samples'") from None
