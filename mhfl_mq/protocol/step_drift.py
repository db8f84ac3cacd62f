"""Whether a device trains as fast as it said when its tier was assigned.

A probe is a moment; what a device is later (hot, busy, upgraded) shows in its rounds. A device whose steps take twice
or half what its tier was assigned from, in several rounds one after the other, says its capability again by itself.
A device that has become too slow to end a round says it too: of a training that was stopped, the least is known that
a step takes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from mhfl_mq.protocol.memory import Memory
from mhfl_mq.wire.messages import Capability

__all__ = ["StepDrift"]

CHANGE: Final = 2.0
"""Less is the same device on another day: neighbours on its processor come and go."""
ROUNDS: Final = 2
"""Rounds in a row that must say so: one alone may be a backup that ran."""
STEP: Final = "step_s"
"""The device's metric: the usual seconds of one of the round's training steps."""


class StepDrift:
    """Seconds of a training step: as told when the tier was assigned (kept in memory), and as rounds show them."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._off: list[float] = []  # of the last rounds, while all are off the same way
        self._said: dict[str, float] = {}  # by tier, in the last capability

    @property
    def is_news(self) -> bool:
        """Whether our tier was assigned from other steps than we do."""
        return len(self._off) >= ROUNDS

    def trained(self, metrics: Mapping[str, float]) -> None:
        """A round's training is over."""
        step_s, told = metrics.get(STEP, 0.0), self._memory.saved.step_told
        if step_s <= 0 or told <= 0 or max(step_s / told, told / step_s) < CHANGE:
            self._off.clear()
        else:
            self._add(step_s, told)

    def stopped(self, step_s: float, *, missed: bool) -> None:
        """A round's training was ended before it was done: a step takes at least `step_s`; `missed`: by its deadline.

        Who misses a deadline need not be twice as slow to be too slow. A round that ended earlier, as it had updates
        enough, says nothing of a device that it did not wait for, unless that was overdue by as much as is a change.
        """
        told = self._memory.saved.step_told
        if told > 0 and step_s > told * (1.0 if missed else CHANGE):
            self._add(step_s, told)

    def _add(self, step_s: float, told: float) -> None:
        """One more round that was off."""
        if self._off and (self._off[-1] > told) is not (step_s > told):
            self._off.clear()
        self._off.append(step_s)

    def say(self, capability: Capability, tier: str | None) -> Capability:
        """The capability, with every tier's steps as much slower or faster as those of our `tier` turned out."""
        probed = next((probe.step_s for probe in capability.probes if probe.tier == tier), 0.0)
        if self.is_news and probed > 0:
            factor = self._off[-1] / probed
            capability = replace(
                capability, probes=tuple(replace(one, step_s=one.step_s * factor) for one in capability.probes)
            )
        self._said = {probe.tier: probe.step_s for probe in capability.probes}
        return capability

    def refused(self) -> bool:
        """No tier is left for us; whether that was for what our rounds showed, which is forgotten."""
        was_news = self.is_news
        self._off.clear()
        return was_news

    def answered(self, tier: str) -> float:
        """Our last capability was answered with this tier: what it said of its step, which rounds are held against."""
        self._off.clear()
        return self._said.get(tier, 0.0)
