"""The model of a smaller tier, run inside the module of a larger one: its arrays are slices of the large arrays.

Nothing is copied into a module of its own, so gradients arrive in the large module's parameters and a step of its
optimizer moves all tiers at once (slimmable networks, Yu et al. 2019; ordered dropout, Horvath et al. 2021; mutual
distillation between the sizes of one model).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError, LocalMisuse, TaskError
from mhfl_mq.families.plan import OWN
from mhfl_mq.segments import Layout, Parameter
from mhfl_mq.train.derive.arrays import aliases_of, layout_arrays
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.model import TaskModels

__all__ = ["SubModels"]

_NOTHING = torch.empty(0)
_Place = tuple[dict[str, Tensor], str]
"""Where a module keeps an array: its own table of parameters or buffers, and the name in it. Not the attribute, for
that takes Parameters only, and a part of one is none."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """How one array of a smaller tier lies in the large module, and where in its own.

    `sizes` and `steps` show the part of the large array, with the blocks of the axes that are cut on axes of their
    own: how many indices it has on each, and which axis of the large array they go along by how many indices. Both
    are empty for an array that is the same in both tiers. `shape` is the small array's.
    """

    name: str
    large: _Place
    small: tuple[_Place, ...]  # tied weights have several
    buffer: bool
    sizes: tuple[int, ...] = ()
    steps: tuple[tuple[int, int], ...] = ()
    shape: tuple[int, ...] = ()

    def whole(self) -> Tensor:
        """The large module's array, as it is now: some modules put a new one in its place."""
        store, local = self.large
        return store[local]

    def view(self) -> Tensor:
        """The part of the large array, in its memory. One operation, for its gradient is made by one too."""
        array = self.whole()
        if not self.sizes:
            return array
        strides = array.stride()
        return array.as_strided(self.sizes, [strides[axis] * step for axis, step in self.steps])

    def take(self) -> Tensor:
        """The array of the small model; in the large array's memory unless blocks have to be moved together."""
        part = self.view()
        return part if len(self.sizes) <= len(self.shape) else part.reshape(self.shape)

    def put(self, array: Tensor) -> None:
        """Let the small model compute with this array."""
        for store, local in self.small:
            store[local] = array

    def keep(self, given: Tensor, version: int) -> None:
        """Write a buffer back that the small model replaced, or changed in a copy: `given` to it at `version`."""
        store, local = self.small[0]
        found = store[local]
        if found is given and (found._version == version or found.data_ptr() == self.whole().data_ptr()):
            return
        if found.shape != given.shape:
            raise TaskError(
                f"a forward pass of a smaller tier made it {tuple(found.shape)} instead of {tuple(given.shape)}",
                where=self.name,
                remedy="let the buffer keep its shape, or register it with persistent=False",
            )
        with torch.no_grad():
            part = self.view()
            part.copy_(found.view(part.shape))


@dataclass(frozen=True, slots=True)
class _Small:
    """One smaller tier: a module without arrays of its own, and where each of them lies in the large module."""

    model: nn.Module
    pieces: tuple[_Piece, ...]
    recurrent: tuple[nn.RNNBase, ...]


