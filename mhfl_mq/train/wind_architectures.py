"""Networks for the demo's task that have nothing in common with its convolutions but what goes in and how features end.

Devices that bring models of their own share what is said of features (prototypes) or of examples (softmax outputs);
for the former, all end in `FEATURES` numbers before their head.
"""

from typing import Final

from torch import Tensor, nn
from torch.nn.functional import relu

__all__ = ["FEATURES", "WindLSTM", "WindMLP"]

FEATURES: Final = 32
"""Numbers of a window before the head, in every architecture; the convolutions have as many at half their width."""
CHANNELS: Final = 5
STEPS: Final = 12


class WindMLP(nn.Module):
    """Two hidden layers on the flat window: 60 numbers, 64, 32."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(CHANNELS * STEPS, 2 * FEATURES)
        self.second = nn.Linear(2 * FEATURES, FEATURES)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Band scores (n, classes) of scaled windows (n, 5 channels, 12 steps)."""
        scores: Tensor = self.head(relu(self.second(relu(self.first(windows.flatten(1))))))
        return scores


class WindLSTM(nn.Module):
    """One recurrent layer over the 12 steps; the state after the last one is what the head gets."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.memory = nn.LSTM(CHANNELS, FEATURES, batch_first=True)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Band scores (n, classes) of scaled windows (n, 5 channels, 12 steps)."""
        states, _ = self.memory(windows.transpose(1, 2))
        scores: Tensor = self.head(states[:, -1])
        return scores
