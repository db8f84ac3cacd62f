"""MHFL algorithms: what each adds to "contribute, sum, finalize", and how a policy names them."""

from mhfl_mq.families.base import Algorithm
from mhfl_mq.families.heterofl import FedAvg, HeteroFL, Weighting
from mhfl_mq.families.registry import algorithm_names, make_algorithm

__all__ = ["Algorithm", "FedAvg", "HeteroFL", "Weighting", "algorithm_names", "make_algorithm"]
