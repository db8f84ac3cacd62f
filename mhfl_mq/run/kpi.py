"""Key figures of a running federation: judged as rounds end, and written down when one begins to miss its target."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from mhfl_mq.policy import Kpi
from mhfl_mq.policy.kpi import History, Judged, RoundDone, VersionDone, judge
from mhfl_mq.protocol.records import Change, Entry, RoundClosed, RoundOpened, UpdateCounted, VersionAdded
from mhfl_mq.run.rules import tier_metrics
from mhfl_mq.store.view import View

__all__ = ["KpiWatch", "history_of", "kpi_document"]

log = logging.getLogger(__name__)

MOST_ROUNDS = 10_000
"""Rounds that are looked back at, at most."""
EVERY_S = 5.0
"""Seconds between two judgements: rounds may take milliseconds."""


def history_of(view: View, tiers: Sequence[str]) -> History:
    """What a state folder knows; `tiers` are the tiers' names."""
    rounds = [
        RoundDone(
            _seconds(one.opened_at),
            _seconds(one.closed_at),
            len(one.opened.cohort),
            tuple(map(_update, view.updates(one.opened.round))),
        )
        for one in view.rounds(MOST_ROUNDS)
        if one.closed_at is not None
    ]
    versions = [VersionDone(_seconds(one.at), tier_metrics(one.added.metrics)) for one in view.versions()]
    return History(rounds, versions, _tiers(view, tiers))


def kpi_document(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Key figures for scripts; a time that was not reached is null."""
    return [
        {
            "metric": one.kpi.metric,
            "target": one.target,
            "window_s": one.kpi.window_s,
            "actual": one.actual if one.actual is not None and one.actual < float("inf") else None,
            "shown": one.shown,
            "met": one.met,
        }
        for one in judged
    ]


class KpiWatch:
    """Sees what becomes durable, and judges. `write` makes ledger entries durable; `kpis` are the policy's now."""

    def __init__(
        self,
        view: View,
        tiers: Sequence[str],
        kpis: Callable[[], Sequence[Kpi]],
        now: Callable[[], float],
        write: Callable[[Sequence[Entry]], object],
    ) -> None:
        self.judged: tuple[Judged, ...] = ()
        self._view = view
        self._tiers = tuple(tiers)
        self._kpis = kpis
        self._now = now
        self._write = write
        self._met: dict[Kpi, bool] = {}
        self._judged_at = float("-inf")
        past = history_of(view, tiers) if kpis() else History()
        self._rounds, self._versions = list(past.rounds), list(past.versions)
        self._open: tuple[float, int, list[tuple[int, float]]] | None = None
        one = view.restore().open_round
        if one is not None:  # of an earlier life
            self._open = one.opened_at, len(one.opened.cohort), list(map(_update, one.counted))

    def saw(self, changes: Sequence[Change]) -> None:
        """These are durable now."""
        for change in changes:
            match change:
                case RoundOpened():
                    self._open = self._now(), len(change.cohort), []
                case UpdateCounted() if self._open is not None:
                    self._open[2].append(_update(change))
                case VersionAdded():
                    self._versions.append(VersionDone(self._now(), tier_metrics(change.metrics)))
        if any(isinstance(change, RoundClosed) for change in changes):
            self._ended()

    def _ended(self) -> None:
        now = self._now()
        if self._open is not None:
            began, invited, updates = self._open
            self._open = None
            self._rounds.append(RoundDone(began, now, invited, tuple(updates)))
            del self._rounds[:-MOST_ROUNDS]
        if self._kpis() and abs(now - self._judged_at) >= EVERY_S:
            self._judged_at = now
            self._judge(now)

    def _judge(self, now: float) -> None:
        """Look at all, and write down what is met now and was not before, or the reverse."""
        self.judged = judge(self._kpis(), History(self._rounds, self._versions, _tiers(self._view, self._tiers)), now)
        entries = []
        for one in self.judged:
            if one.met is None or self._met.get(one.kpi, True) == one.met:
                continue
            facts = {"metric": one.kpi.metric, "target": one.target, "actual": one.shown}
            entries.append(Entry("kpi.meet" if one.met else "kpi.miss", facts))
            if not one.met:
                log.warning("%s is %s, the target is %s", one.kpi.metric, one.shown, one.target)
        self._met |= {one.kpi: one.met for one in self.judged if one.met is not None}
        if entries:
            self._write(entries)


def _update(one: UpdateCounted) -> tuple[int, float]:
    return one.size, one.metrics.get("seconds", 0.0)


def _tiers(view: View, names: Sequence[str]) -> list[str]:
    return [names[one.tier] for one in view.devices() if one.tier is not None and one.tier < len(names)]


def _seconds(stamp: str | None) -> float:
    return 0.0 if stamp is None else datetime.fromisoformat(stamp).timestamp()
