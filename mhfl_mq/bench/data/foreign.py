"""Three unrelated networks for each set: what devices of several makers bring. Only the size of their features is one.

Each is `body` (features of `FEATURES` numbers) and `head` (linear): what prototypes of features need (FedProto,
AAAI 2022). A picture is read as a series: its columns are the steps, its rows the channels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Final

from torch import Tensor, nn
from torch.nn.functional import relu

from mhfl_mq.bench.data.series import norm

__all__ = ["FEATURES", "ForeignNet", "foreign_networks"]

FEATURES: Final = 32
DILATIONS: Final = (1, 2, 4, 8)


class ForeignNet(nn.Module):
    """A body that makes `FEATURES` non-negative numbers of an input, and a linear head that makes scores of them."""

    def __init__(self, body: nn.Module, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (n, classes) of inputs (n, channels, steps) or (n, 1, rows, columns)."""
        scores: Tensor = self.head(self.body(inputs))
        return scores


class _LSTMBody(nn.Module):
    """One LSTM over the steps; the mean of its states, through one layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, FEATURES, batch_first=True)
        self.last = nn.Linear(FEATURES, FEATURES)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.lstm(inputs.flatten(1, -2).transpose(1, 2))
        return relu(self.last(states.mean(dim=1)))


def foreign_networks(shape: tuple[int, ...], classes: int) -> Mapping[str, Callable[[], nn.Module]]:
    """Networks by name for inputs of a shape (channels, steps) or (1, rows, columns): small, middle and large."""
    return {
        "mlp": partial(_mlp, shape, classes),
        "lstm": partial(_lstm, shape, classes),
        "dilated": partial(_dilated, shape, classes),
    }


def _mlp(shape: tuple[int, ...], classes: int) -> ForeignNet:
    layers = (nn.Flatten(), nn.Linear(prod(shape), FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES), nn.ReLU())
    return ForeignNet(nn.Sequential(*layers), classes)


def _lstm(shape: tuple[int, ...], classes: int) -> ForeignNet:
    return ForeignNet(_LSTMBody(shape[-2]), classes)


def _dilated(shape: tuple[int, ...], classes: int) -> ForeignNet:
    """Convolutions that look ever farther along the steps (dilation 1, 2, 4, 8)."""
    layers: list[nn.Module] = [nn.Flatten(1, -2)]
    before = shape[-2]
    for dilation in DILATIONS:
        layers += [nn.Conv1d(before, FEATURES, 3, padding=dilation, dilation=dilation), norm(FEATURES), nn.ReLU()]
        before = FEATURES
    return ForeignNet(nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten()), classes)
