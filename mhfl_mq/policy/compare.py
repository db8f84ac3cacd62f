"""What differs between two policies, key by key, as their files have it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mhfl_mq.policy.words import dotted, shown

__all__ = ["Change", "changes"]

_NAMED: Final = "name"
"""Entries of a list are the same entry when they have the same name, wherever they stand."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. `old` or `new` is None where the file does not have it."""

    path: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"{self.path}: {self.new} is new"
        return f"{self.path}: {self.old} is gone" if self.new is None else f"{self.path}: {self.old} -> {self.new}"


def changes(old: Any, new: Any) -> list[Change]:
    """The changes between the plain values of two files, in the order of the keys."""
    return list(_changes((), old, new))


def _changes(path: tuple[str | int, ...], old: Any, new: Any) -> Iterator[Change]:
    if isinstance(old, list) and isinstance(new, list) and _all_named(old) and _all_named(new):
        old, new = ({str(one[_NAMED]): one for one in entries} for entries in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _changes((*path, key), old.get(key, ...), new.get(key, ...))
    elif old != new:
        yield Change(dotted(path), _show(old), _show(new))


def _all_named(entries: list[Any]) -> bool:
    names = [one.get(_NAMED) for one in entries if isinstance(one, Mapping)]
    return len(names) == len(entries) and None not in names and len(set(map(str, names))) == len(names)


def _show(value: Any) -> str | None:
    if value is ...:
        return None
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_show(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(str(_show(one)) for one in value) + "]"
    return value if isinstance(value, str) else shown(value)
