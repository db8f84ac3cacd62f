"""Fed-ET: a large model at the aggregator learns from small ones, each heard by how sure it is of an example.

Cho, Manoel, Joshi, Sim, Dimitriadis: Heterogeneous ensemble knowledge transfer for training large models in federated
learning, IJCAI 2022. With s_k(x) the class probabilities of device k and v_k(x) their variance over the classes, the
consensus is sum v_k s_k / sum v_k: two sums of tables that devices compute, so no device's model is seen by itself.

The paper's diversity term listens to those who disagree with the consensus's label. A device learns that label when
the consensus reaches it, so it says a round later whether it disagrees, in two more sums. Where the label is still the
same, these are the paper's; where it is not, the term is left out (see the step at the aggregator).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.families.base import About, Averaging, Family
from mhfl_mq.families.distillation.feddf import TEACHING
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Cut, Own, Plan
from mhfl_mq.families.rewrite import Out, mean_of, write_range
from mhfl_mq.segments import Accumulator, Layout, Source

__all__ = ["DISSENT", "DOUBT", "TRUST", "VOTES", "FedET"]

VOTES: Final = Own("votes", ("public", "classes"))
"""Up: variance times probabilities. Down: the consensus, a row of zeros where nobody is surer of one class."""
TRUST: Final = Own("trust", ("public",))
"""Up: variance. Down: its mean."""
DISSENT: Final = Own("dissent", ("public", "classes"))
"""Up: votes of a device whose label is not that of the consensus it was sent. Down: the dissenters' consensus."""
DOUBT: Final = Own("doubt", ("public",))
"""Up: variance, of a dissenter. Down: its mean."""


@dataclass(frozen=True, slots=True)
class FedET(Averaging):
    """The mean of each tier's parameters, and the consensus and the dissent that variances weigh."""

    ABOUT: ClassVar[About] = About(
        name="fedet",
        title="Fed-ET: a large model at the aggregator learns the consensus of small ones, weighed by variance",
        family=Family.DISTILLATION,
        travels="the tier's parameters, and softmax outputs of the public examples weighed by their variance",
        paper="Cho et al.: Heterogeneous ensemble knowledge transfer for training large models in federated learning, "
        "IJCAI 2022",
    )
    PLAN: ClassVar[Plan] = Plan(cut=Cut.APART, own=(VOTES, TRUST, DISSENT, DOUBT), public=True, server=True)
    NUMBERS: ClassVar[Mapping[str, Number]] = {
        **TEACHING,
        "diversity": Number(0.05, 0.0, 100.0, "how much the dissenters count beside the consensus's labels"),
        "share_head": Number(
            1.0, 0.0, 1.0, "1: models whose heads are of one shape share the head; 0: not", whole=True
        ),
    }
    CONCLUDES: ClassVar[bool] = True

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """Each table of votes becomes their quotient; where nothing was trusted, zeros."""
        Averaging.finalize(self, total, layout, head, out)
        for votes, trust in ((VOTES, TRUST), (DISSENT, DOUBT)):
            said, sure = mean_of(total, layout, votes.array), mean_of(total, layout, trust.array)
            if said is not None and sure is not None:
                write_range(out, layout.where(votes.array)[0], quotient(said, sure))
                write_range(out, layout.where(trust.array)[0], sure)


def quotient(votes: npt.NDArray[np.float64], trust: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """votes / trust, row by row; zeros where the trust is 0."""
    there = trust > 0
    return np.asarray(np.where(there[:, None], votes / np.where(there, trust, 1.0)[:, None], 0.0))
