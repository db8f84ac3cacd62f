"""What a person can do about an axis that could not be derived: annotate it, or change the model where none can."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Part", "Puzzle", "annotate", "way_to_say"]

ANNOTATE = (
    "say how it is cut: annotations={{'{name}': ({axes})}} with one Axis(channels, blocks, inner, group) of the full "
    "model per dimension, group=None for one that is never cut"
)
CONCATENATED = (
    "no annotation can say this: concatenate parts of equal width, or give each part a layer of its own and add what "
    "they give"
)
REORDERED = "no annotation can say this: a tier keeps the first units of each block, so leave the units in their order"


@dataclass(frozen=True, slots=True)
class Part:
    """A layer's units in an input: their number in the full model, and which one each probed index is made of."""

    unit: str
    channels: int
    found: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Puzzle:
    """An input of `size` indices whose `parts` do not follow it in blocks; `gaps`: no part covers all of it."""

    unit: str
    size: int
    parts: tuple[Part, ...]
    gaps: bool


Sizes = Mapping[int, int]  # tier -> how many, for the tiers that have it


def annotate(name: str, shape: Sequence[int]) -> str:
    """How to annotate an array of the full model's `shape`."""
    return ANNOTATE.format(name=name, axes=", ".join(f"Axis({size}, ...)" for size in shape))


def way_to_say(puzzle: Puzzle, sizes_of: Callable[[str], Sizes]) -> tuple[bool, str]:
    """Whether annotations can say how the parts stand in the input, and how, or what to change instead.

    They can when some number of channels divides the input and every part into blocks and inner indices so that an
    index and the unit that it is made of are always of the same channel, and all are cut at one width in each tier.
    `sizes_of(unit)`: how many channels of a unit each tier has.
    """
    if not puzzle.parts:
        return False, CONCATENATED
    sizes = sizes_of(puzzle.unit)
    full = max(sizes.values(), default=1)
    for channels in _divisors(math.gcd(puzzle.size, *(part.channels for part in puzzle.parts))):
        for inner in _divisors(puzzle.size // channels) if channels > 1 else ():
            widths = {k: n * channels / full for k, n in sizes.items()}
            said = [_like(channels, inner, widths, part, sizes_of(part.unit)) for part in puzzle.parts]
            if all(said) and all(width.is_integer() for width in widths.values()):
                mine = f"{puzzle.unit!r} as Axis({channels}, {puzzle.size // channels // inner}, {inner}, 'u')"
                return True, f"by the sizes it would be the units of {', '.join((mine, *said))}"
    return False, CONCATENATED if puzzle.gaps else REORDERED


def _like(channels: int, inner: int, widths: Mapping[int, float], part: Part, sizes: Sizes) -> str:
    """How the part would be annotated; empty when it is not cut alike."""
    times = part.channels // channels
    for within in _divisors(times):
        same = all((j // inner) % channels == (unit // within) % channels for j, unit in part.found.items())
        if same and all(n / times == widths[k] for k, n in sizes.items() if k in widths):
            return f"{part.unit!r} as Axis({channels}, {times // within}, {within}, 'u')"
    return ""


def _divisors(number: int) -> Iterator[int]:
    return (d for d in range(number, 0, -1) if number % d == 0)
