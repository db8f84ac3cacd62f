"""What a layout is made of: its tiers, its named arrays, and the rectangles that these are cut into."""

from dataclasses import dataclass

from mhfl_mq.segments.axis import Axis

__all__ = ["Box", "Parameter", "Tier"]


@dataclass(frozen=True, slots=True)
class Tier:
    """One size of the model. `width` and `depth` are what the model factory is asked for (depth 0: all blocks).

    `architecture` names a model of its own, for tiers that are not cut out of one model; empty: the task's model.
    """

    name: str
    width: float = 1.0
    depth: int = 0
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named float32 array of the model. `since` is the first tier that has it at all (depth).

    With `only` it belongs to that tier alone, is never sliced, and is named `<tier name>:<array name>`, so that two
    tiers may each have an array of one name that have nothing to do with each other.
    """

    name: str
    axes: tuple[Axis, ...]
    since: int = 0
    only: int = -1

    @property
    def private(self) -> bool:
        """Whether it belongs to one tier alone."""
        return self.only >= 0

    def of(self, tier: int) -> bool:
        """Whether the model of a tier has it."""
        return tier == self.only if self.private else tier >= self.since


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of one parameter that one segment holds, and where it stands in the flat vector.

    `spans` are the channels [low, high) on each axis, its coordinates stand at [start, stop)
    in C order.
    """

    parameter: int
    segment: int
    spans: tuple[tuple[int, int], ...]
    start: int
    stop: int
