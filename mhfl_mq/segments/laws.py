"""What the parts of a layout must satisfy, so that every coordinate of every tier has one meaning."""

import itertools
from collections.abc import Mapping

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments.parts import Parameter, Tier

__all__ = ["MAX_AXES", "MAX_PARAMETERS", "MAX_TIERS", "check_groups", "check_parameters", "check_rolls", "check_tiers"]

MAX_TIERS = 64  # a person reads the table of tiers; more is a mistake or an attack
MAX_PARAMETERS = 100_000  # the largest published networks have a few thousand named arrays
MAX_AXES = 10  # an array has three numpy dimensions per axis here, and numpy before 2.0 stops at 32

Groups = Mapping[str, tuple[int, ...]]


def check_tiers(tiers: tuple[Tier, ...]) -> None:
    """Tiers have names of their own, and sizes that a model factory can be asked for."""
    if not 1 <= len(tiers) <= MAX_TIERS:
        raise LayoutError(f"a layout has {len(tiers)} tiers", remedy=f"give 1 to {MAX_TIERS}")
    if len({t.name for t in tiers}) < len(tiers) or not all(t.name for t in tiers):
        raise LayoutError(f"tiers are named {[t.name for t in tiers]}", remedy="give each its own name")
    for tier in tiers:
        if not 0 < tier.width <= 1 or tier.depth < 0:
            raise LayoutError(
                f"tier {tier.name!r} has width {tier.width} and depth {tier.depth}",
                remedy="a width is above 0 and at most 1, a depth is a number of blocks (0: all)",
            )


def check_groups(groups: Groups, tiers: int, *, whole: bool) -> None:
    """Tiers are nested in every group; in a whole layout, none is narrower than another."""
    for name, widths in groups.items():
        if len(widths) != tiers or widths[-1] < 1 or widths[0] < 0:
            raise LayoutError(f"group {name!r} has the widths {list(widths)} for {tiers} tiers")
        if any(below > here for below, here in itertools.pairwise(widths)):
            raise LayoutError(
                f"group {name!r} has the widths {list(widths)}",
                remedy="tiers are nested: order them smallest first, none narrower than the one before",
            )
        if whole and widths[0] != widths[-1]:
            raise LayoutError(
                f"group {name!r} has the widths {list(widths)} in a layout of which every tier holds all",
                remedy="give each tier the full width, or do not say that the layout is whole",
            )


def check_rolls(rolls: Mapping[str, int], groups: Groups) -> None:
    """A group that is rolled is made of whole units: in the full model, and in the window of every tier."""
    for name, unit in rolls.items():
        widths = groups.get(name)
        if widths is None:
            raise LayoutError(f"the group {name!r} that may be rolled does not exist")
        if type(unit) is not int or unit < 1 or any(width % unit for width in widths):
            raise LayoutError(
                f"group {name!r} may be rolled by {unit!r} channels, its widths are {list(widths)}",
                remedy="give a positive number of channels that divides the width of every tier",
            )


def check_parameters(
    parameters: tuple[Parameter, ...], groups: Groups, tiers: tuple[Tier, ...], *, whole: bool
) -> None:
    """Names are unique, also inside every tier's model; axes fit their groups; every group is used."""
    if not 1 <= len(parameters) <= MAX_PARAMETERS:
        raise LayoutError(f"a layout has {len(parameters)} parameters", remedy=f"give 1 to {MAX_PARAMETERS}")
    names = {p.name: p for p in parameters}
    if len(names) < len(parameters):
        raise LayoutError("two parameters have the same name")
    unused = set(groups)
    for p in parameters:
        if not 0 <= p.since < len(tiers) or (whole and p.since):
            raise LayoutError(f"it first appears in tier {p.since} of {len(tiers)}", where=p.name)
        if len(p.axes) > MAX_AXES:
            raise LayoutError(f"it has {len(p.axes)} axes, more than {MAX_AXES}", where=p.name)
        if p.only != -1:
            _check_private(p, names, tiers, whole=whole)
        for axis in p.axes:
            if axis.group is None:
                continue
            widths = groups.get(axis.group)
            if widths is None or widths[-1] != axis.channels or widths[p.since] < 1:
                raise LayoutError(
                    f"{axis} does not fit its group, whose widths are {widths}",
                    where=p.name,
                    remedy="axes of one group have the same channels, and at least one in every tier that has them",
                )
            unused.discard(axis.group)
    if unused:
        raise LayoutError(f"no parameter uses group {min(unused)!r}")


def _check_private(p: Parameter, names: Mapping[str, Parameter], tiers: tuple[Tier, ...], *, whole: bool) -> None:
    if not 0 <= p.only < len(tiers):
        raise LayoutError(f"it belongs to tier {p.only} alone, and there are {len(tiers)}", where=p.name)
    if whole:
        raise LayoutError("it belongs to one tier alone, in a layout of which every tier holds all", where=p.name)
    tier = tiers[p.only].name
    if not p.name.startswith(tier + ":") or p.name == tier + ":":
        raise LayoutError(
            f"it belongs to tier {tier!r} alone, and is not named after it",
            where=p.name,
            remedy=f"name it {tier}:<name of the array>",
        )
    if p.since or any(axis.group is not None for axis in p.axes):
        raise LayoutError("what belongs to one tier alone has no first tier and is never sliced", where=p.name)
    shared = names.get(p.name[len(tier) + 1 :])
    if shared is not None and shared.of(p.only):
        raise LayoutError(f"tier {tier!r} has a shared array of that name as well", where=p.name)
