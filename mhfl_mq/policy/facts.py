"""What a policy's rules can ask about a device: each fact with its type, where it comes from, and what it means.

A *verified* fact is known to the aggregator itself: from the policy's registry, or from what it saw and measured. A
*reported* one is the device's own word. There is no expression language: a rule holds facts against conditions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

__all__ = ["FACTS", "DeviceFacts", "Fact", "Kind", "Past", "Source", "Upload", "Value"]

Value = float | str | bool | tuple[str, ...]
"""A number, a text, yes or no, or tags."""


class Kind(Enum):
    """What a fact's value is."""

    NUMBER = "number"
    TEXT = "text"
    FLAG = "flag"
    TAGS = "tags"


class Source(Enum):
    """Whose word a fact is."""

    VERIFIED = "verified"
    REPORTED = "reported"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: what rules call it, its type, whose word it is, and what it means."""

    name: str
    kind: Kind
    source: Source
    says: str


def _facts(*facts: Fact) -> dict[str, Fact]:
    return {fact.name: fact for fact in facts}


_V, _R = Source.VERIFIED, Source.REPORTED
FACTS: Final = _facts(
    Fact("device", Kind.TEXT, _V, "its id, as in its topics; `*` stands for any letters"),
    Fact("tags", Kind.TAGS, _V, "what the registry says of it; a rule names those that it must have"),
    Fact("tier", Kind.TEXT, _V, "the tier that it was assigned"),
    Fact("rounds", Kind.NUMBER, _V, "rounds in which it had its turn"),
    Fact("missed", Kind.NUMBER, _V, "turns in a row that brought no update that counted"),
    Fact("arch", Kind.TEXT, _R, "its processor, e.g. x86_64, aarch64, armv7l"),
    Fact("battery", Kind.NUMBER, _R, "percent left in its battery; not there without one"),
    Fact("cpus", Kind.NUMBER, _R, "processors that it may use"),
    Fact("examples", Kind.NUMBER, _R, "training examples that it has"),
    Fact("gpu", Kind.FLAG, _R, "whether it has an NVIDIA GPU"),
    Fact("idle", Kind.FLAG, _R, "whether other programs use less than a fifth of its processors"),
    Fact("labels", Kind.TAGS, _R, "what it was started with (`mhfl device --label`)"),
    Fact("link_mbit", Kind.NUMBER, _R, "megabits a second at which segments came in, as it measured"),
    Fact("on_battery", Kind.FLAG, _R, "whether it runs on its battery"),
    Fact("os", Kind.TEXT, _R, "its operating system, e.g. linux, windows"),
    Fact("ram_gb", Kind.NUMBER, _R, "memory of the machine in gigabytes (10^9)"),
)
"""All facts, those that the aggregator knows first."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Updates that were counted within a quarter of an hour: since when (seconds since 1970, UTC), their bytes, and the
    seconds that they were trained."""

    at: float
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Past:
    """What the aggregator saw of a device. `turned_at` is when the last round began in which it had its turn.

    `uploads` are those of the last day at least, oldest first, `last_s` how long the newest training took.
    """

    turns: int = 0
    missed: int = 0
    turned_at: float | None = None
    uploads: tuple[Upload, ...] = ()
    last_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device as a policy's decisions see it. `said_at` is when it reported; `next_bytes` its next upload at most;
    `present` whether it is connected."""

    device: str
    facts: Mapping[str, Value] = field(default_factory=dict)
    past: Past = Past()
    said_at: float | None = None
    next_bytes: int = 0
    present: bool = True
