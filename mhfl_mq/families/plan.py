"""How an algorithm arranges the flat vector: what of a model travels, and what travels beside models.

A plan is data. The training child makes the layout from it, since only the child can build models; everybody else
has the layout's document.
"""

from dataclasses import dataclass
from enum import Enum

__all__ = ["OWN", "Cut", "Own", "Plan", "Shares"]

OWN = "~"
"""Begins the name of an array that is the algorithm's own and no model's: `~logits`, `~prototypes`."""


class Cut(Enum):
    """How the tiers' models lie in the vector."""

    NESTED = "nested"  # each tier holds the one before it: a tier is a prefix
    WHOLE = "whole"  # every tier holds the full model, and they differ in how they train it
    APART = "apart"  # each tier has a model of its own, of another architecture perhaps
    RANKED = "ranked"  # nested by importance: a tier holds the largest coordinates of the full model, wherever they are


class Shares(Enum):
    """Which part of a tier's model travels; the rest never leaves the device."""

    ALL = "all"
    BODY = "body"  # all but the head: the module that makes the scores
    HEAD = "head"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Own:
    """An array of the algorithm's own, in every tier. An axis is a number or what the task says.

    Known are `classes` (scores of an example), `features` (what the head gets of an example: the same in all tiers,
    or the layout is refused), `public` (examples of the public set).
    """

    name: str
    axes: tuple[str | int, ...]

    @property
    def array(self) -> str:
        """Its name in the layout."""
        return OWN + self.name


@dataclass(frozen=True, slots=True)
class Plan:
    """What the layout of an algorithm is made of.

    `exits`: the model has one head per block. `blocks`: it has blocks and a single head, and tiers differ in how many
    blocks they train at once. `private_last`: the last block of each tier, and its head, are that
    tier's alone. `rolls`: the layout says which groups may be rolled. `public`: the task must have public data.
    `server`: the last tier is the aggregator's own model, which no device is given. `rows`: beside the head travels one
    number for each of its rows, which says whether a device has the class (see `mhfl_mq.families.sharing.rows`).
    `scaler`: outputs of narrower layers are multiplied by how much narrower they are.
    """

    cut: Cut = Cut.NESTED
    shares: Shares = Shares.ALL
    own: tuple[Own, ...] = ()
    exits: bool = False
    blocks: bool = False
    private_last: bool = False
    rolls: bool = False
    public: bool = False
    server: bool = False
    rows: bool = False
    scaler: bool = False

    @property
    def against_compacting(self) -> str:
        """Why an update may not be rounded or thinned out, in one sentence; empty where it may.

        What an update lost is added to the next one, so a coordinate must mean the same in both; and own arrays may
        be counts that divide, beside which nothing large may share a scale.
        """
        beside = [one.name for one in self.own] + ["rows"] * self.rows
        if beside:
            return f"its {', '.join(beside)} travel beside the model, and must arrive as they are"
        if self.rolls or self.cut is Cut.RANKED:
            return "its coordinates are in another order in each round, so what an update lost could not be made up for"
        return ""
