"""Running a task's own model: what goes wrong inside it is told by the layer's name, and which values it is shown."""

import copy
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError, MhflError
from mhfl_mq.train.exits import ExitNet

__all__ = ["Sample", "build_model", "copy_model", "run_model", "tensors_in", "unlike_values"]

Sample = tuple[Tensor, ...]
SEED = 20_23  # any: only that every device derives the same layout


def build_model(build: Callable[[], object], whose: str) -> nn.Module:
    """What a model factory gives, ready to be run; raises `LayoutError` when it fails or gives no module."""
    factory, remedy = "the model factory", "correct the task's model factory"
    try:
        model = build()
    except MhflError:
        raise
    except Exception as error:
        what = f"the model of {whose} cannot be built: {type(error).__name__}: {error}"
        layer, at = _layer_in_the_making(error)
        where = f"{factory}, {layer.__name__} at {at}" if layer else factory
        raise LayoutError(what, where=where, remedy=_CHANNELS.get(layer, remedy)) from error
    if not isinstance(model, nn.Module):
        what = f"the model of {whose} is a {type(model).__name__}, not a torch module"
        raise LayoutError(what, where=factory, remedy=remedy)
    return model.eval()


_CHANNELS: Mapping[type[nn.Module] | None, str] = {
    nn.GroupNorm: "fix the channels per group, e.g. GroupNorm(channels // 4, channels), and choose widths that leave "
    "a multiple of that number of channels",
    nn.MultiheadAttention: "choose widths that leave a multiple of the number of heads",
}


def _layer_in_the_making(error: Exception) -> tuple[type[nn.Module] | None, str]:
    """The torch layer whose constructor raised, and the task's own line that wanted it."""
    at = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        made = frame.f_locals.get("self")
        if frame.f_code.co_name == "__init__" and isinstance(made, nn.Module) and type(made).__module__[:6] == "torch.":
            return type(made), at
        at = f"{Path(frame.f_code.co_filename).name} line {line}"
    return None, at


def copy_model(model: nn.Module) -> nn.Module:
    """A model of its own with the same arrays; raises `LayoutError` for one that torch cannot copy."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise LayoutError(
            f"the model cannot be copied: {type(error).__name__}: {error}",
            where=type(model).__name__,
            remedy="keep no computed tensors as attributes (torch.nn.utils.parametrizations keeps none)",
        ) from error


def run_model(model: nn.Module, sample: Sample, whose: str) -> object:
    """The model's output on the sample, of every exit that it has: each of its arrays is to be seen at work.

    Raises `LayoutError` with the innermost layer that could not go on.
    """
    running: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda module, args: running.append(name)

    def leave(module: nn.Module, args: object, result: object) -> None:
        running.pop()

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        return model.exits(*sample) if isinstance(model, ExitNet) else model(*sample)
    except MhflError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in sample)
        raise LayoutError(
            f"the model of {whose} fails on a sample of shape {shapes}: {type(error).__name__}: {error}",
            where=next((name for name in reversed(running) if name), "the model's forward"),
            remedy="give the task a sample that its model accepts in every tier",
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(value: object) -> list[Tensor]:
    """All tensors of what a layer or a model gave, in order: it may be a tensor, or tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [t for item in value for t in tensors_in(item)]
    return []


def unlike_values(model: nn.Module, sample: Sample) -> Sample:
    """The sample with other numbers in its float tensors: zeros or equal numbers would hide how units are used.

    Random in the range of what was given, so that a model that takes a logarithm, or counts with floats, still
    works. Integers stay (words, lengths), and so does everything when the model does not accept the random numbers.
    """
    luck = torch.Generator().manual_seed(SEED)
    other = tuple(_spread(x, luck) for x in sample)
    try:
        with torch.no_grad():
            result = model(*other)
    except Exception:  # the model's own code, which expects something of its input: it is shown what was given
        return sample
    return other if all(bool(t.isfinite().all()) for t in tensors_in(result)) else sample


def _spread(given: Tensor, luck: torch.Generator) -> Tensor:
    if not given.is_floating_point() or not given.numel() or not bool(given.isfinite().all()):
        return given
    low, high = float(given.min()), float(given.max())
    return low + (high - low or 1.0) * torch.rand(given.shape, generator=luck, dtype=given.dtype)
