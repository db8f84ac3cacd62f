"""The words in which a layer says how it counts its units: spans on the axes of its arrays, ports on its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Port", "Ports", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """An index space of `blocks * channels * inner` that counts the channels of a unit.

    `free`: nothing but its size is known from the module (the input of a linear layer may be a flattened image);
    blocks and inner then follow from whoever produces it.
    """

    unit: str
    channels: int
    blocks: int = 1
    inner: int = 1
    free: bool = False

    @property
    def size(self) -> int:
        """How many indices there are."""
        return self.channels * self.blocks * self.inner

    @property
    def told(self) -> bool:
        """Whether a person annotated it (`@` and the group's name), rather than the module's type."""
        return self.unit.startswith("@")

    def channel(self, index: int) -> int:
        """Which channel of the unit an index belongs to."""
        return (index // self.inner) % self.channels


@dataclass(frozen=True, slots=True)
class Port:
    """Where a span shows in a tensor that goes into a layer or comes out of it.

    `where` is the argument's name and the path inside it, or the path into the outputs, or the name of a raw array;
    `dim` gives the axis. `varies`: whether its size differs between the tiers; None where it does not, but a tier
    lacks the layer. `optional`: an input that may be a constant (the first state of a recurrent layer), an output
    that nobody has to take up.
    """

    where: tuple[str | int, ...]
    dim: Callable[[int], int]  # the tensor's number of dimensions -> the axis
    span: Span
    varies: bool | None = True
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Ports:
    """A leaf's arrays (local name -> a span or None for each axis), its inputs and its outputs."""

    axes: Mapping[str, tuple[Span | None, ...]]
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    raw: tuple[str, ...] = field(default=())  # arrays that the model's own code uses directly
    same: tuple[tuple[Span, Span], ...] = ()  # annotated under several names, and the same units by the module's type
    strange: str = ""  # why every array of it that varies must be annotated; empty for a layer that is understood
