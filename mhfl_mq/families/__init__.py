"""MHFL algorithms: how each arranges the vector, what an update weighs and what the sum becomes; found by name."""

from mhfl_mq.families.base import About, Algorithm, Averaging, Evaluated, Family, Weighting
from mhfl_mq.families.choose import AUTO, Choice, Constraint, choose_algorithm
from mhfl_mq.families.plan import OWN, Cut, Own, Plan, Shares
from mhfl_mq.families.registry import algorithm_class, algorithm_names, algorithm_numbers, make_algorithm

__all__ = [
    "AUTO",
    "OWN",
    "About",
    "Algorithm",
    "Averaging",
    "Choice",
    "Constraint",
    "Cut",
    "Evaluated",
    "Family",
    "Own",
    "Plan",
    "Shares",
    "Weighting",
    "algorithm_class",
    "algorithm_names",
    "algorithm_numbers",
    "choose_algorithm",
    "make_algorithm",
]
