"""FedTGP at the aggregator (Zhang et al., AAAI 2024): prototypes from a network, trained to keep classes apart.

Class embeddings go through a small network; its outputs are the global prototypes. Each prototype of a device is drawn
to that of its class and away from the others, as if its class were farther by a margin: the largest over the classes of
the distance to the nearest other class, but at most `margin`. On the device FedTGP is FedProto.

A version holds what the network said, and not the network, which devices have no use for. So a round begins with a
network of the federation's seed that says just what the head holds (its last layer is fitted), and goes on from there.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mhfl_mq.families.native.fedproto import PROTOTYPES, SHARES
from mhfl_mq.families.native.fedtgp import SERVER_NUMBERS
from mhfl_mq.segments import Layout, Vector
from mhfl_mq.train.steps.base import Conclusion, PastUpdate
from mhfl_mq.train.steps.fedproto import Prototypes

__all__ = ["Generator", "TrainedPrototypes", "adaptive_margin", "begun_generator", "contrast", "single_prototypes"]

LEAST_SHARE: Final = 1e-9
"""Shares below this are not a device's with fewer than a billion examples."""
LARGEST: Final = 1e6
"""Beyond it, squares of distances say nothing in float32; honest features end long before."""
NEAREST: Final = 1e-12
"""Squared distances begin here: the root of zero has no slope."""
RCOND: Final = 1e-4
"""What of the hidden layer's outputs is too weak to fit the last layer to."""


class TrainedPrototypes(Prototypes):
    """FedProto's devices, and an aggregator that trains the prototypes."""

    def conclude(self, conclusion: Conclusion) -> Vector:
        """The merged version with trained prototypes for the classes that somebody has; means where training fails."""
        layout, merged = conclusion.models.layout, conclusion.merged.copy()
        shape = layout.shapes(0)[PROTOTYPES.array]
        means = _of(merged, layout, PROTOTYPES.array).reshape(shape)  # a view: what is written there is merged's
        points, labels = single_prototypes(conclusion.updates, layout, shape)
        if not len(labels):
            return merged
        known = _of(conclusion.head, layout, SHARES.array) > 0
        before = _of(conclusion.head, layout, PROTOTYPES.array).reshape(shape)
        goal = torch.from_numpy(np.where(known[:, None], before, means))
        present = torch.zeros(len(goal), dtype=torch.bool)
        present[labels] = True
        numbers = {name: conclusion.numbers.get(name, number.default) for name, number in SERVER_NUMBERS.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(conclusion.options.seed)
            generator = begun_generator(goal, torch.from_numpy(known) | present)
            torch.manual_seed(_seed_of(conclusion))
            trained = _trained(generator, points, labels, numbers)
        if torch.isfinite(trained).all() and trained.abs().max() <= LARGEST:
            means[present.numpy()] = trained[present].numpy()
        return merged


class Generator(nn.Module):
    """A prototype for every class: an embedding, one hidden layer as wide as the features, and a linear layer."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(classes, features)
        self.middle = nn.Sequential(nn.Linear(features, features), nn.ReLU())
        self.last = nn.Linear(features, features)

    def forward(self) -> Tensor:
        """All prototypes (classes, features)."""
        prototypes: Tensor = self.last(self.middle(self.embeddings.weight))
        return prototypes


def begun_generator(goal: Tensor, known: Tensor) -> Generator:
    """A generator of torch's present chance that says `goal` (classes, features) of the known classes.

    It does so as nearly as its last layer can: exactly where there are no more classes than features.
    """
    generator = Generator(*goal.shape)
    with torch.no_grad():
        hidden = generator.middle(generator.embeddings.weight)[known].double()
        hidden = torch.cat([hidden, torch.ones(len(hidden), 1, dtype=torch.float64)], dim=1)
        fitted = torch.linalg.pinv(hidden, rtol=RCOND) @ goal[known].double()
        generator.last.weight.copy_(fitted[:-1].T)
        generator.last.bias.copy_(fitted[-1])
    return generator


def single_prototypes(updates: Sequence[PastUpdate], layout: Layout, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The prototypes (n, features) of single devices and their classes (n,); their order is not that of arrival."""
    points: list[Vector] = []
    labels: list[int] = []
    for update in sorted(updates, key=lambda one: (one.tier, one.weight, one.vector.tobytes())):
        (start, stop), (low, high) = (layout.place(own.array, update.tier) for own in (PROTOTYPES, SHARES))
        sums, shares = update.vector[start:stop].reshape(shape), update.vector[low:high]
        for label in np.flatnonzero(shares >= LEAST_SHARE):
            points.append(np.clip(sums[label] / shares[label], -LARGEST, LARGEST))
            labels.append(int(label))
    return torch.from_numpy(np.array(points, np.float32)), torch.tensor(labels, dtype=torch.int64)


def adaptive_margin(points: Tensor, labels: Tensor, most: float) -> float:
    """The largest, over the classes, of the distance from a class's mean prototype to the nearest other; capped."""
    means = torch.stack([points[labels == label].mean(dim=0) for label in sorted(set(labels.tolist()))])
    if len(means) < 2:
        return most
    away = torch.cdist(means, means) + torch.diag(torch.full((len(means),), torch.inf))
    return min(float(away.min(dim=1).values.max()), most)


def contrast(points: Tensor, labels: Tensor, prototypes: Tensor, margin: float) -> Tensor:
    """Cross-entropy of minus the distances, that to the own class's prototype being longer by the margin."""
    squares = (points[:, None, :] - prototypes[None, :, :]).square().sum(dim=2)
    away = squares.clamp(min=NEAREST).sqrt()
    own = nn.functional.one_hot(labels, len(prototypes))
    return cross_entropy(-(away + margin * own), labels)


def _trained(generator: Generator, points: Tensor, labels: Tensor, numbers: dict[str, float]) -> Tensor:
    """The prototypes after all epochs."""
    margin = adaptive_margin(points, labels, numbers["margin"])
    optimizer = torch.optim.SGD(generator.parameters(), lr=numbers["generator_rate"])
    size = int(numbers["server_batch"])
    for _ in range(int(numbers["server_epochs"])):
        for chosen in torch.split(torch.randperm(len(labels)), size):
            optimizer.zero_grad(set_to_none=True)
            loss = contrast(points[chosen], labels[chosen], generator(), margin)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    trained: Tensor = generator().detach()
    return trained


def _seed_of(conclusion: Conclusion) -> int:
    return int(np.random.SeedSequence([conclusion.options.seed, conclusion.round_number]).generate_state(1)[0])


def _of(flat: Vector, layout: Layout, name: str) -> Vector:
    start, stop = layout.where(name)
    return flat[start:stop]
