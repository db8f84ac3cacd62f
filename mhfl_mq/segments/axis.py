"""One sliceable axis of a parameter: which of its indices a narrower tier keeps."""

from dataclasses import dataclass

from mhfl_mq.errors import LayoutError

__all__ = ["Axis"]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of `blocks * channels * inner` indices, laid out in that order (C order).

    A tier keeps the first `width` channels of every block, with all of their inner indices. So an output channel
    of a convolution is `Axis(C)`, the input of a linear layer after a flatten is `Axis(C, inner=H * W)`, the gates
    of an LSTM are `Axis(hidden, blocks=4)`, the queries of an attention with h heads are `Axis(d, blocks=h)`.

    `group` names the units that axes share (a producer and its consumers, a residual stream): all axes of a group
    have the same channels and are cut at the same width. None: the axis is never sliced.
    (HeteroFL, Diao et al. 2021, section 3; FedRolex, Alam et al. 2022, rolls a group by one offset.)
    """

    channels: int
    blocks: int = 1
    inner: int = 1
    group: str | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "inner"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise LayoutError(f"an axis has {name}={value!r}", remedy="give a whole number of at least 1")
        if self.group is not None and (type(self.group) is not str or not self.group):
            raise LayoutError(f"an axis has group={self.group!r}", remedy="name the group, or give None")

    @property
    def size(self) -> int:
        """How many indices the whole axis has."""
        return self.blocks * self.channels * self.inner

    def size_at(self, width: int) -> int:
        """How many indices are left when `width` channels of every block are kept."""
        return self.blocks * width * self.inner
