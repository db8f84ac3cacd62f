"""DS-FL on the device (Itahara et al. 2021): fit the sharpened mean of softmax outputs, then train on private data."""

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from mhfl_mq.train.steps.base import Job, Stepper
from mhfl_mq.train.steps.personal import Personal
from mhfl_mq.train.steps.public import AligningStepper

__all__ = ["DSFLStepper", "SemiSupervised"]


class SemiSupervised(Personal):
    """DS-FL's round of a device."""

    def begin(self, job: Job) -> Stepper:
        """Go on with the device's own model."""
        return DSFLStepper(job)


class DSFLStepper(AligningStepper):
    """Softmax outputs, and the divergence from theirs."""

    def says(self, scores: Tensor) -> Tensor:
        """Probabilities of the classes."""
        return softmax(scores, dim=1)

    def distance(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """KL(consensus || model), the mean over the examples."""
        return kl_div(log_softmax(scores, dim=1), wanted, reduction="batchmean")
