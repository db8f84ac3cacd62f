"""Reading policies with the names that are installed on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import AUTO, Cut, algorithm_class, algorithm_names, algorithm_numbers, make_algorithm
from mhfl_mq.policy import Policy
from mhfl_mq.policy.findings import policy_error
from mhfl_mq.policy.load import Known, check_text, load_policy, read_policy
from mhfl_mq.stages import GROUP, check_order, find_stages
from mhfl_mq.train.options import TrainOptions

__all__ = ["installed", "read_installed_policy", "read_installed_text", "required_at_start"]

TRAINING: Final = frozenset(field.name for field in fields(TrainOptions)) - {"steps", "batch", "rate", "seed"}
"""Numbers of local training that a policy may set beside those that every algorithm has."""


def installed() -> Known:
    """The algorithms and stages of this installation, and what they refuse."""
    return Known(
        algorithms={
            AUTO: TRAINING,
            **{name: TRAINING | algorithm_numbers(name).keys() for name in algorithm_names()},
        },
        stages=frozenset(offer.name for offer in entry_points(group=GROUP)),
        stages_misfit=_stages_misfit,
        tiers_misfit=_tiers_misfit,
        option_misfit=_option_misfit,
        compacting_misfit=_compacting_misfit,
        models_apart=_models_apart,
    )


def read_installed_policy(path: Path) -> Policy:
    """A policy that can run here; raises `PolicyError` with every finding."""
    return load_policy(path, installed())


def read_installed_text(text: str, file: str) -> Policy:
    """The same, of a file's text."""
    checked = check_text(text.removeprefix("\ufeff"), file, installed())
    if checked.policy is None:
        raise policy_error(file, checked.findings)
    return checked.policy


def required_at_start(policy: Policy, file: Path, applied: Path | None) -> int:
    """How many people must have signed a policy that an aggregator starts with: as many as it says, or as the one says
    that was applied last in the state folder. Raises `ConfigError` for one that is older than that.
    """
    if applied is None or applied == file:
        return policy.require_signatures
    checked = read_policy(applied, installed())
    if checked.policy is not None and policy.revision < checked.policy.revision:
        raise ConfigError(
            f"revision {policy.revision} is older than revision {checked.policy.revision}, which was applied last",
            where=str(file),
            remedy=f"leave --policy out to go on with that one ({applied}), or count metadata.revision up",
        )
    if checked.policy is None or checked.policy.digest == policy.digest:
        return policy.require_signatures
    return max(policy.require_signatures, checked.policy.require_signatures)


def _stages_misfit(names: Sequence[str]) -> str:
    try:
        check_order(find_stages(names))
    except ConfigError as error:
        return str(error)
    return ""


def _option_misfit(algorithm: str, option: str, value: float) -> str:
    number = None if algorithm == AUTO else algorithm_numbers(algorithm).get(option)
    return "" if number is None else number.fault(value)


def _compacting_misfit(algorithm: str, options: Mapping[str, float]) -> str:
    if algorithm == AUTO:
        return ""  # what it comes to is checked when the aggregator starts
    own = {name: value for name, value in options.items() if name in algorithm_numbers(algorithm)}
    try:
        return make_algorithm(algorithm, own).plan.against_compacting
    except ConfigError:
        return ""  # a wrong value has a finding of its own


def _models_apart(algorithm: str) -> bool:
    return algorithm == AUTO or algorithm_class(algorithm).PLAN.cut is Cut.APART


def _tiers_misfit(algorithm: str, tiers: int) -> str:
    if algorithm == AUTO:
        return ""
    try:
        make_algorithm(algorithm).check_tiers(tiers)
    except ConfigError as error:
        return error.what
    return ""
