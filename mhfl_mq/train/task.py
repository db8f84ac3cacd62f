"""What a plant supplies so that its devices can learn: a model that comes in sizes, data, a loss and a metric.

This module does not import torch; loading a task does, because the task's own module does. Only the training child
loads tasks. The light agent passes names around.
"""

import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mhfl_mq.errors import MhflError, TaskError
from mhfl_mq.segments import Axis

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from mhfl_mq.train.derive import TierShape

__all__ = ["GROUP", "Examples", "Task", "accuracy", "check_name", "cross_entropy", "load_task", "task_names"]

GROUP: Final = "mhfl_mq.tasks"
"""The entry-point group in which an installed package offers a task by a short name."""

_PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True)
class Examples:
    """A device's or an evaluator's data: `inputs` (n, ...) as the model takes them, `targets` (n, ...)."""

    inputs: "Tensor"
    targets: "Tensor"

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise TaskError(f"{len(self.inputs)} inputs and {len(self.targets)} targets", where="Examples")

    def __len__(self) -> int:
        return len(self.inputs)

    def pick(self, index: "npt.NDArray[np.int64]") -> "Examples":
        """The examples of these numbers."""
        import torch

        chosen = torch.from_numpy(index)
        return Examples(self.inputs[chosen], self.targets[chosen])


def cross_entropy(outputs: "Tensor", targets: "Tensor") -> "Tensor":
    """Mean cross-entropy of class scores (n, classes) against class numbers (n,): the default loss."""
    from torch.nn.functional import cross_entropy as torch_cross_entropy

    return torch_cross_entropy(outputs, targets)


def accuracy(outputs: "Tensor", targets: "Tensor") -> float:
    """The share of examples whose largest class score is the right one: the default metric."""
    return float((outputs.argmax(dim=1) == targets).float().mean())


@dataclass(frozen=True, slots=True)
class Task:
    """One learning problem. `model(shape)` builds the model of a tier from its width (0..1] and depth (0: all).

    `device_data(shard, folder)` gives one device's training examples: `shard` is what the plant's own numbering
    says (the device's option `--shard`; empty for "what lies here"), `folder` the device's option `--data`, None
    without it. `test_data(folder)` gives what the aggregator evaluates every tier on; None where it has no data.
    `sample()` gives one small batch of model inputs, sequences of at least 2 entries: with it the layout is derived by
    following the data, and checked (float values do not matter, integers do).
    `annotations` say how arrays are cut that the derivation cannot understand. All devices need the same of both.
    `public_data(folder)` gives public examples that all sides have, the same everywhere (targets may be dummies):
    distillation exchanges what models say of them. `local_test(shard, folder)` gives a device's own test examples, on
    which it reports its score where the aggregator has no whole model of it; without it a part of its training
    examples is held out. `architectures` are unrelated models by name: a tier of the policy names one.
    `head` is the name of the module that makes the scores; empty: the last one with weights that runs.
    `loss` gives a scalar tensor to minimise; `metric` a number in which more is better, shown as `metric_name`.
    """

    name: str
    model: "Callable[[TierShape], nn.Module]"
    device_data: Callable[[str, Path | None], Examples]
    test_data: Callable[[Path | None], Examples] | None = None
    sample: "Callable[[], Tensor | tuple[Tensor, ...]] | None" = None
    annotations: Mapping[str, tuple[Axis, ...]] | None = None
    loss: "Callable[[Tensor, Tensor], Tensor]" = cross_entropy
    metric: "Callable[[Tensor, Tensor], float]" = accuracy
    metric_name: str = "accuracy"
    public_data: Callable[[Path | None], Examples] | None = None
    local_test: Callable[[str, Path | None], Examples] | None = None
    architectures: "Mapping[str, Callable[[], nn.Module]]" = field(default_factory=dict)
    head: str = ""

    def __post_init__(self) -> None:
        for name in ("model", "device_data", "loss", "metric"):
            if not callable(getattr(self, name)):
                raise TaskError(
                    f"its {name} is {getattr(self, name)!r}", where=f"task {self.name!r}", remedy="give a function"
                )


def task_names() -> tuple[str, ...]:
    """The short names that installed packages offer; imports none of them."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def check_name(name: str) -> None:
    """Raise `TaskError`, with the nearest name, when this can name no task here; imports neither task nor torch.

    Whether the module can be imported, and what it has of this name, only the training child can say.
    """
    _find_module(_place(name).partition(":")[0], name)


def load_task(name: str) -> Task:
    """The task of a short name (entry point) or of `module:attribute`; raises `TaskError` with what to do.

    Runs the task's own code, and torch's: call it in the training child only.
    """
    return _checked(_attribute(_place(name), name), name)


def _place(name: str) -> str:
    """The `module:attribute` that a name stands for."""
    found = [entry.value for entry in entry_points(group=GROUP) if entry.name == name]
    if not found and not _PLACE.fullmatch(name):
        raise TaskError(f"there is no task {name!r}", remedy=_suggest(name))
    return found[0] if found else name


def _find_module(module: str, name: str) -> None:
    """Look for a module as the training child will, without importing even the packages that it lies in."""
    found = ""
    places: Sequence[str] | None = None
    for part in module.split("."):
        found = f"{found}.{part}" if found else part
        spec = _top(part) if places is None else _inner(found, places)
        if spec is None:
            remedy = f"install what offers {found!r} here, or correct the name"
            raise TaskError(f"no module {found!r}", where=f"task {name!r}", remedy=remedy)
        places = spec.submodule_search_locations or ()


def _top(name: str) -> ModuleSpec | None:
    with suppress(ValueError):  # a module that was not imported from anywhere, such as __main__
        here = PathFinder.find_spec(name, [os.getcwd()])  # where the child's `python -m` looks first
        return here or importlib.util.find_spec(name)
    return None


def _inner(name: str, places: Sequence[str]) -> ModuleSpec | None:
    specs = (finder.find_spec(name, places) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _suggest(name: str) -> str:
    names = task_names()
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    known = f"did you mean {close[0]!r}?" if close else f"installed are: {', '.join(names) or 'none'}."
    return f"{known} Your own task is named 'package.module:ATTRIBUTE'"


def _attribute(place: str, name: str) -> object:
    """The object at `module:attribute`."""
    module_name, _, path = place.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except MhflError:
        raise
    except ModuleNotFoundError as error:
        remedy = f"install what offers {error.name!r} here, or correct the name"
        if error.name == "torch":
            remedy = "install mhfl-mq with its extra: pip install 'mhfl-mq[train]'"
        raise TaskError(f"no module {error.name!r}", where=f"task {name!r}", remedy=remedy) from error
    except Exception as error:
        what = f"its module {module_name} cannot be imported: {type(error).__name__}: {error}"
        raise TaskError(what, where=f"task {name!r}") from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, dir(found), n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]!r}?" if close else "correct the name after the colon"
            raise TaskError(f"{module_name} has no {part!r}", where=f"task {name!r}", remedy=remedy) from None
    return found


def _checked(found: object, name: str) -> Task:
    """The object as a task, or what it lacks."""
    if isinstance(found, Task):
        return found
    needed = ("name", "model", "device_data")
    lacks = [one.name for one in fields(Task) if one.name in needed and not hasattr(found, one.name)]
    told = f"it lacks {', '.join(lacks)}" if lacks else "it is of another class"
    raise TaskError(
        f"a {type(found).__name__} is no task: {told}",
        where=f"task {name!r}",
        remedy="make it a mhfl_mq.train.task.Task(name=..., model=..., device_data=...)",
    )
