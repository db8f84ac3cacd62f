"""Durations and sizes as people write them: `15m`, `1h30m`, `500ms`; `256KiB`, `2MB`."""

import re
from typing import Final

__all__ = [
    "MAX_BYTES",
    "MAX_SECONDS",
    "PART",
    "SIZE",
    "parse_bytes",
    "parse_duration",
    "show_binary",
    "show_bytes",
    "show_duration",
]

MAX_SECONDS: Final = 366 * 24 * 3600.0
"""The longest duration: a year. What is longer is a slip of the unit."""
MAX_BYTES: Final = 2**50
"""The largest size: a pebibyte, far over any model, and exact as a float."""

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
# Digits are [0-9] and bounded: \d takes other scripts' digits, and int() of endless ones takes endless time.
PART: Final = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)"
"""A number and its unit of a duration, as a regular expression (its groups)."""
SIZE: Final = rf"([0-9]{{1,18}}(?:\.[0-9]{{1,9}})?) ?({'|'.join(_BYTES)})"
"""A size."""
_PART: Final = re.compile(PART)
_SIZE: Final = re.compile(SIZE)


def parse_duration(text: str) -> float:
    """Seconds of `15m`, `1h30m`, `2.5s`; each unit once, largest first. Raises `ValueError` with what to write."""
    parts = _PART.findall(text)
    units = [unit for _, unit in parts]
    falling = sorted(units, key=lambda unit: -_SECONDS[unit])
    if not parts or "".join(number + unit for number, unit in parts) != text or units != falling:
        raise ValueError(f"not a duration: {text[:40]!r}; write a number with a unit, such as 30s, 15m or 1h30m")
    if len(set(units)) < len(units):
        raise ValueError(f"a unit stands twice in {text[:40]!r}; write each of d, h, m, s, ms once")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > MAX_SECONDS:
        raise ValueError(f"{text[:40]!r} is longer than a year; check the unit")
    return round(seconds, 6)


def parse_bytes(text: str) -> int:
    """Bytes of `256KiB`, `2MB`, `1.5 GB`. Raises `ValueError` with what to write."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a size: {text[:40]!r}; write a number with a unit, such as 256KiB, 2MB or 1GiB")
    size = float(match[1]) * _BYTES[match[2]]
    if size > MAX_BYTES:
        raise ValueError(f"{text[:40]!r} is larger than a pebibyte; check the unit")
    return round(size)


def show_duration(seconds: float) -> str:
    """A duration for people, in at most two units: `1h 30m`, `2m 5s`, `12.5s`, `40ms`."""
    if seconds < 1:
        return f"{_rounded(seconds * 1000)}ms"
    if seconds < 60:
        return f"{_rounded(seconds)}s"
    left = round(seconds)
    sizes = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    first = next(index for index, (_, size) in enumerate(sizes) if left >= size)
    shown = []
    for unit, size in sizes[first : first + 2]:
        count, left = divmod(left, size)
        if count:
            shown.append(f"{count}{unit}")
    return " ".join(shown)


def show_bytes(size: float) -> str:
    """A size for people, in powers of 1000 as networks are sold: `812 B`, `2.41 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{_rounded(size)} {unit}"
        size /= 1000
    return f"{_rounded(size)} TB"


def show_binary(size: float) -> str:
    """A size as policies are written, in powers of 1024 where it is one of them: `256 KiB`, `2 MB`, `70000 bytes`."""
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "kB"):
        if size >= _BYTES[unit] and size % _BYTES[unit] == 0:
            return f"{size / _BYTES[unit]:.0f} {unit}"
    return f"{size:.0f} bytes"


def _rounded(value: float) -> str:
    """Three digits, without an exponent for what rounds to more."""
    return f"{value:.3g}" if abs(value) < 99.95 else f"{value:.0f}"
