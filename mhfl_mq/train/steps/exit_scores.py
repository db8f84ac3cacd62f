"""What methods with exits have in common: the scores of every exit, and how far one exit's answer is from another's."""

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from mhfl_mq.errors import TaskError
from mhfl_mq.train.exits import ExitNet

__all__ = ["ExitEnsemble", "divergence", "exit_net"]


def exit_net(module: nn.Module) -> ExitNet:
    """The module as what it is: a plan with exits, or with blocks, lets no other be built."""
    if not isinstance(module, ExitNet):
        raise TaskError(f"a {type(module).__name__} is no network of blocks", remedy="build it as an ExitNet")
    return module


def divergence(teacher: Tensor, learner: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of the teacher's class probabilities from the learner's, in nats, the mean over the examples.

    Both are scores (n, classes); no gradient goes to the teacher. At a temperature T the scores are divided by T and
    the divergence is multiplied by T**2, so that gradients keep their size (Hinton et al. 2015).
    """
    if learner.ndim != 2 or learner.shape[1] < 2:
        raise TaskError(
            f"an exit gives {tuple(learner.shape)}, and exits teach each other by class probabilities",
            where="the task's model",
            remedy="let every head give scores (n, classes) of at least 2 classes, or use heterofl",
        )
    told = log_softmax(teacher.detach() / temperature, dim=1)
    said = log_softmax(learner / temperature, dim=1)
    return kl_div(said, told, reduction="batchmean", log_target=True) * temperature**2


class ExitEnsemble(nn.Module):
    """A network whose answer is the mean of its exits' scores."""

    def __init__(self, net: ExitNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores (n, classes)."""
        return torch.stack(self.net.exits(inputs)).mean(dim=0)
