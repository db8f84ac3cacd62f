"""Recorded device profiles and the constraint cases of the benchmarks; the numbers are in `profiles.json`.

All of them are estimates from public figures, each with its origin. The cases are those of PracMHBench (Guo et al.
2025): what binds the devices is their computation, their communication, their memory, or a mix of the three.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

__all__ = ["Bound", "Constraint", "Part", "Profile", "constraints", "profiles"]

FILE: Final = "profiles.json"


class Bound(Enum):
    """What a federation's budget is about."""

    TRAIN = "train"  # seconds of training per round
    TRANSFER = "transfer"  # seconds per round, model down and update up
    MEMORY = "memory"  # the share of a device's memory that training takes


@dataclass(frozen=True, slots=True)
class Profile:
    """A class of devices. `slowdown`: seconds of a step over those on the machine that runs the benchmark.

    Links in bytes a second. Watts of the whole device: at rest, in training, while it sends or receives.
    """

    name: str
    title: str
    slowdown: float
    memory_bytes: int
    down_bytes_s: float
    up_bytes_s: float
    idle_w: float
    active_w: float
    radio_w: float
    origin: str

    @property
    def link_bytes_s(self) -> float:
        """What a policy's transfer budget is held against: the way down, as a device measures it."""
        return self.down_bytes_s


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a fleet: `share` of 100 devices have this profile.

    `rank` is where the budget is to put them among the tiers: 0 the smallest, 1 the largest. None: wherever the
    budget puts them, which is chosen for the others.
    """

    profile: Profile
    share: float
    rank: float | None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What binds the devices of a federation, and which devices it has."""

    name: str
    title: str
    bounds: tuple[Bound, ...]
    fleet: tuple[Part, ...]


def profiles() -> Mapping[str, Profile]:
    """Every profile by its name."""
    return _read()[0]


def constraints() -> Mapping[str, Constraint]:
    """Every constraint case by its name."""
    return _read()[1]


@lru_cache(maxsize=1)
def _read() -> tuple[Mapping[str, Profile], Mapping[str, Constraint]]:
    document: Any = json.loads(files("mhfl_mq.bench").joinpath(FILE).read_text("utf-8"))
    known = {name: Profile(name, **numbers) for name, numbers in document["profiles"].items()}
    cases = {
        name: Constraint(
            name,
            case["title"],
            tuple(Bound(one) for one in case["bounds"]),
            tuple(Part(known[profile], share, rank) for profile, share, rank in case["fleet"]),
        )
        for name, case in document["constraints"].items()
    }
    return known, cases
