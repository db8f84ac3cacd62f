"""A privacy stage of another vendor: every device's contribution is scaled down to a largest norm.

It needs nothing of mhfl-mq but the stage contract. Clipping is not undone on the sum, so opening changes nothing.
"""

from dataclasses import dataclass, replace

import numpy as np

from mhfl_mq.errors import ConfigError
from mhfl_mq.stages import Contribution, Domain, Entropy, Opener, Options, Quiet, Sealer

__all__ = ["CLIP"]

DEFAULT_NORM = 1.0


class ClipSealer(Quiet):
    """Scales a contribution so that the Euclidean norm of all its vectors together is at most `norm`."""

    def __init__(self, norm: float) -> None:
        self._norm = norm

    def seal(self, one: Contribution) -> Contribution:
        """The same direction, no longer than the norm; weights are left alone."""
        length = float(np.sqrt(sum(float(np.square(vector).sum()) for vector in one.sums.values())))
        if length <= self._norm:
            return one
        return replace(one, sums={name: vector * (self._norm / length) for name, vector in one.sums.items()})


class ClipOpener(Quiet):
    """Clipping is not undone."""

    def open(self, total: Contribution) -> Contribution:
        """The sum as it is."""
        return total


@dataclass(frozen=True)
class Clip:
    """The stage `acme-clip`, with the option `norm` (default 1.0)."""

    name: str = "acme-clip"
    takes: Domain = Domain.REAL
    gives: Domain = Domain.REAL

    def check(self, options: Options) -> None:
        """Only `norm`, a number above 0."""
        unknown = sorted(set(options) - {"norm"})
        if unknown:
            raise ConfigError(f"unknown options {unknown}", where="stage acme-clip", remedy="it has only `norm`")
        norm = options.get("norm", DEFAULT_NORM)
        if isinstance(norm, bool) or not isinstance(norm, int | float) or not norm > 0:
            raise ConfigError(f"norm {norm!r}", where="stage acme-clip", remedy="give a number above 0")

    def sealer(self, device: str, options: Options, entropy: Entropy) -> Sealer:
        """The device half."""
        self.check(options)
        return ClipSealer(float(str(options.get("norm", DEFAULT_NORM))))

    def opener(self, options: Options, entropy: Entropy) -> Opener:
        """The aggregator half."""
        return ClipOpener()


CLIP = Clip()
