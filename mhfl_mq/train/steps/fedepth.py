"""FeDepth on a device: a group of blocks at a time, and the head with each (Zhang et al. 2023).

What a frozen block computes costs no memory that lasts, and what is not trained has neither gradients nor an
optimizer's state. So a tier of d of n blocks needs about d/n of a training's memory, and the weights of all.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mhfl_mq.families.sharing.fedepth import group_of
from mhfl_mq.train.links import feature_shape, link
from mhfl_mq.train.steps.base import Finished, Job, Stepper
from mhfl_mq.train.steps.exit_scores import exit_net
from mhfl_mq.train.steps.plain import Plain, PlainStepper, make_optimizer
from mhfl_mq.train.task import Examples

__all__ = ["BlockStepper", "FeDepth"]


class FeDepth(Plain):
    """The method. Every tier answers with the full model."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return BlockStepper(job)


class BlockStepper(PlainStepper):
    """Gradient steps on the blocks [start, stop) and the head; the stem belongs to the first group.

    Frozen blocks are in evaluation mode: they give what they will give, and their running statistics stay.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.net = exit_net(self.module)
        blocks = len(self.net.blocks)
        self.at_once = min(job.models.tiers[job.tier].depth or blocks, blocks)
        self.kinds = self.groups = -(-blocks // self.at_once)
        self.trainable = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        self.shape = feature_shape(self.net, job.examples.inputs[:1]) if self.groups > 1 else ()
        self.taken = 0
        self._enter(self._group())

    def loss(self, batch: Examples) -> Tensor:
        """The task's loss of the head's scores right after the group."""
        with torch.set_grad_enabled(self.start == 0):
            x: Tensor = self.net.stem(batch.inputs)
            for block in self.net.blocks[: self.start]:
                x = block(x)
        for block in self.net.blocks[self.start : self.stop]:
            x = block(x)
        if self.stop < len(self.net.blocks):
            x = link(x, self.shape, self.stop - 1)
        return self.task.loss(self.net.heads[-1](x), batch.targets)

    def step(self, batch: Examples) -> float:
        """One minibatch, for the group whose turn it is."""
        group = self._group()
        if group != self.group:
            self._enter(group)
        self.taken += 1
        return super().step(batch)

    def finish(self) -> Finished:
        """The delta. Only a round of two steps or more of each group tells what a usual step costs."""
        return replace(super().finish(), usual=self.groups == 1 or self.job.options.steps >= 2 * self.groups)

    def score(self, examples: Examples) -> float:
        """The task's metric of the full model as it is now."""
        value = super().score(examples)
        self._set_modes()
        return value

    def _group(self) -> int:
        return group_of(self.taken, self.job.options.steps, self.groups, self.job.round_number)

    def _enter(self, group: int) -> None:
        """Make this group the one that learns, with an optimizer of its own; nothing is left of the one before."""
        self.group, self.start = group, group * self.at_once
        self.stop = min(self.start + self.at_once, len(self.net.blocks))
        stem = [self.net.stem] if self.start == 0 else []
        self.part = nn.ModuleList([*stem, *self.net.blocks[self.start : self.stop], self.net.heads[-1]])
        learning = {id(parameter) for parameter in self.part.parameters()}
        for parameter in self.trainable:
            parameter.requires_grad_(id(parameter) in learning)
            parameter.grad = None
        self.optimizer = make_optimizer(self.part, self.job.options, self.job.options.rate_in(self.job.round_number))
        self._set_modes()

    def _set_modes(self) -> None:
        self.net.eval()
        self.part.train()
