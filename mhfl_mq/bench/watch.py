"""Looks over the shoulder of a federation's machine: which rounds there were, when, and who was counted in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mhfl_mq.protocol.effects import AggregatorEffect, Persist
from mhfl_mq.protocol.events import AggregatorEvent
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.records import RoundClosed, RoundOpened, UpdateCounted, VersionAdded

__all__ = ["RoundSeen", "Watch"]


@dataclass(slots=True)
class RoundSeen:
    """One round. Seconds are virtual, from the opening of the first round; `metrics` are the new version's."""

    number: int
    opened_s: float
    invited: Mapping[str, int]  # device -> tier
    counted: dict[str, Mapping[str, float]] = field(default_factory=dict)  # device -> what it measured
    closed_s: float = 0.0
    outcome: str = ""
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        """Whether a new version came of it."""
        return self.outcome == "committed"


class Watch:
    """The rounds of one federation; `told` hears of each that has ended."""

    def __init__(self, now: Callable[[], float], told: Callable[[RoundSeen], None] = lambda _round: None) -> None:
        self.rounds: list[RoundSeen] = []
        self._now = now
        self._told = told
        self._began: float | None = None

    def machine(self, *args: Any, **options: Any) -> FederationMachine:
        """The real machine, watched; for `mhfl_mq.run.launch.Parts`."""
        watch = self

        class Machine(FederationMachine):
            def handle(self, event: AggregatorEvent, now: float) -> list[AggregatorEffect]:
                effects = super().handle(event, now)
                for effect in effects:
                    if isinstance(effect, Persist):
                        watch._saw(effect)
                return effects

        return Machine(*args, **options)

    def _saw(self, effect: Persist) -> None:
        now = self._now()
        for change in effect.changes:
            current = self.rounds[-1] if self.rounds else None
            match change:
                case RoundOpened():
                    self._began = now if self._began is None else self._began
                    self.rounds.append(RoundSeen(change.round, now - self._began, dict(change.cohort)))
                case UpdateCounted() if current is not None:
                    current.counted[change.device] = dict(change.metrics)
                case VersionAdded() if current is not None and change.round == current.number:
                    current.metrics = dict(change.metrics)
                case RoundClosed() if current is not None and self._began is not None:
                    current.closed_s = now - self._began
                    current.outcome, current.reason = change.outcome, change.reason
                    self._told(current)
