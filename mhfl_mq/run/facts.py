"""What this machine is, for a policy's rules: read from the operating system, without asking anybody.

What a system does not tell is left out: a rule that asks for it keeps the device out, and says that it is not known.
"""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from mhfl_mq.protocol.events import FactsRead

__all__ = ["READ_EVERY_S", "FactReader", "Facts"]

READ_EVERY_S: Final = 30.0
"""Seconds between two looks: others' use of the processors is a mean over them."""
_IDLE: Final = 0.2  # others use less than this share of the processors: the machine is idle
_BUSY: Final = 0.3  # and it is busy only from here on, so that a value between the two does not flap
_BATTERY_STEP: Final = 5.0  # percent: a battery that drains is told now and then


class Facts(Protocol):
    """Where a device has its facts from."""

    def read(self) -> FactsRead:
        """The facts as they are now."""
        ...


class FactReader:
    """Reads the machine's facts; keeps what it needs to tell others' use of the processors from its own.

    `system` and `devices` are where Linux shows itself (/sys and /dev), `processes` where it shows processes (/proc).
    """

    def __init__(
        self,
        labels: Sequence[str] = (),
        *,
        system: Path = Path("/sys"),
        devices: Path = Path("/dev"),
        processes: Path = Path("/proc"),
    ) -> None:
        self._labels = tuple(labels)
        self._system = system
        self._devices = devices
        self._processes = processes
        self._before: tuple[float, float, float] | None = None
        self._idle: bool | None = None

    def read(self) -> FactsRead:
        """The facts as they are now."""
        numbers: dict[str, float] = {}
        if (self._devices / "null").exists():  # a system that shows its devices in such a folder
            numbers["gpu"] = float(any(self._devices.glob("nvidia[0-9]*")) or (self._devices / "nvhost-gpu").exists())
        cpus = _cpus()
        if cpus:
            numbers["cpus"] = float(cpus)
        memory = _memory()
        if memory:
            numbers["ram_gb"] = round(memory / 1e9, 2)
        numbers |= self._power()
        idle = self._is_idle()
        if idle is not None:
            numbers["idle"] = float(idle)
        texts = {"arch": (platform.machine() or "unknown",), "os": (platform.system().lower() or "unknown",)}
        return FactsRead(numbers, {**texts, "labels": self._labels})

    def _power(self) -> dict[str, float]:
        """Mains or battery: a machine without one stands on mains. A system that shows neither says nothing."""
        if not (self._system / "class").is_dir():
            return {}
        supplies = sorted((self._system / "class" / "power_supply").glob("*"))
        found: dict[str, float] = {"on_battery": 0.0}
        for supply in supplies:
            if _text(supply / "type") != "Battery" or _text(supply / "scope") == "Device":  # a mouse has one, too
                continue
            if _text(supply / "status") == "Discharging":
                found["on_battery"] = 1.0
            left = _text(supply / "capacity")
            if left.isdecimal():
                found["battery"] = min(100.0, _BATTERY_STEP * round(float(left) / _BATTERY_STEP))
        return found

    def _is_idle(self) -> bool | None:
        """Whether others leave the processors free, since the last look; None before the second, or without /proc."""
        now = self._used()
        before, self._before = self._before, now
        if now is None or before is None or now[0] <= before[0]:
            return self._idle
        whole, busy, ours = (after - last for after, last in zip(now, before, strict=True))
        share = max(0.0, busy - ours) / whole
        self._idle = share < (_BUSY if self._idle else _IDLE)
        return self._idle

    def _used(self) -> tuple[float, float, float] | None:
        """Ticks of all processors since the start: in all, busy, and busy with us and our children."""
        first = _text(self._processes / "stat").partition("\n")[0].split()
        if len(first) < 5 or first[0] != "cpu":
            return None
        ticks = [float(one) for one in first[1:9]]  # guest time is within user time
        resting = ticks[3] + (ticks[4] if len(ticks) > 4 else 0.0)
        group = os.getpgid(0)
        ours = 0.0
        for stat in self._processes.glob("[0-9]*/stat"):
            fields = _text(stat).rpartition(")")[2].split()
            if len(fields) > 14 and fields[2] == str(group):
                ours += sum(float(one) for one in fields[11:15])  # itself, and its children that have ended
        return sum(ticks), sum(ticks) - resting, ours


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        return os.cpu_count() or 0


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
