"""A small task as a plant would write it, in a module of its own that the training child can import."""

import sys
from collections.abc import Iterator

import pytest
import torch

from mhfl_mq.segments import Tier

TOY = """
import os, signal, sys, time
import torch
from torch import nn
from mhfl_mq.train.task import Examples, Task


def model(shape):
    hidden = round(16 * shape.width)
    built = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))
    if hidden == 12:  # a size that does not survive training on this machine
        built.register_forward_pre_hook(strain)
    return built


def strain(module, inputs):
    if module.training and len(inputs[0]) > 3:
        os.kill(os.getpid(), signal.SIGKILL)


def data(shard, folder):
    if shard == "raises":
        raise ValueError("the sensor is upside down")
    if shard == "dies":
        print("about to die", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)
    if shard == "leaves":
        print("leaving", file=sys.stderr, flush=True)
        os._exit(3)
    if shard == "chatty":
        print("garbage on standard output")
        os.write(1, b"\\x00\\x00\\x00\\x05hello\\n")
        sys.stdin.read()
    if shard == "sleeps":
        time.sleep(600)
    if shard == "empty":
        return Examples(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    if shard == "folder":
        count = len(list(folder.iterdir()))
        return Examples(torch.zeros(count, 4), torch.zeros(count, dtype=torch.int64))
    generator = torch.Generator().manual_seed(len(shard))
    inputs = torch.randn(90, 4, generator=generator)
    if shard == "nan":
        inputs[:] = float("nan")
    return Examples(inputs, inputs[:, :3].argmax(dim=1))


def test_data(folder):
    return data("held out", folder)


TASK = Task(
    name="toy", model=model, device_data=data, test_data=test_data, sample=lambda: torch.randn(3, 4)
)
UNTESTED = Task(name="untested", model=model, device_data=data)
NOT_A_TASK = {"name": "toy"}


class Halfway:
    name = "halfway"
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch on one thread, as in the training child."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The toy task's name; its module can be imported here and in the child."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "toy_task.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.syspath_prepend(str(folder))
        yield "toy_task:TASK"
    sys.modules.pop("toy_task", None)


@pytest.fixture
def tiers() -> tuple[Tier, ...]:
    """Three nested widths."""
    return (Tier("small", 0.25), Tier("middle", 0.5), Tier("large", 1.0))
