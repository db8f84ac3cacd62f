"""Derives a task's layout from the models that its factory builds: what is cut, by which units, in which order."""

from mhfl_mq.train.derive.arrays import layout_arrays
from mhfl_mq.train.derive.layout import TierShape, derive_layout

__all__ = ["TierShape", "derive_layout", "layout_arrays"]
