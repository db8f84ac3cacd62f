"""A model's head (the layer that makes the scores) and body (all before it), and the features that pass between them.

Personalisation keeps one of the two on the device (FedPer, FedRep, LG-FedAvg); prototypes are means of features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mhfl_mq.errors import TaskError
from mhfl_mq.train.derive.arrays import aliases_of, layout_arrays
from mhfl_mq.train.derive.forward import Sample, run_model, tensors_in
from mhfl_mq.train.derive.invent import invent_sample

__all__ = ["Head", "Parts", "find_head", "parts_of", "split"]

_SAY: Final = "name the module whose output is one score per class, and that runs once: Task(head=...)"


@dataclass(frozen=True, slots=True)
class Head:
    """The module (by name; empty: the whole model) that turns `features` numbers per example into `classes` scores."""

    name: str
    features: int
    classes: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The names of a model's arrays, in the layout's sense, split into those of its head and those of its body."""

    head: tuple[str, ...]
    body: tuple[str, ...]


def find_head(model: nn.Module, sample: Tensor | Sample | None = None, name: str = "") -> Head:
    """The head of a model: the module called `name`, or the last layer with weights that runs on the sample.

    Without a sample, one is made up. The model and the global random state are left as they were. Raises `TaskError`
    for a name that the model has not (with the closest), and for a head that does not run exactly once, or that does
    not give the model's scores (n, classes).
    """
    if name and name not in dict(model.named_modules()):
        raise _unknown(model, name)
    ran, scores = _ran(model, sample, {name} if name else _layers(model))
    leaves = [n for n in ran if not any(other != n and other.startswith(_below(n)) for other in ran)]
    if not leaves:
        what = "it does not run in the forward pass" if name else "no layer with weights runs in the forward pass"
        raise TaskError(what, where=_where(name), remedy=_SAY)
    found = leaves[-1]
    if len(ran[found]) > 1:
        raise TaskError(f"it runs {len(ran[found])} times in one forward pass", where=_where(found), remedy=_SAY)
    ((given, gave),) = ran[found]
    if not isinstance(gave, Tensor) or gave.ndim != 2 or len(gave) != len(given):
        shape = tuple(gave.shape) if isinstance(gave, Tensor) else f"a {type(gave).__name__}"
        what = f"its output is {shape} for an input of {tuple(given.shape)}, not (n, classes)"
        raise TaskError(what, where=_where(found), remedy=_SAY)
    if gave.shape != scores.shape:
        what = f"its output is {tuple(gave.shape)}, but the model's is {tuple(scores.shape)}"
        raise TaskError(what, where=_where(found), remedy=_SAY)
    return Head(found, given[0].numel(), gave.shape[1])


def parts_of(model: nn.Module, head: Head) -> Parts:
    """The arrays of the head and those of the body; raises `TaskError` when they share one, or either has none."""
    below = _below(head.name)
    inside: dict[str, set[bool]] = {name: set() for name in layout_arrays(model)}
    for alias, name in aliases_of(model).items():
        inside[name].add(alias.startswith(below))
    tied = next((name for name, where in inside.items() if len(where) > 1), None)
    if tied is not None:
        raise TaskError(
            "the head and the body share it, so neither can stay behind",
            where=tied,
            remedy="give the head weights of its own, or choose an algorithm that sends the whole model",
        )
    of_head = tuple(name for name, where in inside.items() if True in where)
    of_body = tuple(name for name, where in inside.items() if True not in where)
    if not of_head or not of_body:
        which = "body" if of_head else "head"
        raise TaskError(f"the model's {which} has no arrays", where=_where(head.name), remedy=_SAY)
    return Parts(of_head, of_body)


def split(model: nn.Module, head: Head, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """One forward pass: the features (n, d) that the head was given, flattened, and the model's scores (n, classes).

    Both are differentiable.
    """
    seen: list[Tensor] = []

    def before(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        seen.append(_input(args, kwargs))

    handle = model.get_submodule(head.name).register_forward_pre_hook(before, with_kwargs=True)
    try:
        scores: Tensor = model(inputs)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise TaskError(f"it ran {len(seen)} times in one forward pass", where=_where(head.name), remedy=_SAY)
    return seen[0].flatten(1), scores


# ---- looking for it -------------------------------------------------------------------------------------------


def _layers(model: nn.Module) -> set[str]:
    """The modules that own weights; what is inside a parametrized one belongs to it."""
    found: set[str] = set()
    for name, module in model.named_modules():
        own = any(True for _ in module.parameters(recurse=False)) or parametrize.is_parametrized(module)
        if own and "parametrizations" not in name.split("."):
            found.add(name)
    return found


def _ran(
    model: nn.Module, sample: Tensor | Sample | None, names: set[str]
) -> tuple[dict[str, list[tuple[Tensor, object]]], Tensor]:
    """What each of the modules was given and gave in each of its calls, in the order in which they ended, and what
    the model gave.
    """
    ran: dict[str, list[tuple[Tensor, object]]] = {}

    def watch(name: str) -> "torch.utils.hooks.RemovableHandle":
        def after(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], gave: object) -> None:
            ran[name] = [*ran.pop(name, []), (_input(args, kwargs), gave)]  # at the end of the order

        return model.get_submodule(name).register_forward_hook(after, with_kwargs=True)

    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # a forward pass here must not be counted in running statistics
    handles = []
    try:
        with torch.random.fork_rng(devices=[]):
            inputs = (sample,) if isinstance(sample, Tensor) else sample or invent_sample(model)
            handles = [watch(name) for name in names]
            with torch.enable_grad():  # with gradients torch's encoder layers run module by module
                scores = tensors_in(run_model(model, inputs, "a tier"))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return ran, scores[-1] if scores else torch.empty(0)


def _input(args: Sequence[object], kwargs: Mapping[str, object]) -> Tensor:
    """The first tensor that a module was given."""
    return next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), torch.empty(0, 0))


def _below(name: str) -> str:
    """What the names of all that is inside a module begin with."""
    return f"{name}." if name else ""


def _unknown(model: nn.Module, name: str) -> TaskError:
    names = [n for n, _ in model.named_modules() if n]
    close = get_close_matches(name, names, 1, 0.5)
    known = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names) or 'none'}"
    return TaskError(f"the model has no module {name!r}", where="Task(head=...)", remedy=known)


def _where(name: str) -> str:
    return f"head {name!r}" if name else "the model's head"