class SubModels:
    """The models of tier `tier` and of all smaller ones, in one `module` (of tier `tier`).

    A smaller tier's module is built when it is first asked for, once. What the layout does not hold (constants that
    are not saved, integer buffers) is its own; float buffers are the large module's, and what a forward pass does
    to them is done there. It trains or evaluates as the large module does. Raises `LayoutError` when `module` is no
    model of the tier.
    """

    def __init__(self, models: TaskModels, tier: int, module: nn.Module) -> None:
        self._models, self._tier, self._module = models, tier, module
        self._layout: Layout = models.layout
        self._small: dict[int, _Small] = {}
        if not 0 <= tier < len(self._layout.tiers):
            raise LocalMisuse(f"tier {tier}: there are {len(self._layout.tiers)}")
        _check(layout_arrays(module), self._layout.shapes(tier), f"tier {self._layout.tiers[tier].name!r}")

    def call(self, tier: int, inputs: Tensor) -> Tensor:
        """What the model of a tier makes of a batch; differentiable in the large module's parameters."""
        scores: Tensor
        if tier == self._tier:
            scores = self._module(inputs)
            return scores
        with self._filled(tier) as model:
            scores = model(inputs)
        return scores

    def call_exits(self, tier: int, inputs: Tensor) -> list[Tensor]:
        """The scores of every exit of a tier's model, the shallowest first; `TaskError` for a model without exits."""
        if tier == self._tier:
            return _exits_of(self._module, inputs)
        with self._filled(tier) as model:
            return _exits_of(model, inputs)

    def sliced(self, tier: int) -> dict[str, Tensor]:
        """The arrays of a tier's model by name, as differentiable parts of the large module's."""
        if tier == self._tier:
            return layout_arrays(self._module)
        return {piece.name: piece.take() for piece in self._at(tier).pieces if not _counts(piece.name)}

    @contextmanager
    def _filled(self, tier: int) -> Iterator[nn.Module]:
        """The tier's module while it has its arrays: torch.func.functional_call, but with the place of each array known
        beforehand. To look for them takes a fifth as long as the forward pass of the demo's model.
        """
        small = self._at(tier)
        if small.model.training != self._module.training:
            small.model.train(self._module.training)
        buffers: list[tuple[_Piece, Tensor, int]] = []
        try:
            for piece in small.pieces:
                array = piece.take()
                piece.put(array)
                if piece.buffer:
                    buffers.append((piece, array, array._version))
            yield small.model
            for buffer, given, version in buffers:
                buffer.keep(given, version)
        finally:
            for piece in small.pieces:
                piece.put(_NOTHING)
            for layer in small.recurrent:  # it has a list of its arrays, too
                layer._init_flat_weights()

    def _at(self, tier: int) -> _Small:
        if tier not in self._small:
            if not 0 <= tier < self._tier:
                raise LocalMisuse(f"tier {tier} in a model of tier {self._tier}")
            with torch.random.fork_rng(devices=[]):  # its first values are thrown away, and cost no luck
                model = self._models.build(tier).module
            self._small[tier] = self._placed(model, tier)
        return self._small[tier]

    def _placed(self, model: nn.Module, tier: int) -> _Small:
        """Where each array of a tier's model lies in the large module."""
        arrays, large = layout_arrays(model), layout_arrays(self._module)
        whose = f"tier {self._layout.tiers[tier].name!r}"
        _check(arrays, self._layout.shapes(tier), whose)
        names: dict[str, list[str]] = {name: [] for name in arrays}
        for alias, name in aliases_of(model).items():
            names[name].append(alias)
        known = {p.name: p for p in self._layout.parameters}
        pieces: list[_Piece] = []
        for name, array in arrays.items():
            if name not in large:
                what = f"{whose} has it, but not the model of a larger tier that it should be a part of"
                raise LayoutError(what, where=name, remedy="run this method with tiers of one architecture")
            buffer = not isinstance(array, nn.Parameter)
            cut = self._cut(known[name], tier)
            places = tuple(_place(model, alias) for alias in names[name])
            pieces.append(_Piece(name, _place(self._module, name), places, buffer, *cut))
        held = dict(self._module.named_buffers())
        for name, _ in model.named_buffers():
            if _counts(name) and name in held:
                pieces.append(_Piece(name, _place(self._module, name), (_place(model, name),), buffer=True))
        return _Small(model, tuple(pieces), tuple(m for m in model.modules() if isinstance(m, nn.RNNBase)))

    def _cut(self, p: Parameter, tier: int) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...]]:
        """`sizes`, `steps` and `shape` of a parameter in a tier."""
        sizes: list[int] = []
        steps: list[tuple[int, int]] = []
        for d, axis in enumerate(p.axes):
            here, there = self._layout.width(axis, tier), self._layout.width(axis, self._tier)
            if here < there and axis.blocks > 1:
                sizes += (axis.blocks, here * axis.inner)
                steps += ((d, there * axis.inner), (d, 1))
            else:
                sizes.append(axis.size_at(here))
                steps.append((d, 1))
        shape = tuple(axis.size_at(self._layout.width(axis, tier)) for axis in p.axes)
        if shape == self._layout.shape(p, self._tier):
            return (), (), shape
        return tuple(sizes), tuple(steps), shape


def _counts(name: str) -> bool:
    """Whether it is a batch norm's number of batches: no part of the layout, but of its running statistics, which are
    the large module's.
    """
    return name.rpartition(".")[2] == "num_batches_tracked"


def _exits_of(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    if not isinstance(model, ExitNet):
        raise TaskError(
            "the model has no exits",
            where=type(model).__name__,
            remedy="let the factory give an ExitNet with a head for each block when shape.exits is set",
        )
    return model.exits(inputs)


def _place(module: nn.Module, name: str) -> _Place:
    path, _, local = name.rpartition(".")
    owner = module.get_submodule(path)
    return cast(dict[str, Tensor], owner._buffers if local in owner._buffers else owner._parameters), local


def _check(arrays: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], whose: str) -> None:
    """Raise `LayoutError` for the first array in which a model and the layout differ."""
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith(OWN)}
    for name in {**shapes, **arrays}:
        here = tuple(arrays[name].shape) if name in arrays else "no such array"
        wanted = shapes.get(name, "no such array")
        if here != wanted:
            what = f"the model has {here}, the layout has {wanted} in {whose}"
            raise LayoutError(what, where=name, remedy="build the tier's own model")
