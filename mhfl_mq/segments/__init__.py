"""The segment layout: tiers as segments of one flat float32 vector, and everything that adds them up."""

from mhfl_mq.segments.axis import Axis
from mhfl_mq.segments.blocks import Source, Span
from mhfl_mq.segments.check import Fault, UpdateCheck, check_update, within
from mhfl_mq.segments.compact import Feedback, Form
from mhfl_mq.segments.compacted import Compacted, stored_update
from mhfl_mq.segments.contribution import Contribution, Domain, Numbers
from mhfl_mq.segments.fold import Accumulator, Bounds
from mhfl_mq.segments.holdings import Holdings
from mhfl_mq.segments.layout import Box, Layout, Parameter, Tier
from mhfl_mq.segments.pack import Packer
from mhfl_mq.segments.vectors import Arrays, Vector

__all__ = [
    "Accumulator",
    "Arrays",
    "Axis",
    "Bounds",
    "Box",
    "Compacted",
    "Contribution",
    "Domain",
    "Fault",
    "Feedback",
    "Form",
    "Holdings",
    "Layout",
    "Numbers",
    "Packer",
    "Parameter",
    "Source",
    "Span",
    "Tier",
    "UpdateCheck",
    "Vector",
    "check_update",
    "stored_update",
    "within",
]
