"""Fed-ET's torch half (Cho et al., IJCAI 2022): votes of the devices, the large model's training, shared heads."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from mhfl_mq.families.distillation.fedet import DISSENT, DOUBT, TRUST, VOTES, FedET
from mhfl_mq.families.plan import Own
from mhfl_mq.segments import Vector
from mhfl_mq.train.model import TaskModels, TierModel, arrays_of
from mhfl_mq.train.steps.base import Conclusion, Finished, Job, Stepper
from mhfl_mq.train.steps.plain import Plain, PlainStepper, outputs_of
from mhfl_mq.train.steps.public import public_of
from mhfl_mq.train.steps.teaching import Index, put_back, teach, tier_model

__all__ = ["EnsembleTransfer", "VotingStepper", "share_heads"]


class VotingStepper(PlainStepper):
    """Plain training; the delta goes up with votes, and with dissent from the consensus that came down."""

    def finish(self) -> Finished:
        """The delta; variance times probabilities, and variance; both again where the label is another."""
        own = self.model.own
        consensus = torch.from_numpy(own[VOTES.name].copy())
        said = softmax(outputs_of(self.module, public_of(self.job.models)), dim=1)
        sure = said.var(dim=1, unbiased=False)
        dissents = (consensus.sum(dim=1) > 0) & (said.argmax(dim=1) != consensus.argmax(dim=1))
        own[VOTES.name][:] = (sure[:, None] * said).numpy()
        own[TRUST.name][:] = sure.numpy()
        own[DISSENT.name][:] = own[VOTES.name] * dissents[:, None].numpy()
        own[DOUBT.name][:] = own[TRUST.name] * dissents.numpy()
        return Finished(self.model.update(self.job.base))


class EnsembleTransfer(Plain):
    """The last tier's model learns the consensus's labels; the devices' models get its head."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return VotingStepper(job)

    def conclude(self, conclusion: Conclusion) -> Vector:
        """Train the large model: cross-entropy with the labels plus `diversity` times KL(dissenters || model).

        Its head begins as the mean of those of the devices' tiers, and goes to these afterwards, where shapes agree;
        tiers whose head is of another shape keep their own, and count for nothing in it.
        """
        models, flat = conclusion.models, conclusion.merged.copy()
        own = len(models.tiers) - 1
        consensus, dissent = (_table(models, flat, one) for one in (VOTES, DISSENT))
        before = _table(models, conclusion.head, VOTES)
        rows = np.flatnonzero(consensus.sum(dim=1).numpy() > 0)
        labels = consensus.argmax(dim=1)
        same = (before.sum(dim=1) > 0) & (before.argmax(dim=1) == labels)
        heard = same & (dissent.sum(dim=1) > 0)
        diversity = conclusion.numbers.get("diversity", FedET.NUMBERS["diversity"].default)

        def loss(scores: Tensor, index: Index) -> Tensor:
            batch = torch.from_numpy(index)
            total = cross_entropy(scores, labels[batch])
            of = heard[batch]
            if diversity and of.any():  # where nobody disagrees there is no term: 0/0 is nothing to learn
                apart = kl_div(log_softmax(scores[of], dim=1), dissent[batch[of]], reduction="sum")
                total = total + diversity * apart / len(index)
            return total

        everybody = [tier_model(models, flat, tier) for tier in range(len(models.tiers))]
        shares = bool(conclusion.numbers.get("share_head", FedET.NUMBERS["share_head"].default))
        alike = share_heads(models, everybody) if shares else []
        teach(everybody[own].module, public_of(models), rows, loss, conclusion, own)
        give_head(models, everybody, alike)
        for tier, model in enumerate(everybody):
            put_back(models, model, flat, tier)
        return flat


def share_heads(models: TaskModels, everybody: Sequence[TierModel]) -> list[int]:
    """Make the last model's head the mean of those of the others, where shapes agree; says whose they were."""
    tables = [_head(models, tier, model) for tier, model in enumerate(everybody)]
    shapes = [{name: array.shape for name, array in table.items()} for table in tables]
    alike = [tier for tier in range(len(everybody) - 1) if shapes[tier] == shapes[-1]]
    if alike:
        for name, array in tables[-1].items():
            array[...] = np.mean([tables[tier][name] for tier in alike], axis=0)
    return alike


def give_head(models: TaskModels, everybody: Sequence[TierModel], to: Sequence[int]) -> None:
    """Write the last model's head over those of these tiers."""
    given = _head(models, len(everybody) - 1, everybody[-1])
    for tier in to:
        for name, array in _head(models, tier, everybody[tier]).items():
            array[...] = given[name]


def _head(models: TaskModels, tier: int, model: TierModel) -> dict[str, Vector]:
    """The arrays of a model's head (they share its memory), by the names that they have inside the head."""
    head = models.sizes.heads[tier].name
    inside = f"{head}." if head else ""
    return {name.removeprefix(inside): a for name, a in arrays_of(model.module).items() if name.startswith(inside)}


def _table(models: TaskModels, flat: Vector, own: Own) -> Tensor:
    """An own array of a version (whole), a row for each public example."""
    start, stop = models.layout.where(own.array)
    return torch.from_numpy(flat[start:stop].copy()).reshape(len(public_of(models)), -1)
