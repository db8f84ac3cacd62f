"""Tells a person that the broker has been gone for a while, and when it is back; a short loss is no news."""

import asyncio
import logging

__all__ = ["NEWS_S", "Absence"]

log = logging.getLogger(__name__)

NEWS_S = 5.0
"""Seconds: a broker that is restarted in good order is back before."""


class Absence:
    """The times without a connection: `begins` and `ends` are called at each loss and at each return."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._told = False

    def begins(self, client_id: str, why: str) -> None:
        """The connection was lost."""
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        self._timer = loop.call_later(NEWS_S, self._tell, client_id, why)

    def ends(self, client_id: str) -> None:
        """There is a connection (again)."""
        if self._told:  # as loud as the loss: who read of that must read of this
            gone_s = asyncio.get_running_loop().time() - self._since
            log.warning("%s: connected to %s again after %.0f s", client_id, self._address, gone_s)
        self.over()

    def over(self) -> None:
        """Nobody waits for the broker any more."""
        self._told = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self, client_id: str, why: str) -> None:
        self._told = True
        log.warning("%s: no connection to %s for %.0f s now (%s); trying on", client_id, self._address, NEWS_S, why)
