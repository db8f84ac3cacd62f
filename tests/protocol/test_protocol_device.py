"""The device machine, event by event: (state, event) -> (state, effects)."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.effects import (
    Ack,
    Alarm,
    CancelTimer,
    DeviceEffect,
    FetchSegments,
    Follow,
    ForgetUpdate,
    Install,
    Probe,
    SavedDevice,
    SaveState,
    Say,
    SetTimer,
    Stop,
    StopTraining,
    Train,
)
from mhfl_mq.protocol.events import (
    Connected,
    DeviceEvent,
    Disconnected,
    Faulted,
    Fetched,
    FetchFailed,
    Heard,
    Installed,
    InstallFailed,
    Probed,
    ProbeFailed,
    Started,
    StopAsked,
    TimerFired,
    Trained,
    TrainFailed,
)
from mhfl_mq.protocol.pauses import Timer
from mhfl_mq.protocol.states import Standing, WorkState
from mhfl_mq.protocol.work import StageRules
from mhfl_mq.testing.machines import LAYOUT, digest, example_rules, manifest_of
from mhfl_mq.wire.messages import (
    Accept,
    Assign,
    Capability,
    Close,
    Decline,
    Head,
    Hello,
    Message,
    Offer,
    Presence,
    ProbeResult,
    Pull,
    Receipt,
    Refuse,
    Survey,
    UpdateReady,
    Verdict,
    Withdraw,
)

TIERS = example_rules().tiers
SURVEY = Survey(4, "wind", LAYOUT, TIERS, 8)
KEPT_SURVEY = replace(SURVEY, epoch=0)
ABLE = Capability(1, LAYOUT, 100, 0.0, (ProbeResult("small", 0.1, 1000),))
OFFER = Offer(
    round=7,
    base=3,
    tier=0,
    layout=LAYOUT,
    segments=(digest("segment 0"),),
    algorithm="heterofl",
    options={"steps": 4.0},
    stages=("clip",),
    policy="p",
    deadline_s=60.0,
)
MANIFEST = manifest_of("update", 40)
TRAINED = Trained(7, MANIFEST, 2.0, {"loss": 0.5}, b"u" * 40)
READY = UpdateReady(7, 3, 2.0, MANIFEST, {"loss": 0.5}, b"u" * 40)
KNOWN = SavedDevice(epoch=4, tier=0, layout=LAYOUT, last_round=6, survey=KEPT_SURVEY)
NEW = SavedDevice()
HEAD = Head(4, 3, LAYOUT, (digest("segment 0"), digest("segment 1")))
AGAIN = SetTimer(Timer.RESEND, 5.0)


class NoLuck:
    """No jitter: every pause is whole, and a herd comes at once."""

    def random(self) -> float:
        return 0.0


class HalfLuck:
    """Always the middle."""

    def random(self) -> float:
        return 0.5


def device(saved: SavedDevice = NEW, stages: StageRules | None = None) -> DeviceMachine:
    return DeviceMachine("ada", "wind", "mhfl-mq/test", saved, NoLuck(), stages)


def after(machine: DeviceMachine, *events: DeviceEvent | Message) -> list[DeviceEffect]:
    """The effects of the last of these events; a bare message is heard without a token."""
    effects: list[DeviceEffect] = []
    for event in events:
        known = event if isinstance(event, DeviceEvent) else Heard("aggregator", event)
        effects = machine.handle(known)
    return effects


def connected(saved: SavedDevice = KNOWN, stages: StageRules | None = None) -> DeviceMachine:
    machine = device(saved, stages)
    after(machine, Started(), Connected(1, 100_000))
    return machine


def assigned(saved: SavedDevice = KNOWN, stages: StageRules | None = None) -> DeviceMachine:
    machine = connected(saved, stages)
    after(machine, Assign(4, 0, "fits"))
    return machine


def sending() -> DeviceMachine:
    machine = assigned()
    after(machine, OFFER, Fetched(7), TRAINED)
    return machine


def standing(machine: DeviceMachine) -> Standing:
    return machine.standing


def work(machine: DeviceMachine) -> WorkState:
    return machine.work


def said(effects: Sequence[DeviceEffect]) -> list[Message]:
    return [effect.message for effect in effects if isinstance(effect, Say)]


def alarms(effects: Sequence[DeviceEffect]) -> list[str]:
    return [effect.text for effect in effects if isinstance(effect, Alarm)]


# ---- joining --------------------------------------------------------------------------------------------------


def test_a_new_device_joins_from_hello_to_its_tier() -> None:
    machine = device()
    assert after(machine, Started()) == []
    assert standing(machine) is Standing.OFFLINE
    assert after(machine, Connected(1, 100_000)) == [
        CancelTimer(Timer.CAPABILITY),
        CancelTimer(Timer.RETRY),
        Say(Hello(1, "wind", "mhfl-mq/test", "", 0)),
        SetTimer(Timer.HELLO, 2.0),
    ]
    assert standing(machine) is Standing.JOINING
    assert after(machine, SURVEY) == [CancelTimer(Timer.HELLO), CancelTimer(Timer.RETRY), Probe(KEPT_SURVEY, 1)]
    assert standing(machine) is Standing.PROBING
    assert after(machine, Probed(ABLE)) == [Say(ABLE), SetTimer(Timer.CAPABILITY, 2.0)]
    assert standing(machine) is Standing.REPORTING
    assert after(machine, Assign(4, 0, "fits")) == [
        CancelTimer(Timer.HELLO),
        CancelTimer(Timer.CAPABILITY),
        CancelTimer(Timer.RETRY),
        SaveState(replace(KNOWN, last_round=0, step_told=0.1)),
        Follow((0,)),
    ]
    assert standing(machine) is Standing.READY


def test_a_known_device_says_what_it_knows_and_may_be_assigned_at_once() -> None:
    machine = device(KNOWN)
    assert after(machine, Started()) == [Follow((0,))]
    assert said(after(machine, Connected(9, 100_000))) == [Hello(9, "wind", "mhfl-mq/test", LAYOUT, 6)]
    effects = after(machine, Assign(4, 0, "fits"))
    assert effects == [CancelTimer(Timer.HELLO), CancelTimer(Timer.CAPABILITY), CancelTimer(Timer.RETRY)]
    assert after(machine, Assign(5, 0, "fits"))[-1] == SaveState(replace(KNOWN, epoch=5))


def test_hello_is_said_again_with_growing_pauses_until_answered() -> None:
    machine = connected()
    pauses = []
    for _ in range(7):
        effects = after(machine, TimerFired(Timer.HELLO))
        assert len(said(effects)) == 1
        pauses += [effect.after_s for effect in effects if isinstance(effect, SetTimer)]
    assert pauses == [4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    after(machine, Assign(4, 0, "fits"))
    assert after(machine, TimerFired(Timer.HELLO)) == []


def test_a_pause_is_shortened_by_luck_so_that_a_fleet_spreads_out() -> None:
    machine = DeviceMachine("ada", "wind", "mhfl-mq/test", KNOWN, HalfLuck())
    assert after(machine, Started(), Connected(1, 0))[-1] == SetTimer(Timer.HELLO, 1.5)


def test_a_capability_is_said_again_in_the_present_session_until_answered() -> None:
    machine = connected(SavedDevice())
    after(machine, SURVEY, Probed(replace(ABLE, session=0)))
    again = after(machine, TimerFired(Timer.CAPABILITY))
    assert again == [Say(ABLE), SetTimer(Timer.CAPABILITY, 4.0)]
    after(machine, Assign(4, 0, "fits"))
    assert after(machine, TimerFired(Timer.CAPABILITY)) == []


def test_what_was_measured_answers_the_same_survey_of_a_restarted_aggregator() -> None:
    machine = connected(SavedDevice())
    after(machine, SURVEY, Probed(ABLE))
    assert after(machine, replace(SURVEY, epoch=5)) == [
        CancelTimer(Timer.HELLO),
        CancelTimer(Timer.RETRY),
        Say(ABLE),
        SetTimer(Timer.CAPABILITY, 2.0),
    ]
    assert standing(machine) is Standing.REPORTING


def test_another_survey_during_a_probe_is_measured_after_it() -> None:
    machine = connected(SavedDevice())
    after(machine, SURVEY)
    other = replace(SURVEY, batch=16)
    assert not any(isinstance(effect, Probe) for effect in after(machine, other))
    assert after(machine, Probed(ABLE)) == [Probe(replace(other, epoch=0), 1)]
    assert said(after(machine, Probed(ABLE))) == [ABLE]


def test_a_probe_outlives_a_connection_and_answers_the_next_survey() -> None:
    machine = connected(SavedDevice())
    after(machine, SURVEY, Disconnected())
    assert after(machine, Probed(ABLE)) == []
    assert standing(machine) is Standing.OFFLINE
    after(machine, Connected(2, 0))
    assert said(after(machine, SURVEY)) == [replace(ABLE, session=2)]


def test_a_survey_that_comes_when_the_connection_is_gone_is_not_heard() -> None:
    machine = connected(SavedDevice())
    assert after(machine, Disconnected(), SURVEY) == []


def test_a_probe_that_fails_is_shown_and_tried_again_rarely() -> None:
    machine = connected(SavedDevice())
    assert after(machine, SURVEY, ProbeFailed("no torch")) == [
        Alarm("this device cannot measure the task: no torch"),
        SetTimer(Timer.RETRY, 30.0),
    ]
    assert standing(machine) is Standing.REFUSED
    assert len(said(after(machine, TimerFired(Timer.RETRY)))) == 1
    assert standing(machine) is Standing.JOINING


def test_a_probe_that_fails_when_nobody_waits_for_it_is_only_shown() -> None:
    machine = connected()
    after(machine, SURVEY, Assign(4, 0, "fits"))
    assert after(machine, ProbeFailed("no torch")) == [Alarm("this device cannot measure the task: no torch")]
    assert standing(machine) is Standing.READY


def test_a_refusal_is_shown_and_asked_about_again_with_growing_pauses() -> None:
    machine = connected()
    pauses = []
    for _ in range(9):
        effects = after(machine, Refuse("layout", "this device derives layout a, the federation has b"))
        assert alarms(effects) == [
            "the aggregator refuses this device: this device derives layout a, the federation has b (layout)"
        ]
        pauses += [effect.after_s for effect in effects if isinstance(effect, SetTimer)]
        assert standing(machine) is Standing.REFUSED
        assert len(said(after(machine, TimerFired(Timer.RETRY)))) == 1
    assert pauses == [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]
    after(machine, Assign(4, 0, "fits"))
    assert SetTimer(Timer.RETRY, 30.0) in after(machine, Refuse("tier", "too slow"))


def test_a_refused_device_keeps_its_work() -> None:
    machine = sending()
    after(machine, Refuse("layout", "another task"))
    assert machine.saved.update == MANIFEST
    assert work(machine) is WorkState.SENDING


def test_a_refusal_that_comes_when_the_connection_is_gone_is_not_heard() -> None:
    machine = connected()
    assert after(machine, Disconnected(), Refuse("tier", "too slow")) == []


def test_a_survey_of_another_task_is_as_good_as_a_refusal() -> None:
    machine = connected()
    effects = after(machine, replace(SURVEY, task="water"))
    assert alarms(effects) == [
        "the aggregator refuses this device: the federation runs the task water, this device has wind"
    ]
    assert standing(machine) is Standing.REFUSED


def test_an_assignment_for_a_life_whose_folder_is_lost_is_not_heard() -> None:
    machine = connected(SavedDevice())
    assert after(machine, Assign(4, 0, "fits")) == []
    assert standing(machine) is Standing.JOINING


def test_an_assignment_that_comes_when_the_connection_is_gone_is_kept() -> None:
    machine = connected(replace(KNOWN, tier=None))
    after(machine, Disconnected())
    assert SaveState(KNOWN) in after(machine, Assign(4, 0, "fits"))
    assert standing(machine) is Standing.OFFLINE


# ---- the aggregator goes and comes ----------------------------------------------------------------------------


def test_a_new_epoch_of_the_aggregator_is_greeted_with_jitter() -> None:
    machine = DeviceMachine("ada", "wind", "mhfl-mq/test", KNOWN, HalfLuck())
    after(machine, Started(), Connected(1, 0), Assign(4, 0, "fits"))
    assert after(machine, Presence(4, True, "a")) == []
    assert after(machine, Presence(5, True, "a")) == [
        CancelTimer(Timer.CAPABILITY),
        CancelTimer(Timer.RETRY),
        SetTimer(Timer.HELLO, 1.0),
    ]
    assert standing(machine) is Standing.JOINING


def test_an_aggregator_that_was_gone_is_greeted_even_in_the_same_epoch() -> None:
    machine = assigned()
    after(machine, Presence(4, False, "a"))
    assert SetTimer(Timer.HELLO, 0.0) in after(machine, Presence(4, True, "a"))


def test_a_late_will_of_an_older_epoch_is_not_heard() -> None:
    machine = assigned()
    after(machine, Presence(3, False, "a"))
    assert after(machine, Presence(4, True, "a")) == []


@pytest.mark.parametrize("message", [OFFER, Receipt(1, "late", ""), Withdraw(1, "x"), Close(1, "aborted", 3)])
def test_an_aggregator_that_speaks_is_not_gone_though_its_birth_was_lost(message: Message) -> None:
    machine = assigned()
    after(machine, Presence(4, False, "a"))
    assert SetTimer(Timer.HELLO, 0.0) in after(machine, message)
    assert SetTimer(Timer.HELLO, 0.0) not in after(machine, message)


def test_while_the_aggregator_is_gone_things_are_said_rarely() -> None:
    machine = connected()
    assert after(machine, Presence(4, False, "a")) == [SetTimer(Timer.HELLO, 600.0)]
    assert after(machine, TimerFired(Timer.HELLO))[-1] == SetTimer(Timer.HELLO, 600.0)
    assert after(machine, Connected(2, 0))[-1] == SetTimer(Timer.HELLO, 2.0)
    machine = connected(SavedDevice())
    after(machine, SURVEY, Probed(ABLE))
    assert after(machine, Presence(4, False, "a")) == [SetTimer(Timer.CAPABILITY, 600.0)]
    machine = sending()
    assert after(machine, Presence(4, False, "a")) == [SetTimer(Timer.RESEND, 600.0)]
    assert after(machine, TimerFired(Timer.RESEND))[-1] == SetTimer(Timer.RESEND, 600.0)


def test_a_probe_is_finished_before_a_new_aggregator_is_greeted() -> None:
    machine = connected(SavedDevice())
    after(machine, SURVEY)
    assert after(machine, Presence(5, True, "a")) == []
    assert said(after(machine, Probed(ABLE))) == [ABLE]


def test_news_of_the_aggregator_without_a_connection_of_our_own_change_nothing() -> None:
    machine = connected()
    after(machine, Disconnected())
    assert after(machine, Presence(5, True, "a")) == []
    assert after(machine, Presence(5, False, "a")) == []
    assert standing(machine) is Standing.OFFLINE


def test_without_a_connection_nothing_is_said_again() -> None:
    machine = sending()
    assert after(machine, Disconnected()) == [
        CancelTimer(Timer.HELLO),
        CancelTimer(Timer.CAPABILITY),
        CancelTimer(Timer.RETRY),
        CancelTimer(Timer.RESEND),
    ]
    assert READY in said(after(machine, Connected(2, 100_000)))


# ---- a round --------------------------------------------------------------------------------------------------


def test_a_round_from_the_offer_to_the_receipt_saves_before_it_says() -> None:
    machine = assigned()
    assert after(machine, OFFER) == [
        SaveState(replace(KNOWN, offer=OFFER)),
        Say(Accept(7)),
        SetTimer(Timer.DEADLINE, 60.0),
        FetchSegments(OFFER),
    ]
    assert work(machine) is WorkState.FETCHING
    assert after(machine, Fetched(7)) == [Train(OFFER)]
    assert work(machine) is WorkState.TRAINING
    finished = replace(KNOWN, offer=OFFER, update=MANIFEST, weight=2.0, metrics={"loss": 0.5})
    assert after(machine, TRAINED) == [SaveState(finished), CancelTimer(Timer.DEADLINE), Say(READY), AGAIN]
    assert work(machine) is WorkState.SENDING
    assert after(machine, Receipt(7, Verdict.COUNTED, "")) == [
        SaveState(replace(KNOWN, last_round=7, counted=7)),
        CancelTimer(Timer.RESEND),
        ForgetUpdate(7),
    ]
    assert work(machine) is WorkState.IDLE


def test_an_update_is_said_again_without_its_blob_until_it_is_receipted() -> None:
    machine = sending()
    lean = replace(READY, inline=b"")
    assert after(machine, TimerFired(Timer.RESEND)) == [Say(lean), SetTimer(Timer.RESEND, 10.0)]
    assert after(machine, TimerFired(Timer.RESEND)) == [Say(lean), SetTimer(Timer.RESEND, 20.0)]
    assert after(machine, Assign(4, 0, "fits"))[-2:] == [Say(READY), AGAIN]
    after(machine, Receipt(7, Verdict.COUNTED, ""))
    assert after(machine, TimerFired(Timer.RESEND)) == []


def test_an_update_that_does_not_fit_in_a_packet_of_this_broker_goes_without_its_blob() -> None:
    machine = sending()
    assert replace(READY, inline=b"") in said(after(machine, Connected(2, 8192 + 39)))
    assert READY in said(after(machine, Connected(3, 8192 + 40)))


def test_an_update_finished_without_a_connection_is_said_on_the_next_one() -> None:
    machine = assigned()
    after(machine, OFFER, Fetched(7), Disconnected())
    assert said(after(machine, TRAINED)) == []
    assert READY in said(after(machine, Connected(2, 100_000)))


@pytest.mark.parametrize("verdict", [Verdict.COUNTED, Verdict.DUPLICATE, Verdict.LATE, Verdict.REFUSED])
def test_every_receipt_ends_the_round(verdict: str) -> None:
    machine = sending()
    effects = after(machine, Receipt(7, verdict, "holds NaN"))
    shown = ["the update of round 7 was refused: holds NaN"] if verdict == Verdict.REFUSED else []
    assert alarms(effects) == shown
    counts = verdict in (Verdict.COUNTED, Verdict.DUPLICATE)
    assert machine.saved == replace(KNOWN, last_round=7, counted=7 if counts else 0)


def test_an_update_that_was_counted_in_a_round_that_came_to_nothing_was_not_used() -> None:
    machine = sending()
    after(machine, Receipt(7, Verdict.COUNTED, ""))
    assert after(machine, Close(6, "aborted", 3), Close(7, "committed", 4)) == []
    assert machine.saved.counted == 7
    assert after(machine, Close(7, "aborted", 3)) == [SaveState(replace(KNOWN, last_round=7))]


@pytest.mark.parametrize(
    "message", [Withdraw(7, "closing"), Close(7, "aborted", 3), Close(8, "committed", 4), Receipt(7, "late", "")]
)
def test_a_round_that_is_over_stops_the_training(message: Message) -> None:
    machine = assigned()
    after(machine, OFFER, Fetched(7))
    assert after(machine, message) == [
        SaveState(replace(KNOWN, last_round=7)),
        CancelTimer(Timer.DEADLINE),
        StopTraining(7),
        ForgetUpdate(7),
    ]
    assert work(machine) is WorkState.IDLE


@pytest.mark.parametrize("message", [Withdraw(6, "closing"), Close(6, "aborted", 3), Receipt(6, "counted", "")])
def test_what_is_said_about_an_older_round_changes_nothing(message: Message) -> None:
    machine = sending()
    assert after(machine, message) == []
    assert work(machine) is WorkState.SENDING


@pytest.mark.parametrize("message", [Withdraw(7, "closing"), Close(7, "aborted", 3), Receipt(7, "counted", "")])
def test_what_is_said_about_a_round_to_an_idle_device_changes_nothing(message: Message) -> None:
    assert after(assigned(), message) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"round": 6}, "over"),
        ({"round": 5}, "over"),
        ({"layout": digest("other")}, "layout"),
        ({"tier": 1}, "tier"),
        ({"holds": (1,)}, "segments"),
        ({"holds": (0, 1)}, "segments"),
        ({"stages": ("clip", "noise")}, "stages"),
    ],
)
def test_an_offer_that_does_not_fit_is_declined_and_nothing_is_saved(change: dict[str, object], code: str) -> None:
    machine = assigned(stages=StageRules(denied=frozenset({"noise"})))
    effects = after(machine, replace(OFFER, **change))  # type: ignore[arg-type]  # a test names fields that exist
    assert len(effects) == 1
    (declined,) = said(effects)
    assert isinstance(declined, Decline)
    assert declined.code == code
    assert machine.saved == KNOWN


def test_an_offer_without_a_tier_is_declined() -> None:
    machine = connected(SavedDevice())
    assert said(after(machine, OFFER)) == [Decline(7, "no_tier", "this device has no tier yet")]


@pytest.mark.parametrize(
    ("rules", "objection"),
    [
        (StageRules(), ""),
        (StageRules(allowed=frozenset({"clip", "noise"})), ""),
        (StageRules(allowed=frozenset({"mask"})), "this device does not run the stage clip, noise"),
        (StageRules(denied=frozenset({"clip"})), "this device does not run the stage clip"),
        (StageRules(required=frozenset({"mask", "clip"})), "this device demands the stage mask"),
    ],
)
def test_the_plant_says_which_stages_may_and_must_run(rules: StageRules, objection: str) -> None:
    assert rules.objection(("clip", "noise")) == objection


def test_the_same_offer_again_is_accepted_again_and_not_trained_again() -> None:
    machine = assigned()
    after(machine, OFFER)
    again = [Say(Accept(7)), SetTimer(Timer.DEADLINE, 60.0)]
    assert after(machine, OFFER) == again
    after(machine, Fetched(7))
    assert after(machine, OFFER) == again
    after(machine, TRAINED)
    assert after(machine, OFFER)[0] == Say(READY)
    assert work(machine) is WorkState.SENDING


def test_a_newer_offer_replaces_older_work() -> None:
    machine = sending()
    newer = replace(OFFER, round=8)
    assert after(machine, newer) == [
        SaveState(replace(KNOWN, offer=newer)),
        CancelTimer(Timer.RESEND),
        ForgetUpdate(7),
        Say(Accept(8)),
        SetTimer(Timer.DEADLINE, 60.0),
        FetchSegments(newer),
    ]
    assert work(machine) is WorkState.FETCHING
    assert said(after(machine, OFFER)) == [
        Decline(7, "over", "this device is past round 7: it is in round 8 or done with it")
    ]


def test_what_an_abandoned_round_still_brings_is_thrown_away() -> None:
    machine = assigned()
    after(machine, OFFER, Fetched(7), replace(OFFER, round=8))
    assert after(machine, Fetched(7)) == []
    assert after(machine, TRAINED) == [ForgetUpdate(7)]
    assert after(machine, TrainFailed(7, "killed")) == []
    assert work(machine) is WorkState.FETCHING


def test_a_training_that_ends_twice_counts_once() -> None:
    machine = sending()
    assert after(machine, TRAINED) == []


@pytest.mark.parametrize(
    ("events", "code", "reason"),
    [
        ((FetchFailed(7, "disk full"),), "fetch", "the base model cannot be had: disk full"),
        ((Fetched(7), TrainFailed(7, "out of memory")), "train", "training failed: out of memory"),
        ((Fetched(7), TimerFired(Timer.DEADLINE)), "deadline", "not trained within 60 s"),
    ],
)
def test_work_that_fails_is_declined_and_may_be_offered_again(
    events: tuple[DeviceEvent, ...], code: str, reason: str
) -> None:
    machine = assigned()
    after(machine, OFFER)
    assert after(machine, *events) == [
        SaveState(KNOWN),
        CancelTimer(Timer.DEADLINE),
        StopTraining(7),
        ForgetUpdate(7),
        Say(Decline(7, code, reason)),
        Alarm(f"round 7: {reason}"),
    ]
    assert after(machine, OFFER)[-1] == FetchSegments(OFFER)


def test_a_deadline_does_not_touch_a_finished_update_nor_an_idle_device() -> None:
    assert after(sending(), TimerFired(Timer.DEADLINE)) == []
    assert after(assigned(), TimerFired(Timer.DEADLINE)) == []


def test_another_tier_ends_the_work_for_the_old_one() -> None:
    machine = assigned()
    after(machine, OFFER, HEAD)
    effects = after(machine, Assign(4, 1, "faster now"))
    assert effects[3:] == [
        SaveState(replace(KNOWN, tier=1, offer=OFFER)),
        Follow((0, 1)),
        SaveState(replace(KNOWN, tier=1, last_round=7)),
        CancelTimer(Timer.DEADLINE),
        StopTraining(7),
        ForgetUpdate(7),
        Say(Decline(7, "tier", "this device carries tier 1 now, the offer was for tier 0")),
        CancelTimer(Timer.INSTALL),
        Install(HEAD),
    ]


APART = replace(
    KEPT_SURVEY, tiers=(replace(TIERS[0], segments=(0, 2)), replace(TIERS[1], segments=(0, 1, 3)), *TIERS[2:])
)


def test_a_device_follows_the_segments_that_its_tier_holds_also_after_a_restart() -> None:
    machine = connected()
    after(machine, replace(APART, epoch=4), Probed(ABLE))
    assert Follow((0, 2)) in after(machine, Assign(4, 0, "fits"))
    saved = machine.saved
    assert saved.survey == APART
    assert after(device(saved), Started()) == [Follow((0, 2))]
    assert Follow((0, 1, 3)) in after(machine, Assign(4, 1, "faster now"))


def test_a_tier_beyond_the_survey_is_taken_for_a_prefix() -> None:
    assert replace(KNOWN, tier=5).segments == (0, 1, 2, 3, 4, 5)
    assert replace(KNOWN, survey=None).segments == (0,)
    assert NEW.segments == ()


def test_an_offer_of_the_tiers_own_segments_is_taken_and_one_of_others_is_declined() -> None:
    machine = device(replace(KNOWN, survey=APART))
    after(machine, Started(), Connected(2, 0))
    for number, holds in ((7, ()), (8, (0, 1)), (9, (0, 1, 2))):
        offer = replace(OFFER, round=number, holds=holds, segments=(digest("segment"),) * max(1, len(holds)))
        (declined,) = said(after(machine, offer))
        assert isinstance(declined, Decline)
        assert declined.code == "segments"
    offer = replace(OFFER, round=10, holds=(0, 2), segments=(digest("segment 0"), digest("segment 2")))
    assert said(after(machine, offer)) == [Accept(10)]


# ---- restarts -------------------------------------------------------------------------------------------------


def test_a_restart_during_training_trains_the_same_offer_again() -> None:
    machine = device(replace(KNOWN, offer=OFFER))
    assert after(machine, Started()) == [Follow((0,)), SetTimer(Timer.DEADLINE, 60.0), FetchSegments(OFFER)]
    assert said(after(machine, Connected(2, 0))) == [Hello(2, "wind", "mhfl-mq/test", LAYOUT, 7)]


def test_a_restart_with_a_finished_update_sends_it_and_does_not_train() -> None:
    saved = replace(KNOWN, offer=OFFER, update=MANIFEST, weight=2.0, metrics={"loss": 0.5})
    machine = device(saved)
    assert after(machine, Started()) == [Follow((0,))]
    assert work(machine) is WorkState.SENDING
    assert replace(READY, inline=b"") in said(after(machine, Connected(2, 0)))


def test_a_stop_ends_the_training_and_keeps_the_offer() -> None:
    machine = assigned()
    after(machine, OFFER, Fetched(7))
    assert after(machine, StopAsked()) == [StopTraining(7), Stop("asked to stop")]
    assert machine.saved.offer == OFFER
    assert after(assigned(), StopAsked()) == [Stop("asked to stop")]


def test_events_before_the_start_and_after_the_stop_are_misuse() -> None:
    machine = device()
    with pytest.raises(LocalMisuse, match="Connected in state 'new'"):
        after(machine, Connected(1, 0))
    after(machine, Started())
    with pytest.raises(LocalMisuse, match="Started in state 'offline'"):
        after(machine, Started())
    assert standing(machine) is Standing.OFFLINE
    after(machine, StopAsked())
    with pytest.raises(LocalMisuse, match="Connected in state 'stopped'"):
        after(machine, Connected(1, 0))


# ---- the head -------------------------------------------------------------------------------------------------


def test_a_head_is_installed_once_and_a_newer_one_replaces_it() -> None:
    machine = assigned()
    assert after(machine, HEAD) == [CancelTimer(Timer.INSTALL), Install(HEAD)]
    assert machine.installed is None
    assert after(machine, Installed(3)) == []
    assert machine.installed == 3
    assert after(machine, HEAD) == []
    assert after(machine, replace(HEAD, epoch=5)) == []
    assert machine.installed == 3
    rollback = replace(HEAD, epoch=5, version=4)
    assert after(machine, rollback)[-1] == Install(rollback)
    assert machine.installed == 3
    assert after(machine, HEAD) == []
    assert machine.head == rollback


def test_a_head_that_comes_before_the_tier_is_installed_with_it() -> None:
    machine = connected(replace(KNOWN, tier=None))
    assert after(machine, HEAD) == []
    assert after(machine, Assign(4, 0, "fits"))[-1] == Install(HEAD)


def test_a_head_of_another_layout_is_not_installed() -> None:
    assert after(assigned(), replace(HEAD, layout=digest("other"))) == []


def test_a_head_that_could_not_be_installed_is_tried_again() -> None:
    machine = assigned()
    after(machine, HEAD)
    assert after(machine, InstallFailed(3, "disk full")) == [
        Alarm("version 3 could not be installed: disk full"),
        SetTimer(Timer.INSTALL, 5.0),
    ]
    assert after(machine, TimerFired(Timer.INSTALL)) == [CancelTimer(Timer.INSTALL), Install(HEAD)]
    assert SetTimer(Timer.INSTALL, 10.0) in after(machine, InstallFailed(3, "disk full"))
    assert after(machine, InstallFailed(2, "disk full")) == []
    after(machine, Installed(3))
    assert after(machine, TimerFired(Timer.INSTALL)) == []


def test_a_failed_installation_of_no_known_head_is_nothing() -> None:
    assert after(assigned(), InstallFailed(3, "disk full")) == []


# ---- whatever else comes --------------------------------------------------------------------------------------


def test_every_message_is_acknowledged_once_and_last() -> None:
    machine = assigned()
    assert machine.handle(Heard("aggregator", OFFER, 41))[-1] == Ack(41)
    assert machine.handle(Heard("aggregator", OFFER, 0))[-1] != Ack(0)
    assert machine.handle(Heard("aggregator", Close(3, "aborted", 2), 42)) == [Ack(42)]
    assert machine.handle(Faulted("aggregator", "bad tag", 43))[-1] == Ack(43)


def test_garbage_is_shown_once_a_minute() -> None:
    machine = assigned()
    assert after(machine, Faulted("aggregator", "bad tag")) == [
        Alarm("aggregator sent what does not decode: bad tag"),
        SetTimer(Timer.QUIET, 60.0),
    ]
    assert after(machine, Faulted("aggregator", "bad tag")) == []
    assert after(machine, Faulted("aggregator", "too long")) == []
    assert after(machine, TimerFired(Timer.QUIET)) == [
        Alarm("2 more of this kind in 60 s, the last: aggregator sent what does not decode: too long"),
        SetTimer(Timer.QUIET, 60.0),
    ]
    assert after(machine, TimerFired(Timer.QUIET)) == []
    assert len(alarms(after(machine, Faulted("aggregator", "bad tag")))) == 1


def test_a_message_that_only_devices_send_is_shown() -> None:
    assert alarms(after(assigned(), Accept(7))) == ["the aggregator sent accept, which only devices send"]


def test_messages_of_the_blobs_are_left_to_their_own_machines() -> None:
    assert after(assigned(), Pull(digest("blob"), ())) == []


def test_a_timer_that_nobody_knows_is_nothing() -> None:
    assert after(assigned(), TimerFired("breakfast")) == []
