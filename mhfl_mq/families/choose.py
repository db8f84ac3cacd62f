"""`algorithm: auto`: the method that fits what binds the devices, and why.

What binds is what the policy's budgets are about, for these are what a device is held against. The choice follows the
comparison in PracMHBench (Guo et al., DAC 2025) and our own, docs/benchmarks.md: no method wins everywhere.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["AUTO", "Choice", "Constraint", "choose_algorithm"]

AUTO: Final = "auto"
"""The name in a policy that asks for a choice."""


class Constraint(Enum):
    """What decides how large a model a device can carry."""

    COMPUTATION = "computation"
    COMMUNICATION = "communication"
    MEMORY = "memory"
    MIXED = "mixed"
    FOREIGN = "foreign architectures"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Choice:
    """The algorithm, what binds, and the reason in one sentence."""

    algorithm: str
    constraint: Constraint
    why: str


def choose_algorithm(constraint: Constraint, *, widths: bool, depths: bool) -> Choice:
    """The method for a constraint, of those that can serve tiers which differ in width, in depth, or in both."""
    if constraint is Constraint.FOREIGN:
        return Choice("fedproto", constraint, "tiers name architectures of their own, and share class prototypes only")
    if not depths and not widths:
        return Choice("fedavg", constraint, "there is one tier, so there is one model for all")
    if depths and not widths:
        if constraint is Constraint.MEMORY:
            why = "memory binds and the tiers differ in depth: full models, trained a few blocks at a time"
            return Choice("fedepth", constraint, why)
        why = f"{_BINDS[constraint]} and the tiers differ in depth: exits after each block, which teach each other"
        return Choice("depthfl", constraint, why)
    if depths and constraint is not Constraint.MEMORY:
        return Choice("scalefl", constraint, f"{_BINDS[constraint]} and the tiers differ in width and depth")
    if constraint is Constraint.MEMORY:
        why = f"memory binds and the tiers differ in width{' and depth' if depths else ''}: one sub-model at a time"
        return Choice("fjord", constraint, why)
    why = f"{_BINDS[constraint]} and the tiers differ in width: each device also trains every narrower sub-model"
    return Choice("slimmable", constraint, why)


_BINDS: Final = {
    Constraint.COMPUTATION: "computation binds",
    Constraint.COMMUNICATION: "communication binds",
    Constraint.MEMORY: "memory binds",
    Constraint.MIXED: "several budgets bind",
    Constraint.NONE: "no budget is set",
}
