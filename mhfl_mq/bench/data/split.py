"""Who gets which records: natural devices and their parts, drawn mixes of classes, and what is held out.

All of it follows from the seed alone. Functions take arrays over the records in question and give positions in them.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.bench.data.base import Whole
from mhfl_mq.errors import TaskError

__all__ = ["by_class", "dirichlet", "draw_alike", "hold_out", "natural", "natural_clients"]

LARGE: Final = 3
"""A unit with so many times the records of the median unit is far larger than the others."""

ALPHA: Final = 0.3
"""Concentration of the Dirichlet split: most of a device's records are of two or three classes of ten."""

CLASSES_EACH: Final = 2
FEWEST: Final = 10
"""Records that every device gets in a drawn split at least; the draw is repeated until it is so."""
DRAWS: Final = 1000


def hold_out(unit: Whole, strata: Sequence[Whole], every: int, seed: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which records are held out: one unit of `every`, whole, evenly over the strata (client, class, ...).

    A unit is a number that several records may have; it counts to the strata of its first record. Units far larger than
    the others are never held out: the part that is held out would be of one class then.
    """
    numbers, first, sizes = np.unique(unit, return_index=True, return_counts=True)
    usual = sizes <= LARGE * np.median(sizes)
    numbers, first = numbers[usual], first[usual]
    luck = np.random.default_rng(seed).permutation(numbers.size)
    order = np.lexsort((luck, *(stratum[first] for stratum in reversed(strata))))
    held: npt.NDArray[np.bool_] = np.isin(unit, numbers[order[every // 2 :: every]])
    return held


def natural_clients(device: int, devices: int, clients: int) -> tuple[int, ...]:
    """The natural clients of a device: i, i + n, ... of them, or the one that it shares with others if n is more."""
    return tuple(range(device, clients, devices)) if devices <= clients else (device % clients,)


def natural(client: Whole, targets: Whole, clients: int, devices: int, seed: Sequence[int]) -> list[Whole]:
    """Each device's records by natural client; devices that share one get equally much of each of its classes."""
    if devices <= clients:
        return [np.flatnonzero(np.isin(client, natural_clients(k, devices, clients))) for k in range(devices)]
    luck = np.random.default_rng(seed).permutation(client.size)
    dealt: list[Whole] = []
    for k in range(devices):
        own = np.flatnonzero(client == k % clients)
        ordered = own[np.lexsort((luck[own], targets[own]))]
        sharing = len(range(k % clients, devices, clients))
        dealt.append(np.sort(ordered[k // clients :: sharing]))
    return dealt


def dirichlet(targets: Whole, devices: int, seed: Sequence[int], alpha: float = ALPHA) -> list[Whole]:
    """Each device's records when every class is shared out in proportions drawn from a Dirichlet distribution.

    Yurochkin et al., ICML 2019. Devices differ in their mix of classes and in how many records they have.
    """
    luck = np.random.default_rng(seed)
    if devices * FEWEST > targets.size:
        raise _too_many(devices, targets.size)
    for _ in range(DRAWS):
        owner = np.empty(targets.size, np.int64)
        for label in np.unique(targets):
            members = luck.permutation(np.flatnonzero(targets == label))
            bounds = np.cumsum(luck.dirichlet(np.full(devices, alpha)))[:-1] * members.size
            for k, part in enumerate(np.split(members, bounds.astype(np.int64))):
                owner[part] = k
        if np.bincount(owner, minlength=devices).min() >= FEWEST:
            return [np.flatnonzero(owner == k) for k in range(devices)]
    raise _too_many(devices, targets.size)


def by_class(targets: Whole, classes: int, devices: int, seed: Sequence[int], each: int = CLASSES_EACH) -> list[Whole]:
    """Each device's records when it has `each` classes only, and the holders of a class share it equally.

    The classes that fewest devices hold so far go next, so that all are held as soon as there are devices enough;
    with fewer, the rest of the classes is nobody's.
    """
    luck = np.random.default_rng(seed)
    holders: list[list[int]] = [[] for _ in range(classes)]
    for k in range(devices):
        fewest_first = sorted(luck.permutation(classes).tolist(), key=lambda label: len(holders[label]))
        for label in fewest_first[:each]:
            holders[label].append(k)
    dealt: list[list[Whole]] = [[] for _ in range(devices)]
    for label, held_by in enumerate(holders):
        members = luck.permutation(np.flatnonzero(targets == label))
        for place, k in enumerate(held_by):
            dealt[k].append(members[place :: len(held_by)])
    return [np.sort(np.concatenate(parts)) for parts in dealt]


def draw_alike(targets: Whole, own: Whole, most: int, seed: Sequence[int]) -> Whole:
    """Records drawn without replacement so that their mix of classes is the mix of `own`: `most`, or as many as go."""
    classes = int(max(targets.max(), own.max())) + 1
    there = np.bincount(targets, minlength=classes)
    mix = np.bincount(own, minlength=classes) / own.size
    scarce = (there[mix > 0] / mix[mix > 0]).min()
    wanted = np.minimum(np.rint(mix * min(float(most), scarce)).astype(np.int64), there)
    luck = np.random.default_rng(seed)
    drawn = [luck.permutation(np.flatnonzero(targets == k))[: wanted[k]] for k in range(classes)]
    return np.sort(np.concatenate(drawn))


def _too_many(devices: int, records: int) -> TaskError:
    what = f"{records} training records cannot be split so that each of {devices} devices has {FEWEST}"
    return TaskError(what, where="the Dirichlet split", remedy="take fewer devices")
