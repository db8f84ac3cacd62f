"""One round on the aggregator: offers out, updates in, close, merge, gate, commit or abort.

The number is persisted before the first offer, a counted update before it is folded and receipted, the end before it
is announced. So a restart between any two effects finds a round that it can go on with, and no update twice.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from types import MappingProxyType
from typing import Final

from mhfl_mq.protocol import entries
from mhfl_mq.protocol.effects import (
    AggregatorEffect,
    Alarm,
    Announce,
    CancelTimer,
    DropFetch,
    FetchUpdate,
    Fold,
    Merge,
    OpenFold,
    Persist,
    Release,
    SetTimer,
    ShareModel,
    Tell,
)
from mhfl_mq.protocol.events import Merged, UpdateBad, UpdateStored
from mhfl_mq.protocol.pauses import Once, Timer
from mhfl_mq.protocol.records import RoundClosed, RoundOpened, UpdateCounted, VersionAdded
from mhfl_mq.protocol.rules import Decider, Rules, Upload
from mhfl_mq.protocol.scores import reported
from mhfl_mq.protocol.states import ROUND, RoundState, RoundStep
from mhfl_mq.protocol.words import plain
from mhfl_mq.wire.messages import Close, Decline, Offer, Receipt, UpdateReady, Verdict, Withdraw

__all__ = ["RETURN_S", "Round"]

RETURN_S: Final = 30.0
"""Seconds that a round which is resumed waits at least: devices reconnect, and say again what they have finished."""
_FLOAT_BYTES: Final = 4  # an update's blob is raw float32, or less where the policy compacts


class Round:
    """A round from its opening on; `counted` is what an earlier life of the aggregator had counted."""

    def __init__(
        self,
        rules: Rules,
        decider: Decider,
        once: Once,
        opened: RoundOpened,
        model: str,
        counted: Sequence[UpdateCounted] = (),
        uploads: Mapping[str, Upload] = MappingProxyType({}),
        out: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.state = ROUND.start
        self.opened = opened
        self.counted = {one.device: one for one in counted}
        self.fetching: dict[str, UpdateReady] = {}
        self.declined: dict[str, str] = {}  # device -> reason; it may still change its mind
        self.refused: dict[str, str] = {}  # device -> reason; its update was bad, it is out
        self.accepted: set[str] = set()
        self.silent: set[str] = set()  # sent nothing until the deadline
        self.version: VersionAdded | None = None  # what the round made, once committed
        self.alarms: tuple[str, ...] = ()  # what a person should see of it
        self._rules = rules
        self._decider = decider
        self._once = once
        self._model = model
        self._tiers = dict(opened.cohort)
        self._uploads = uploads
        self._out = out  # how many devices each rule keeps out

    @property
    def number(self) -> int:
        """Never used again."""
        return self.opened.round

    @property
    def over(self) -> bool:
        """Whether it is committed or aborted."""
        return self.state in (RoundState.COMMITTED, RoundState.ABORTED)

    @property
    def waiting(self) -> list[str]:
        """Who may still send an update, by name."""
        out = self.counted.keys() | self.declined.keys() | self.refused.keys()
        return sorted(self._tiers.keys() - out)

    @property
    def turns(self) -> tuple[str, ...]:
        """Who had its turn, by name: who was invited and is not here was not waited for, and comes first next time."""
        return tuple(sorted(self.counted.keys() | self.declined.keys() | self.refused.keys() | self.silent))

    # ---- beginning ----

    def open(self) -> list[AggregatorEffect]:
        """Use the number up, then invite the cohort."""
        return [
            Persist((self.opened,), (entries.round_opened(self.opened, self._rules, self._uploads, self._out),)),
            OpenFold(self.number, self._model, len(self._tiers)),
            ShareModel(self.opened.base, self._model),
            SetTimer(Timer.DEADLINE, self._rules.deadline_s),
            *(Tell(device, self._offer(device)) for device in self._tiers),
        ]

    def resume(self, passed_s: float) -> list[AggregatorEffect]:
        """After a restart, so many seconds after the opening: what was counted is in the sum again.

        The deadline is that of the opening, but devices get `RETURN_S` to bring what they finished while we were gone.
        A clock that was set back does not put it off further than a full one.
        Receipts are told again, for they may not have got out. Offers go out again when the devices say hello.
        """
        folds = [self._fold(one) for one in self.counted.values()]
        receipts = [self._receipt(device, Verdict.COUNTED) for device in self.counted]
        whole_s = self._rules.deadline_s
        return [
            OpenFold(self.number, self._model, len(self._tiers)),
            *folds,
            SetTimer(Timer.DEADLINE, min(whole_s, max(RETURN_S, whole_s - passed_s))),
            *receipts,
            *self._settle(),
        ]

    def offer_again(self, device: str) -> list[AggregatorEffect]:
        """A device came back: when the round still waits for it, it hears the offer again."""
        if self.state is not RoundState.COLLECTING or device not in self.waiting:
            return []
        return [Tell(device, self._offer(device))]

    def _offer(self, device: str) -> Offer:
        rules, tier = self._rules, self._tiers[device]
        return Offer(
            round=self.number,
            base=self.opened.base,
            tier=tier,
            layout=rules.layout,
            segments=(),  # the driver knows the blobs
            algorithm=rules.algorithm,
            options={**rules.options, **self._uploads.get(device, Upload()).options},
            stages=rules.stages,
            policy=self.opened.policy,
            deadline_s=rules.deadline_s,
            holds=rules.tiers[tier].segments,
        )

    # ---- collecting ----

    def accept(self, device: str) -> list[AggregatorEffect]:
        """The device is at it; one that had declined before changed its mind."""
        if device in self._tiers and self.state is RoundState.COLLECTING:
            self.accepted.add(device)
            self.declined.pop(device, None)
        return []

    def decline(self, device: str, decline: Decline) -> list[AggregatorEffect]:
        """The device will not send an update: the round need not wait for it."""
        if self.state is not RoundState.COLLECTING or device not in self.waiting:
            return []
        self.declined[device] = decline.reason
        self.accepted.discard(device)
        effects = self._drop(device)
        if self._once.first(device, "decline"):
            entry = entries.update_declined(self.number, device, decline.code, decline.reason)
            effects.append(Persist(entries=(entry,)))
        return [*effects, *self._settle()]

    def update_ready(self, device: str, ready: UpdateReady) -> list[AggregatorEffect]:
        """Fetch the update, unless there is something wrong with it that is known already."""
        if device in self.counted:
            return [self._receipt(device, Verdict.DUPLICATE)]
        if self.state is not RoundState.COLLECTING:
            return [self._receipt(device, Verdict.LATE, "the round is closing")]
        if device not in self._tiers:
            return self._refuse(device, f"not invited to round {self.number}")
        if device in self.refused:
            return [self._receipt(device, Verdict.REFUSED, self.refused[device])]
        before = self.fetching.get(device)
        if before is not None and before.manifest.blob_id == ready.manifest.blob_id:
            return []
        objection = self._objection(device, ready)
        if objection:
            return self._refuse(device, objection)
        self.declined.pop(device, None)
        effects = self._drop(device)
        self.fetching[device] = ready
        tier = self._tiers[device]
        return [*effects, FetchUpdate(self.number, device, tier, ready.manifest, ready.inline)]

    def _objection(self, device: str, ready: UpdateReady) -> str:
        """What is wrong with an update, as far as its announcement tells; empty when nothing is."""
        rules, size = self._rules, ready.manifest.size
        tier = rules.tiers[self._tiers[device]]
        if ready.base != self.opened.base:
            return f"stale base: trained from version {ready.base}, round {self.number} has {self.opened.base}"
        if size > rules.max_update_bytes:
            return f"too large: {size} bytes, at most {rules.max_update_bytes} are allowed"
        raw = _FLOAT_BYTES * tier.length
        if size != raw and not (rules.compacts and 0 < size < raw):  # compacted: the bench sees whether it is whole
            return f"wrong shape: {size} bytes, tier {tier.name} has {raw}"
        if not isfinite(ready.weight) or ready.weight <= 0.0:
            return f"it says that {ready.weight:g} examples are behind it"
        weight = self._decider.weight(ready.weight)
        if weight > rules.max_weight:
            return f"weight {weight:g} is over the {rules.max_weight:g} that one update may count"
        return ""

    def stored(self, event: UpdateStored) -> list[AggregatorEffect]:
        """A fetched update is durable and valid: count it, then fold it, then say so."""
        ready = self.fetching.get(event.device)
        if self.state is not RoundState.COLLECTING or ready is None or ready.manifest.blob_id != event.blob_id:
            return []
        del self.fetching[event.device]
        counted = UpdateCounted(
            round=self.number,
            device=event.device,
            tier=self._tiers[event.device],
            blob_id=event.blob_id,
            size=ready.manifest.size,
            weight=self._decider.weight(ready.weight),
            metrics=entries.finite(ready.metrics),
        )
        self.counted[event.device] = counted
        return [
            Persist((counted,), (entries.update_counted(counted),)),
            self._fold(counted),
            self._receipt(event.device, Verdict.COUNTED),
            *self._settle(),
        ]

    def bad(self, event: UpdateBad) -> list[AggregatorEffect]:
        """A fetch came to nothing: wait to hear of the update again, or refuse it."""
        ready = self.fetching.get(event.device)
        if ready is None or event.blob_id not in ("", ready.manifest.blob_id):
            return []
        del self.fetching[event.device]
        return [] if event.retry else self._refuse(event.device, event.reason)

    def _refuse(self, device: str, reason: str) -> list[AggregatorEffect]:
        """This update will not be in the sum; whoever is in the cohort is out of this round."""
        reason = plain(reason)
        effects: list[AggregatorEffect] = []
        if device in self._tiers:
            self.refused[device] = reason
            effects += self._drop(device)
        if self._once.first(device, "refuse"):
            effects.append(Persist(entries=(entries.update_refused(self.number, device, reason),)))
        return [*effects, self._receipt(device, Verdict.REFUSED, reason), *self._settle()]

    # ---- closing ----

    def deadline(self) -> list[AggregatorEffect]:
        """Time is up: go on with what was counted, if that is enough."""
        if self.state is not RoundState.COLLECTING:
            return []
        self.silent.update(self.waiting)
        if len(self.counted) < self.opened.needed:
            return self.abort(f"quorum missed: {len(self.counted)} of {self.opened.needed} needed at the deadline")
        return self._close()

    def _settle(self) -> list[AggregatorEffect]:
        """Close when nobody is waited for or the target is reached; give up when the quorum is out of reach."""
        counted, waiting, needed = len(self.counted), len(self.waiting), self.opened.needed
        if counted + waiting < needed:
            return self.abort(f"quorum out of reach: {counted} counted, {waiting} expected, {needed} needed")
        return self._close() if not waiting or counted >= self._target else []

    @property
    def _target(self) -> int:
        """How many counted updates close the round before its deadline."""
        invited = len(self._tiers)
        return invited if self._rules.cohort is None else max(self.opened.needed, min(self._rules.cohort, invited))

    def _close(self) -> list[AggregatorEffect]:
        self._step(RoundStep.CLOSE)
        reason = f"round {self.number} is closing without this device's update"
        withdrawn = [Tell(device, Withdraw(self.number, reason)) for device in self.waiting]
        dropped = self._drop_all()
        self._step(RoundStep.MERGE)
        return [CancelTimer(Timer.DEADLINE), *dropped, *withdrawn, Merge(self.number)]

    def merged(self, event: Merged, head: VersionAdded) -> list[AggregatorEffect]:
        """There is a model: if the gate lets it through, it and the end of the round become durable together."""
        if self.state is not RoundState.MERGING:
            return []
        self._step(RoundStep.MERGED)
        # Where nobody but the devices can say how good the models are, they have said it with their updates.
        tiers = tuple(tier.name for tier in self._rules.tiers)
        metrics = dict(event.metrics) or reported(self.counted.values(), tiers, head.metrics)
        decision = self._decider.gate(metrics, head.metrics)
        if not decision.yes:
            return self.abort(f"the gate said no: {decision.text}")
        self._step(RoundStep.COMMIT)
        self.alarms = decision.alarms
        version = head.version + 1
        self.version = VersionAdded(
            version=version,
            parent=head.version,
            model=event.model,
            layout=self._rules.layout,
            origin="round",
            round=self.number,
            metrics=entries.finite(metrics),
            reason=decision.text,
        )
        closed = RoundClosed(self.number, "committed", decision.text, version, self.turns)
        committed = entries.round_committed(closed, tuple(self.counted.values()), decision.text)
        return [Persist((self.version, closed), (entries.version_added(self.version), committed))]

    def merge_failed(self, reason: str) -> list[AggregatorEffect]:
        """There is no model."""
        return self.abort(f"the merge failed: {reason}") if self.state is RoundState.MERGING else []

    def abort(self, reason: str) -> list[AggregatorEffect]:
        """End without a version, in any state that is not an end."""
        self._step(RoundStep.ABORT)
        reason = plain(reason)
        closed = RoundClosed(self.number, "aborted", reason, None, self.turns)
        entry = entries.round_aborted(closed, len(self.counted), self.opened.needed)
        return [
            Persist((closed,), (entry,)),
            CancelTimer(Timer.DEADLINE),
            *self._drop_all(),
            Alarm(f"round {self.number} aborted: {reason}"),
            Announce(Close(self.number, "aborted", self.opened.base)),
            Release(self.number),
        ]

    # ---- parts ----

    def _fold(self, counted: UpdateCounted) -> Fold:
        return Fold(self.number, counted.device, counted.tier, counted.blob_id, counted.weight)

    def _receipt(self, device: str, verdict: str, reason: str = "") -> Tell:
        return Tell(device, Receipt(self.number, verdict, reason))

    def _drop(self, device: str) -> list[AggregatorEffect]:
        return [] if self.fetching.pop(device, None) is None else [DropFetch(self.number, device)]

    def _drop_all(self) -> list[AggregatorEffect]:
        return [effect for device in sorted(self.fetching) for effect in self._drop(device)]

    def _step(self, step: RoundStep) -> None:
        self.state = ROUND.step(self.state, step)
