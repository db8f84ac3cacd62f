"""FedMD on the device (Li, Wang 2019): fit the mean logits of the public examples by L1, then train on private data."""

from torch import Tensor
from torch.nn.functional import l1_loss

from mhfl_mq.train.steps.base import Job, Stepper
from mhfl_mq.train.steps.personal import Personal
from mhfl_mq.train.steps.public import AligningStepper

__all__ = ["DigestAndRevisit", "FedMDStepper"]


class DigestAndRevisit(Personal):
    """FedMD's two steps of a round, by the names that the paper gives them."""

    def begin(self, job: Job) -> Stepper:
        """Go on with the device's own model."""
        return FedMDStepper(job)


class FedMDStepper(AligningStepper):
    """Logits as they are, and their mean absolute difference."""

    def says(self, scores: Tensor) -> Tensor:
        """Logits."""
        return scores

    def distance(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """Mean absolute difference."""
        return l1_loss(scores, wanted)
