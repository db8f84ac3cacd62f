"""Torch on one thread, as in the training child; initial arrays of both networks, the same every time."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mhfl_mq.train.derive import TierShape
from tests.golden.network import Arrays
from tests.golden.setting import Exits, Network


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def initial() -> Arrays:
    """The full CNN before any training."""
    torch.manual_seed(3)
    return _unlike(Network(TierShape()))


@pytest.fixture
def initial_exits() -> Arrays:
    """The deepest network with exits before any training."""
    torch.manual_seed(4)
    return _unlike(Exits())


def _unlike(module: nn.Module) -> Arrays:
    """The module's arrays, with no number twice: a norm's ones and zeros would hide a wrong order of channels."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return {name: parameter.detach().numpy().copy() for name, parameter in module.named_parameters()}
