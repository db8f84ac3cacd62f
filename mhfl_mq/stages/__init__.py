"""Privacy stages: what one is, and how a policy's stages run one after the other."""

from mhfl_mq.segments.contribution import Contribution, Domain, Numbers
from mhfl_mq.stages.base import Cohort, Entropy, Letter, Opener, Options, Quiet, Sealer, Stage
from mhfl_mq.stages.pipeline import GROUP, check_order, find_stages, open_sum, seal

__all__ = [
    "GROUP",
    "Cohort",
    "Contribution",
    "Domain",
    "Entropy",
    "Letter",
    "Numbers",
    "Opener",
    "Options",
    "Quiet",
    "Sealer",
    "Stage",
    "check_order",
    "find_stages",
    "open_sum",
    "seal",
]
