"""Tests of the test: bugs that are planted in the real machines are found within thirty seeds."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.effects import Ack, AggregatorEffect, DeviceEffect, Fold, Persist, SaveState, Tell
from mhfl_mq.protocol.events import AggregatorEvent, DeviceEvent, Trained, UpdateStored
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.members import Members
from mhfl_mq.protocol.records import PastSaved, RoundOpened
from mhfl_mq.protocol.rounds import Round
from mhfl_mq.protocol.rules import Decision, May, Opening
from mhfl_mq.protocol.transfer_admission import Admission
from mhfl_mq.protocol.work import Work
from mhfl_mq.run.bench import Bench
from mhfl_mq.run.rules import PolicyDecider
from mhfl_mq.segments import Accumulator
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.testing.sim import simulate
from mhfl_mq.wire.messages import Receipt, UpdateReady

SEEDS = 30

Plant = Callable[[pytest.MonkeyPatch], None]


def found(plan: str) -> str:
    """What the first failing seed says; empty when none fails."""
    return next((error for seed in range(SEEDS) if (error := simulate(seed, plan).error)), "")


# ---- the aggregator ---------------------------------------------------------------------------------------------


def no_dedupe_of_updates(patch: pytest.MonkeyPatch) -> None:
    right = Round.update_ready

    def wrong(self: Round, device: str, ready: UpdateReady) -> list[AggregatorEffect]:
        before = self.counted.pop(device, None)
        effects = right(self, device, ready)
        if before is not None:
            self.counted[device] = before
        return effects

    patch.setattr(Round, "update_ready", wrong)


def no_base_check(patch: pytest.MonkeyPatch) -> None:
    right = Round._objection

    def wrong(self: Round, device: str, ready: UpdateReady) -> str:
        return right(self, device, replace(ready, base=self.opened.base))

    patch.setattr(Round, "_objection", wrong)


def last(kind: type, effects: list[AggregatorEffect]) -> list[AggregatorEffect]:
    """The effects with those of a kind at the end."""
    return [one for one in effects if not isinstance(one, kind)] + [one for one in effects if isinstance(one, kind)]


def without(kind: type, effects: list[AggregatorEffect]) -> list[AggregatorEffect]:
    """The effects without those of a kind."""
    return [one for one in effects if not isinstance(one, kind)]


def offer_before_persist(patch: pytest.MonkeyPatch) -> None:
    right = Round.open
    patch.setattr(Round, "open", lambda self: last(Persist, right(self)))


def receipt_before_durable(patch: pytest.MonkeyPatch) -> None:
    right = Round.stored

    def wrong(self: Round, event: UpdateStored) -> list[AggregatorEffect]:
        effects = right(self, event)
        told = [one for one in effects if isinstance(one, Tell) and isinstance(one.message, Receipt)]
        return [*told, *(one for one in effects if one not in told)]

    patch.setattr(Round, "stored", wrong)


def ack_before_persist(patch: pytest.MonkeyPatch) -> None:
    right = FederationMachine.handle

    def wrong(self: FederationMachine, event: AggregatorEvent, now: float) -> list[AggregatorEffect]:
        effects = right(self, event, now)
        return [one for one in effects if isinstance(one, Ack)] + [one for one in effects if not isinstance(one, Ack)]

    patch.setattr(FederationMachine, "handle", wrong)


def round_number_not_persisted(patch: pytest.MonkeyPatch) -> None:
    right = Round.open

    def wrong(self: Round) -> list[AggregatorEffect]:
        return [
            Persist(tuple(change for change in one.changes if not isinstance(change, RoundOpened)), one.entries)
            if isinstance(one, Persist)
            else one
            for one in right(self)
        ]

    patch.setattr(Round, "open", wrong)


def fold_twice_on_resume(patch: pytest.MonkeyPatch) -> None:
    right = Round.resume

    def wrong(self: Round, passed_s: float) -> list[AggregatorEffect]:
        twice: list[AggregatorEffect] = []
        for one in right(self, passed_s):
            twice += [one, one] if isinstance(one, Fold) else [one]
        return twice

    patch.setattr(Round, "resume", wrong)


def no_fold_on_resume(patch: pytest.MonkeyPatch) -> None:
    right = Round.resume
    patch.setattr(Round, "resume", lambda self, passed_s: without(Fold, right(self, passed_s)))


def counted_updates_are_deleted_at_start(patch: pytest.MonkeyPatch) -> None:
    right = Blobs.keep
    patch.setattr(Blobs, "keep", lambda self, _kept: right(self, ()))


def weights_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    right = Bench.fold
    patch.setattr(Bench, "fold", lambda self, number, tier, blob_id, _weight: right(self, number, tier, blob_id, 1.0))


def nan_passes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Bench, "fault_in_update", lambda self, blob_id, tier: "")


def only_one_device_is_ever_invited(patch: pytest.MonkeyPatch) -> None:
    right = Members.candidates
    patch.setattr(Members, "candidates", lambda self, layout: right(self, layout)[:1])


def closes_at_quorum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Round, "_target", property(lambda self: self.opened.needed))


def no_receipt_again_on_resume(patch: pytest.MonkeyPatch) -> None:
    right = Round.resume
    patch.setattr(Round, "resume", lambda self, passed_s: without(Tell, right(self, passed_s)))


def a_restart_puts_the_deadline_off(patch: pytest.MonkeyPatch) -> None:
    right = Round.resume
    patch.setattr(Round, "resume", lambda self, passed_s: right(self, 0.0))


def no_offer_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Round, "offer_again", lambda self, device: [])


def the_gate_says_yes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PolicyDecider, "gate", lambda self, new, head: Decision(True, ("fine",)))


def the_schedule_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PolicyDecider, "opening", lambda self, now, committed_at: Opening(True))


def rules_about_devices_are_not_asked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PolicyDecider, "may", lambda self, asked, rounds, now: May())


def turns_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Members, "past", lambda self, device: PastSaved())


def a_time_is_never_used_up(patch: pytest.MonkeyPatch) -> None:
    right = PolicyDecider.opening
    patch.setattr(PolicyDecider, "opening", lambda self, now, committed_at: right(self, now, None))


def admission_is_unbounded(patch: pytest.MonkeyPatch) -> None:
    right = Admission.__init__

    def wrong(self: Admission, *, places: int) -> None:
        right(self, places=1000 * places)

    patch.setattr(Admission, "__init__", wrong)


def untouched_segments_are_zeroed(patch: pytest.MonkeyPatch) -> None:
    right = Accumulator.finalize

    def wrong(self: Accumulator, head: object, out: object, rate: float = 1.0) -> None:
        import numpy as np

        right(self, np.zeros(self._lengths[-1], np.float32), out, rate)  # type: ignore[arg-type]

    patch.setattr(Accumulator, "finalize", wrong)


# ---- the device -------------------------------------------------------------------------------------------------


def update_said_before_it_is_saved(patch: pytest.MonkeyPatch) -> None:
    right = Work.trained

    def wrong(self: Work, event: Trained, online: bool) -> list[DeviceEffect]:
        effects = right(self, event, online)
        saves = [one for one in effects if isinstance(one, SaveState)]
        return [*(one for one in effects if one not in saves), *saves]

    patch.setattr(Work, "trained", wrong)


def device_acknowledges_first(patch: pytest.MonkeyPatch) -> None:
    right = DeviceMachine.handle

    def wrong(self: DeviceMachine, event: DeviceEvent) -> list[DeviceEffect]:
        effects = right(self, event)
        return [one for one in effects if isinstance(one, Ack)] + [one for one in effects if not isinstance(one, Ack)]

    patch.setattr(DeviceMachine, "handle", wrong)


UNKNOWN = "is offered and not durably open|is set for a round that is not durably open"
TWICE = "more updates than the cohort|is not the mean of what was counted"

PLANTED: tuple[tuple[Plant, str, str], ...] = (
    (no_dedupe_of_updates, "network", TWICE),
    (no_base_check, "malice", "did not train in this round"),
    (offer_before_persist, "calm", UNKNOWN),
    (receipt_before_durable, "calm", "gets a receipt for round"),
    (ack_before_persist, "calm", "acknowledged before what it caused is durable"),
    (round_number_not_persisted, "calm", UNKNOWN),
    (fold_twice_on_resume, "crashes", TWICE),
    (no_fold_on_resume, "crashes", "is not the mean of what was counted"),
    (counted_updates_are_deleted_at_start, "crashes", "a counted update is gone"),
    (weights_are_forgotten, "calm", "is not the mean of what was counted"),
    (nan_passes, "malice", "did not train in this round"),
    (untouched_segments_are_zeroed, "calm", "is not the mean of what was counted"),
    (closes_at_quorum, "calm", "closes early"),
    (no_receipt_again_on_resume, "crashes", "gave it no receipt"),
    (a_restart_puts_the_deadline_off, "crashes", "is put off by"),
    (no_offer_again, "crashes", "did not hear the offer again"),
    (the_gate_says_yes, "stragglers", "the gate allows"),
    (the_schedule_is_not_asked, "calm", "where the schedule allows none"),
    (rules_about_devices_are_not_asked, "calm", "did not say in this life that it is idle|after its last turn"),
    (turns_are_forgotten, "calm", "after its last turn began"),
    (a_time_is_never_used_up, "calm", "begins at second .* for the same time"),
    (admission_is_unbounded, "network", "updates are being pulled"),
    (only_one_device_is_ever_invited, "calm", "no new round was committed"),
    (update_said_before_it_is_saved, "calm", "is ready before it is durable"),
    (device_acknowledges_first, "calm", "before what it caused is durable"),
)


@pytest.mark.parametrize(("plant", "plan", "says"), PLANTED, ids=lambda one: getattr(one, "__name__", ""))
def test_a_planted_bug_is_found(plant: Plant, plan: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert re.search(says, found(plan))
