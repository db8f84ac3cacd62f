"""What the devices themselves say of their models, where these never leave them whole."""

from collections.abc import Iterable, Mapping
from math import fsum
from typing import Final

from mhfl_mq.protocol.records import UpdateCounted

__all__ = ["reported"]

_OWN: Final = "own/"
"""Begins a device's metric that is its own model's score: `own/accuracy`."""


def reported(counted: Iterable[UpdateCounted], tiers: tuple[str, ...], head: Mapping[str, float]) -> dict[str, float]:
    """`<metric>/<tier>` of a round: the mean over the tier's devices, the head's where none of them was there."""
    found: dict[str, list[float]] = {}
    for one in sorted(counted, key=lambda update: update.device):
        for name, value in one.metrics.items():
            if name.startswith(_OWN):
                found.setdefault(f"{name.removeprefix(_OWN)}/{tiers[one.tier]}", []).append(value)
    return {**head, **{name: fsum(values) / len(values) for name, values in found.items()}} if found else {}
