"""Which groups may be rolled (`mhfl_mq.segments.roll`), and by how many channels: by doing it to the full model.

The shifts of a circle of C channels that leave what the model computes as it is can be added and undone, so they are
all multiples of one divisor of C: the unit. It is 1 where every channel is treated alike; as many as a group has of a
norm without weights, or of groups that only the model's code knows; and C, which is no roll, where the order counts:
a fixed code of positions, a rotation of pairs, a local norm over channels, rows that the data choose by number.
(Groups of norms with weights and of convolutions are channels of their own in the layout already.)
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError, LocalMisuse
from mhfl_mq.segments import Axis, Layout, Parameter
from mhfl_mq.train.derive.arrays import layout_arrays
from mhfl_mq.train.derive.forward import Sample, copy_model, unlike_values
from mhfl_mq.train.derive.masked import TOLERANCE, influences, outputs_of, random_like

__all__ = ["roll_units"]

UNSEEN = 1e-6  # of the greatest influence on the output: of less, a change could not be told from rounding
DRAWS = 2  # of random arrays: in one, half of the units may be silent behind a ReLU
MOST_DRAWS = 8  # for layers that are silent as a whole in some


def roll_units(models: Sequence[nn.Module], layout: Layout, sample: Tensor | Sample) -> dict[str, int]:
    """Group -> the fewest channels by which it may be rolled; every multiple of them may be, and no other number.

    A group is left out when no roll of it leaves what the models compute unchanged. `models` are of full width, the
    deepest last; shallower ones are needed when they compute what the deepest does not (a head for each depth).
    On the sample the arrays of every layer that is cut must matter, else `LayoutError` names the layer: nobody could
    say what rolls with it. None of the models is changed, nor the global random state.
    """
    if not layout.groups:
        return {}
    given = (sample,) if isinstance(sample, Tensor) else sample
    units = dict.fromkeys(layout.groups, 1)
    trained = {name for model in models for name, _ in model.named_parameters()}
    hidden = {_layer(p) for p in layout.parameters if p.name in trained and any(axis.group for axis in p.axes)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = tuple(x.double() if x.is_floating_point() else x for x in unlike_values(models[-1], given))
        for draw in range(MOST_DRAWS):
            shown = not hidden
            if shown and draw >= DRAWS:
                break
            for model in models:
                trial = _trial(model, layout, inputs)
                hidden -= {_layer(p) for p in layout.parameters if trial.sees(p.name)}
                if not (shown and trial.unchanged(units)):  # once each was tried where it shows: all at once
                    units = {g: _unit(g, layout.groups[g][-1], least, trial) for g, least in units.items()}
    if hidden:
        raise LayoutError(
            "it cannot be seen what its units are, so that none can be rolled: no output depends on it on this sample",
            where=min(hidden) or "the model's own arrays",
            remedy="return what it is for as well, leave it out, or give the task a sample that shows it (2 or more "
            "entries of a sequence, that differ)",
        )
    return {group: unit for group, unit in units.items() if unit < layout.groups[group][-1]}


def _layer(p: Parameter) -> str:
    return p.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class _Trial:
    """A copy of a model with random arrays, what it gives on the inputs, and how much each parameter matters."""

    model: nn.Module
    inputs: Sample
    axes: Mapping[str, tuple[Axis, ...]]
    arrays: Mapping[str, Tensor]
    before: Sequence[Tensor]
    influence: Mapping[str, float]

    def sees(self, name: str) -> bool:
        """Whether the output depends on a parameter."""
        return self.influence.get(name, 0.0) > UNSEEN * max(self.influence.values(), default=0.0)

    def unchanged(self, steps: Mapping[str, int]) -> bool:
        """Whether the model gives the same with the groups rolled by so many channels."""
        for group, step in steps.items():
            self._roll(group, -step)
        after = outputs_of(self.model, {}, self.inputs, WHOSE)[""]
        for group, step in steps.items():
            self._roll(group, step)
        return len(after) == len(self.before) and all(map(_same, self.before, after))

    def _roll(self, group: str, by: int) -> None:
        for name, tensor in self.arrays.items():
            dims = [3 * d + 1 for d, axis in enumerate(self.axes[name]) if axis.group == group]
            if dims:
                fine = tensor.detach().view([n for a in self.axes[name] for n in (a.blocks, a.channels, a.inner)])
                fine.copy_(fine.roll([by] * len(dims), dims))


WHOSE = "full width"


def _trial(model: nn.Module, layout: Layout, inputs: Sample) -> _Trial:
    axes = {p.name: p.axes for p in layout.parameters}
    model = copy_model(model).double()
    arrays = {name: tensor for name, tensor in layout_arrays(model).items() if name in axes}
    trained = {name for name, _ in model.named_parameters()}
    for name, tensor in arrays.items():
        if tensor.shape != tuple(axis.size for axis in axes[name]):
            raise LocalMisuse(f"a model to roll has the shape {tuple(tensor.shape)}: give full width", where=name)
        with torch.no_grad():  # a buffer may have to be positive (a running variance)
            tensor.copy_(random_like(tensor) if name in trained else torch.rand_like(tensor) + 0.5)
    before = outputs_of(model, {}, inputs, WHOSE)[""]
    return _Trial(model, inputs, axes, arrays, before, influences(model, inputs))


def _unit(group: str, channels: int, least: int, trial: _Trial) -> int:
    """The smallest multiple of `least` by which a roll changes nothing; `channels` when there is no smaller one."""
    if least == channels or trial.unchanged({group: least}):
        return least
    unit = channels
    for prime in _primes(channels):  # with multiplicity; the answer divides every shift that changes nothing
        if unit // prime > 1 and trial.unchanged({group: unit // prime}):
            unit //= prime
    return math.lcm(least, unit)


def _primes(number: int) -> Iterator[int]:
    prime = 2
    while number > 1:
        while number % prime == 0:
            yield prime
            number //= prime
        prime += 1


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point() or not one.numel():
        return torch.equal(one, other)
    scale = float(one.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(one, other, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
