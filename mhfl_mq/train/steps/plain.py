"""Plain local training: the device trains its tier's model as if it were the only one."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.segments import Vector
from mhfl_mq.train.model import TaskModels, TierModel
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps.base import Conclusion, Finished, Job, Stepper
from mhfl_mq.train.task import Examples, Task

__all__ = ["Plain", "PlainStepper", "descend", "make_optimizer", "outputs_of"]

CHUNK = 1024
"""Examples of one forward pass without gradients: bounds the memory of activations, and changes no result."""


class Plain:
    """The method of all algorithms whose device step is plain training."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return PlainStepper(job)

    def score(self, models: TaskModels, tier: int, vector: Vector, examples: Examples) -> float:
        """The metric of the tier's model."""
        model = models.build(tier)
        model.put(vector)
        return float(models.task.metric(outputs_of(model.module, examples), examples.targets))

    def conclude(self, conclusion: Conclusion) -> Vector:
        """Nothing is left to do after the mean."""
        raise LocalMisuse("this algorithm has no step at the aggregator")


class PlainStepper:
    """Gradient steps on one module. A method of its own overrides `loss`, and `finish` where it sends more."""

    kinds: int = 4
    """Enough for steps of two parts in turn; a method of more kinds says so itself."""

    def __init__(self, job: Job, model: TierModel | None = None) -> None:
        self.job = job
        self.task: Task = job.models.task
        self.model = job.models.build(job.tier) if model is None else model
        self.model.put(job.base)
        self.module = self.model.module.train()
        self.optimizer = make_optimizer(self.module, job.options, job.options.rate_in(job.round_number))

    def loss(self, batch: Examples) -> Tensor:
        """What a step lowers: a scalar."""
        return self.task.loss(self.module(batch.inputs), batch.targets)

    def step(self, batch: Examples) -> float:
        """One minibatch: forward, backward, clip, step. Gives the loss before the step."""
        loss = self.loss(batch)
        descend(loss, self.module, self.optimizer, self.job.options.clip)
        return float(loss.detach())

    def finish(self) -> Finished:
        """The delta."""
        return Finished(self.model.update(self.job.base))

    def score(self, examples: Examples) -> float:
        """The task's metric of the module as it is now."""
        value = float(self.task.metric(outputs_of(self.module, examples), examples.targets))
        self.module.train()
        return value

    def tensors(self) -> Iterable[Tensor]:
        """Weights, buffers, gradients, the optimizer's state."""
        for parameter in self.module.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
        yield from self.module.buffers()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def make_optimizer(module: nn.Module, options: TrainOptions, rate: float) -> torch.optim.Optimizer:
    """A fresh optimizer: its state never outlives a round."""
    if options.adam:
        return torch.optim.Adam(module.parameters(), lr=rate)
    return torch.optim.SGD(module.parameters(), lr=rate, momentum=options.momentum)


def descend(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
    """Backward, clip the gradient's norm (0: not), step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip:
        nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()


def outputs_of(module: nn.Module, examples: Examples) -> Tensor:
    """What the module says of all examples, in evaluation mode and without gradients; it stays in that mode."""
    module.eval()
    with torch.no_grad():
        parts = [module(examples.inputs[at : at + CHUNK]) for at in range(0, len(examples), CHUNK)]
        return torch.cat(parts)
