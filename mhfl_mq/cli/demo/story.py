"""The demo's story: rounds go by, processes are killed and come back, until the federation has converged."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

from mhfl_mq.cli.demo.fleet import DemoDevice, Fleet
from mhfl_mq.errors import StoreError, TaskError
from mhfl_mq.protocol.records import VersionAdded
from mhfl_mq.run.status import read_board
from mhfl_mq.store.view import View, open_view

__all__ = ["MOST_ROUNDS", "Story", "converged"]

MOST_ROUNDS = 40
"""Rounds after which the demo stops, converged or not."""
FEWEST_ROUNDS = 14
"""Rounds before which it does not: kills and their repair are part of the story."""
WINDOW = 5
FLAT = 0.02
"""Converged: over the last `WINDOW` rounds the devices' training loss fell by less than this share."""
LOOK_EVERY_S = 0.2
STALL_S = 300.0
"""Seconds without a finished round after which the demo gives up."""
KILLS = {3: "device", 6: "aggregator", 9: "broker"}
"""After so many finished rounds, what is killed (`kill -9`) and started again."""


def converged(losses: list[float]) -> bool:
    """Whether training has flattened out, by the devices' own loss: the test data have no say in it."""
    if len(losses) < max(FEWEST_ROUNDS, 2 * WINDOW):
        return False
    before, now = fmean(losses[-2 * WINDOW : -WINDOW]), fmean(losses[-WINDOW:])
    return now > before * (1 - FLAT)


@dataclass(slots=True)
class Story:
    """Watches a fleet through the aggregator's state folder, as `mhfl status` does."""

    fleet: Fleet
    devices: list[DemoDevice]
    rounds: int | None  # None: until converged
    kills: bool
    tell: Callable[[str], None]
    progress: Callable[[float], None]
    began: float
    versions: list[VersionAdded] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    first_round_s: float = 0.0
    killed: list[str] = field(default_factory=list)
    _moved: float = 0.0

    def run(self) -> None:
        """Follow the federation to its end."""
        self._moved = time.monotonic()
        while not self._done():
            time.sleep(LOOK_EVERY_S)
            self.fleet.check()
            try:
                with open_view(self.fleet.state) as view:
                    self._look(view)
            except StoreError:
                if self.versions:
                    raise
                continue  # the aggregator has not made its folder yet
            if time.monotonic() - self._moved > STALL_S:
                raise TaskError(
                    f"no round finished for {STALL_S:.0f} s",
                    where=str(self.fleet.folder),
                    remedy="read the logs there; a loaded machine needs a longer deadline in the policy",
                )

    def tiers(self) -> dict[str, int]:
        """The tier index that each device was given."""
        with open_view(self.fleet.state) as view:
            return {one.device: one.tier for one in view.devices() if one.tier is not None}

    # ---- how ----

    def _done(self) -> bool:
        finished = len(self.losses)
        if self.rounds is not None:
            return finished >= self.rounds
        return finished >= MOST_ROUNDS or converged(self.losses)

    def _look(self, view: View) -> None:
        for version in view.versions()[len(self.versions) :]:
            self.versions.append(version.added)
            if version.added.round is None:
                continue
            self._moved = time.monotonic()
            losses = [one.metrics["loss_last"] for one in view.updates(version.added.round)]
            self.losses.append(fmean(losses))
            if len(self.losses) == 1:
                self.first_round_s = time.monotonic() - self.began
                self.tell(f"first round finished after {self.first_round_s:.1f} s")
            self.progress(len(self.losses))
            if self.kills and not self._done():
                self._kill(KILLS.get(len(self.losses), ""))

    def _kill(self, what: str) -> None:
        fleet = self.fleet
        if what == "device":
            victim = self.devices[-1]
            fleet.kill(victim.name)
            fleet.start_device(victim)
            self._say(victim.name)
        elif what == "aggregator":
            fleet.kill("aggregator")
            fleet.start_aggregator(self.rounds or MOST_ROUNDS, len(self.devices))
            self._say("the aggregator")
        elif what == "broker" and fleet.broker is not None:
            fleet.broker.kill()
            fleet.broker.restart()
            self._say("the broker")

    def _say(self, who: str) -> None:
        self.killed.append(who)
        self.tell(f"round {len(self.losses)}: killed {who} with kill -9, and started it again")

    @property
    def board(self) -> dict[str, object]:
        """What the aggregator counted."""
        return read_board(self.fleet.state)
