"""Is a vector from outside fit to be folded: its length, and that every number is finite and within the bound."""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from mhfl_mq.errors import LocalMisuse, PeerFault
from mhfl_mq.segments.blocks import Source, read_blocks, source_length
from mhfl_mq.segments.vectors import Vector

__all__ = ["Fault", "UpdateCheck", "check_update", "within"]


class Fault(Enum):
    """Why an update cannot be counted."""

    LENGTH = "wrong_length"
    NOT_FINITE = "not_finite"
    TOO_LARGE = "too_large"
    FORM = "wrong_form"  # compacted, and not readable


@dataclass(frozen=True, slots=True)
class UpdateCheck:
    """The answer: `fault` is None for an update that can be folded; `reason` is for the device's receipt."""

    fault: Fault | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the update can be folded."""
        return self.fault is None


def check_update(source: Source, length: int, bound: float) -> UpdateCheck:
    """Read an update once, in cache-sized blocks, and say whether it can be folded.

    `length` is that of the tier's vector in coordinates, `bound` the largest magnitude that the round allows.
    """
    limit = np.float32(bound)
    if not (np.isfinite(limit) and limit > 0):
        raise LocalMisuse(f"a bound of {bound} on the values of an update", remedy="give a positive float32")
    held = source_length(source)
    if held != length:
        found = "no whole number of float32" if held is None else f"{held} coordinates"
        return UpdateCheck(Fault.LENGTH, f"the update has {found}, its tier has {length}")
    try:
        for start, block in read_blocks(source, length):
            if within(block, limit):
                continue
            worst = int(np.flatnonzero(~(np.abs(block) <= limit))[0])
            value = float(block[worst])
            if np.isfinite(value):
                reason = f"coordinate {start + worst} is {value:.6g}, beyond the round's bound of {bound:.6g}"
                return UpdateCheck(Fault.TOO_LARGE, reason)
            return UpdateCheck(Fault.NOT_FINITE, f"coordinate {start + worst} is {value}")
    except PeerFault as fault:
        return UpdateCheck(Fault.FORM, fault.what)
    return UpdateCheck()


def within(block: Vector, limit: np.float32) -> bool:
    """Whether every number of a non-empty block is finite and at most `limit` in magnitude.

    Compares bit patterns: the patterns of floats of one sign are ordered as their magnitudes, with infinity and
    NaN on top, so two integer maxima (faster than those of floats, which watch for NaN) see everything.
    """
    top = int(np.abs(limit).view(np.uint32))
    if int(block.view(np.int32).max()) > top:
        return False
    return int(block.view(np.uint32).max()) <= top | 0x8000_0000
