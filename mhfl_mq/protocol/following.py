"""Following the head: the newest version that was announced is installed, at this device's tier."""

from typing import Final

from mhfl_mq.protocol.effects import Alarm, CancelTimer, DeviceEffect, Install, SetTimer
from mhfl_mq.protocol.memory import Memory
from mhfl_mq.protocol.pauses import Luck, Pauses, Timer
from mhfl_mq.wire.messages import Head

__all__ = ["Following"]

_FIRST_S: Final = 5.0
_MOST_S: Final = 600.0  # what keeps a model from being installed (a full disk) is rarely over within minutes


class Following:
    """The head that was heard last, and whether this device runs it. Not saved: the head is a retained message."""

    def __init__(self, memory: Memory, luck: Luck) -> None:
        self.head: Head | None = None
        self.installed: int | None = None
        self._memory = memory
        self._pauses = Pauses(_FIRST_S, _MOST_S, luck)

    def heard(self, head: Head) -> list[DeviceEffect]:
        """Install a newer head. A rollback is newer too; an older one is a message that came late."""
        before = self.head
        if before is not None and (head.epoch, head.version) <= (before.epoch, before.version):
            return []
        self.head = head
        if before is not None and (head.version, head.segments) == (before.version, before.segments):
            return []  # the aggregator restarted and said it again
        self._pauses.reset()
        return self.install()

    def install(self) -> list[DeviceEffect]:
        """Install the head, once there is one that fits a tier that is assigned."""
        head, saved = self.head, self._memory.saved
        if head is None or saved.tier is None or head.layout != saved.layout:
            return []
        return [CancelTimer(Timer.INSTALL), Install(head)]

    def done(self, version: int) -> None:
        """The device runs this version now."""
        self.installed = version
        self._pauses.reset()

    def failed(self, version: int, reason: str) -> list[DeviceEffect]:
        """Try again later, unless another head came meanwhile."""
        if self.head is None or self.head.version != version:
            return []
        text = f"version {version} could not be installed: {reason}"
        return [Alarm(text), SetTimer(Timer.INSTALL, self._pauses.next_s())]

    def again(self) -> list[DeviceEffect]:
        """The pause after a failure is over."""
        return [] if self.head is not None and self.installed == self.head.version else self.install()
