"""A policy's stages in their order: found by name, checked against each other, run forward and reversed."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points

from mhfl_mq.errors import ConfigError, LocalMisuse
from mhfl_mq.segments import Contribution, Domain
from mhfl_mq.stages.base import Opener, Sealer, Stage

__all__ = ["GROUP", "check_order", "find_stages", "open_sum", "seal"]

GROUP = "mhfl_mq.stages"  # the entry-point group: the only way from the host to a plugin


def find_stages(names: Sequence[str], offers: Iterable[EntryPoint] | None = None) -> tuple[Stage, ...]:
    """The stages of these names, in this order, from the installed plugins (or from `offers`).

    Only the named ones are imported. Raises `ConfigError` for an unknown name (with the closest known one), for a
    name that two distributions claim, and for a plugin that does not load.
    """
    known: dict[str, list[EntryPoint]] = {}
    for offer in entry_points(group=GROUP) if offers is None else offers:
        known.setdefault(offer.name, []).append(offer)
    stages = tuple(_load(name, known) for name in names)
    if len(set(names)) < len(names):
        raise ConfigError(f"the stages {list(names)} name one twice", remedy="leave one of them out")
    return stages


def check_order(stages: Sequence[Stage]) -> None:
    """Refuse (`ConfigError`) stages that do not fit each other: each takes the numbers that the one before gives."""
    now, before = Domain.REAL, "the device's update"
    for stage in stages:
        if stage.takes is not now:
            raise ConfigError(
                f"stage {stage.name!r} takes {stage.takes.value} numbers, but {before} gives {now.value} ones",
                where="stages",
                remedy=f"put a stage before it that gives {stage.takes.value} numbers, or change the order",
            )
        now, before = stage.gives, f"stage {stage.name!r}"


def seal(sealers: Sequence[Sealer], one: Contribution) -> Contribution:
    """A device's contribution, sealed by every stage in the policy's order."""
    for sealer in sealers:
        if not sealer.ready:
            raise LocalMisuse("a stage was asked to seal before its dialogue was over")
        one = sealer.seal(one)
    return one


def open_sum(openers: Sequence[Opener], total: Contribution) -> Contribution:
    """The sum of sealed contributions, opened by every stage in the reversed order."""
    for opener in reversed(openers):
        if not opener.ready:
            raise LocalMisuse("a stage was asked to open before its dialogue was over")
        total = opener.open(total)
    return total


def _load(name: str, known: dict[str, list[EntryPoint]]) -> Stage:
    offers = known.get(name)
    if not offers:
        close = get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"installed are: {', '.join(sorted(known)) or 'none'}"
        raise ConfigError(f"there is no stage {name!r}", where="stages", remedy=hint)
    if len(offers) > 1:
        owners = sorted(offer.dist.name if offer.dist else offer.value for offer in offers)
        raise ConfigError(
            f"stage {name!r} is claimed by {' and '.join(owners)}",
            where="stages",
            remedy="uninstall all but one of them",
        )
    try:
        stage: Stage = offers[0].load()
    except Exception as error:  # a plugin is foreign code: whatever it raises, the person needs its name
        raise ConfigError(
            f"stage {name!r} ({offers[0].value}) does not load: {type(error).__name__}: {error}",
            where="stages",
            remedy="install its dependencies or remove it from the policy",
        ) from error
    if getattr(stage, "name", None) != name:
        raise ConfigError(f"what {offers[0].value} offers as {name!r} is not a stage of that name", where="stages")
    return stage
