"""FedRep's local round: the head on the body as it came, then the body on that head (Collins et al., ICML 2021)."""

from mhfl_mq.train.steps.base import Job, Stepper
from mhfl_mq.train.steps.personal import Personal, PersonalStepper
from mhfl_mq.train.task import Examples

__all__ = ["FedRep"]


class FedRep(Personal):
    """The method: `head_share` of a round's steps train the head alone, the others the body alone."""

    def begin(self, job: Job) -> Stepper:
        """Start with the head."""
        return _Stepper(job)


class _Stepper(PersonalStepper):
    """Parameters that are not their turn have no gradient, so no optimizer moves them."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._done = 0
        steps, share = job.options.steps, job.numbers["head_share"]
        self._head_steps = round(steps * share)
        if job.rehearsal:  # the first step is one more of the second's part
            others = round((steps - 1) * share)
            self._head_steps = others + 1 if others else 0

    def step(self, batch: Examples) -> float:
        """One minibatch of the part whose turn it is."""
        head = self._done < self._head_steps
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_((name in self.private) is head)
        self._done += 1
        return super().step(batch)
