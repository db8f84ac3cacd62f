"""The federation machine, event by event: its start, its rounds, the head, and what it makes of bad messages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from mhfl_mq.errors import ConfigError, LocalMisuse
from mhfl_mq.protocol.effects import (
    Ack,
    AggregatorEffect,
    Alarm,
    Announce,
    CancelTimer,
    Fold,
    Merge,
    OpenFold,
    Persist,
    Release,
    SetTimer,
    ShareModel,
    Stop,
    Tell,
)
from mhfl_mq.protocol.events import (
    AggregatorEvent,
    Faulted,
    Heard,
    Merged,
    MergeFailed,
    RollbackAsked,
    Started,
    StopAsked,
    TimerFired,
    UpdateBad,
    UpdateStored,
)
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.numbers import Numbers
from mhfl_mq.protocol.pauses import Timer
from mhfl_mq.protocol.records import (
    DeviceSaved,
    Entry,
    EpochStarted,
    Fact,
    OpenRound,
    RoundClosed,
    RoundOpened,
    SavedState,
    UpdateCounted,
    VersionAdded,
)
from mhfl_mq.protocol.rules import Candidate, Rules, Upload
from mhfl_mq.protocol.states import FederationState
from mhfl_mq.testing.machines import LAYOUT, Everybody, digest, example_rules, manifest_of
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
)

PROBES = (ProbeResult("small", 0.1, 1000), ProbeResult("large", 0.2, 2000))
FIRST = VersionAdded(0, None, digest("model 0"), LAYOUT, "initial", None, {"accuracy/small": 0.2}, "")
SAVED = SavedState(
    epoch=3,
    last_round=6,
    rounds_opened=6,
    head=FIRST,
    devices=tuple(DeviceSaved(name, 5, 1, "fits", LAYOUT, 100, 0.0, PROBES) for name in ("ada", "bob")),
    turns={"ada": 2},
)
NOON = 1_800_000_000.0  # seconds since 1970
OPENED = RoundOpened(7, 0, example_rules().policy, 1, (("ada", 1), ("bob", 1)))


def ready(device: str, number: int = 7, **changes: object) -> UpdateReady:
    message = UpdateReady(number, 0, 2.0, manifest_of(f"update of {device}", 80), {"loss": 0.5}, b"")
    return replace(message, **changes)  # type: ignore[arg-type]  # a test names fields that exist


def counted(device: str) -> UpdateCounted:
    return UpdateCounted(7, device, 1, ready(device).manifest.blob_id, 80, 2.0, {"loss": 0.5})


class Bench:
    """A federation machine in a test's hands."""

    def __init__(self, saved: SavedState = SAVED, rules: Rules | None = None, decider: Everybody | None = None) -> None:
        self.rules = example_rules() if rules is None else rules
        self.decider = Everybody() if decider is None else decider
        self.machine = FederationMachine(self.rules, self.decider, saved)
        self.now = NOON
        self.pause = 0.0  # until the timer of the pause runs out

    def after(self, *events: AggregatorEvent | tuple[str, Message]) -> list[AggregatorEffect]:
        """The effects of the last of these events; a pair is a message heard from a device, without a token."""
        effects: list[AggregatorEffect] = []
        for event in events:
            if event == TimerFired(Timer.INTERVAL):
                self.now += self.pause
            effects = self.machine.handle(Heard(*event) if isinstance(event, tuple) else event, self.now)
            timers = [one.after_s for one in effects if isinstance(one, SetTimer) and one.name == Timer.INTERVAL]
            self.pause = timers[-1] if timers else self.pause
        return effects

    @property
    def state(self) -> FederationState:
        return self.machine.state

    def in_round(self) -> "Bench":
        """Round 7 is open with ada and bob."""
        self.after(Started(), ("ada", Presence(6, True, "d")), ("bob", Presence(6, True, "d")))
        return self

    def merging(self) -> "Bench":
        """Both updates are counted; the merge runs."""
        self.in_round()
        for device in ("ada", "bob"):
            self.after((device, ready(device)), UpdateStored(7, device, ready(device).manifest.blob_id))
        return self


def told(effects: Sequence[AggregatorEffect]) -> list[tuple[str, Message]]:
    return [(effect.device, effect.message) for effect in effects if isinstance(effect, Tell)]


def noted(effects: Sequence[AggregatorEffect]) -> list[Entry]:
    return [entry for effect in effects if isinstance(effect, Persist) for entry in effect.entries]


def kinds(effects: Sequence[AggregatorEffect]) -> list[str]:
    return [entry.kind for entry in noted(effects)]


# ---- start and stop -------------------------------------------------------------------------------------------


def test_a_first_start_persists_its_epoch_and_announces_the_head() -> None:
    bench = Bench(SavedState(head=FIRST))
    effects = bench.after(Started())
    (started,) = noted(effects)
    assert effects == [
        Persist((EpochStarted(1),), (started,)),
        ShareModel(0, FIRST.model, broadcast=False),
        Announce(Head(1, 0, LAYOUT, ())),
    ]
    assert started.kind == "aggregator.start"
    assert started.facts["epoch"] == 1
    assert started.facts["algorithm"] == "heterofl"
    assert "why" not in started.facts
    assert started.facts["open_round"] is None
    assert bench.state is FederationState.WAITING


@pytest.mark.parametrize(("made", "outcome", "said"), [(4, "committed", 4), (None, "aborted", 5)])
def test_a_restart_says_again_how_the_last_round_ended(made: int | None, outcome: str, said: int) -> None:
    """Also when the head is not of that round: a rollback came after it."""
    head = VersionAdded(5, 4, digest("model 3"), LAYOUT, "rollback", None, {}, "")
    closed = RoundClosed(6, outcome, "", made)
    effects = Bench(replace(SAVED, head=head, last_closed=closed)).after(Started())
    assert effects[-1] == Announce(Close(6, outcome, said))


def test_an_epoch_grows_over_a_lost_folder_when_the_driver_gives_its_clock() -> None:
    assert FederationMachine(example_rules(), Everybody(), SavedState(head=FIRST), first_epoch=999).epoch == 999
    assert FederationMachine(example_rules(), Everybody(), replace(SAVED, epoch=1000), first_epoch=999).epoch == 1001


def test_a_start_without_a_model_is_misuse() -> None:
    with pytest.raises(LocalMisuse, match="no model yet"):
        Bench(SavedState()).after(Started())


def test_a_model_of_another_layout_is_a_mistake_of_configuration() -> None:
    bench = Bench(replace(SAVED, head=replace(FIRST, layout=digest("other"))))
    with pytest.raises(ConfigError, match="begin with a new state folder"):
        bench.after(Started())
    assert bench.state is FederationState.NEW


def test_events_before_the_start_and_after_the_stop_are_misuse() -> None:
    bench = Bench()
    with pytest.raises(LocalMisuse, match="StopAsked in state 'new'"):
        bench.after(StopAsked())
    bench.after(Started())
    with pytest.raises(LocalMisuse, match="Started in state 'waiting'"):
        bench.after(Started())
    assert bench.after(StopAsked()) == [Stop("asked to stop")]
    with pytest.raises(LocalMisuse, match="TimerFired in state 'stopped'"):
        bench.after(TimerFired(Timer.INTERVAL))


def test_a_stop_leaves_an_open_round_open() -> None:
    bench = Bench().in_round()
    assert bench.after(StopAsked()) == [Stop("asked to stop")]
    assert bench.machine.round is not None
    assert not bench.machine.round.over


# ---- opening --------------------------------------------------------------------------------------------------


def test_a_round_opens_when_the_quorum_is_present_and_is_durable_before_it_is_offered() -> None:
    bench = Bench()
    bench.after(Started())
    assert bench.after(("ada", Presence(6, True, "d"))) == []
    effects = bench.after(("bob", Presence(6, True, "d")))
    offer = Offer(
        round=7,
        base=0,
        tier=1,
        layout=LAYOUT,
        segments=(),
        algorithm="heterofl",
        options={"steps": 4.0},
        stages=("clip",),
        policy=bench.rules.policy,
        deadline_s=60.0,
    )
    (opened,) = noted(effects)
    assert effects == [
        Persist((OPENED,), (opened,)),
        OpenFold(7, FIRST.model, 2),
        ShareModel(0, FIRST.model),
        SetTimer(Timer.DEADLINE, 60.0),
        Tell("ada", offer),
        Tell("bob", offer),
    ]
    assert opened.kind == "round.open"
    assert opened.facts["cohort"] == [["ada", "large"], ["bob", "large"]]
    assert bench.state is FederationState.IN_ROUND


def test_a_device_that_is_gone_or_has_no_tier_is_not_invited() -> None:
    strangers = (replace(SAVED.devices[0], device="cyd", tier=None), replace(SAVED.devices[0], device="dan"))
    bench = Bench(replace(SAVED, devices=SAVED.devices + strangers))
    bench.after(Started(), ("cyd", Presence(6, True, "d")), ("dan", Presence(6, True, "d")))
    bench.after(("dan", Presence(6, False, "d")), ("ada", Presence(6, True, "d")))
    assert bench.state is FederationState.WAITING
    bench.after(("bob", Presence(6, True, "d")))
    assert bench.machine.round is not None
    assert [device for device, _ in bench.machine.round.opened.cohort] == ["ada", "bob"]


def test_the_decider_may_hold_a_round_back() -> None:
    class Nobody(Everybody):
        def invite(self, candidates: tuple[tuple[str, int, int], ...], present: int) -> tuple[str, ...]:
            assert candidates == (("ada", 1, 2), ("bob", 1, 0))
            return ()

    bench = Bench(decider=Nobody())
    assert bench.in_round().state is FederationState.WAITING


def test_a_round_needs_at_least_one_update() -> None:
    bench = Bench(decider=Everybody(needed=0)).in_round()
    assert bench.machine.round is not None
    assert bench.machine.round.opened.needed == 1


# ---- ending ---------------------------------------------------------------------------------------------------


def test_a_merged_model_that_passes_the_gate_is_durable_with_the_rounds_end_and_then_goes_out() -> None:
    bench = Bench().merging()
    effects = bench.after(Merged(7, digest("model 1"), {"accuracy/small": 0.5, "loss": float("nan")}))
    version = VersionAdded(1, 0, digest("model 1"), LAYOUT, "round", 7, {"accuracy/small": 0.5}, "good")
    added, committed = noted(effects)
    assert effects == [
        Persist((version, RoundClosed(7, "committed", "good", 1, ("ada", "bob"))), (added, committed)),
        ShareModel(1, digest("model 1")),
        Announce(Head(4, 1, LAYOUT, ())),
        Announce(Close(7, "committed", 1)),
        Release(7),
        SetTimer(Timer.INTERVAL, 10.0),
    ]
    assert added == Entry(
        "model.add",
        {"version": 1, "parent": 0, "model": digest("model 1"), "round": 7, "metrics": {"accuracy/small": 0.5}},
    )
    assert committed == Entry("round.commit", {"round": 7, "version": 1, "devices": ["ada", "bob"], "gate": "good"})
    assert bench.state is FederationState.RESTING
    assert bench.machine.head == version


def test_a_largest_tier_that_is_worse_is_an_alarm_and_the_head_says_what_devices_had_better_use() -> None:
    decider = Everybody()
    decider.alarms, decider.use = ("tier large (0.4) is worse than the smaller tier small (0.9)",), (0, 0)
    effects = Bench(decider=decider).merging().after(Merged(7, digest("model 1"), {"accuracy/small": 0.9}))
    assert Alarm(decider.alarms[0]) in effects
    assert Announce(Head(4, 1, LAYOUT, (), (0, 0))) in effects


@pytest.mark.parametrize(
    ("event", "gate", "reason"),
    [
        (MergeFailed(7, "out of memory"), True, "the merge failed: out of memory"),
        (Merged(7, digest("model 1"), {}), False, "the gate said no: worse"),
    ],
)
def test_a_round_without_a_good_model_is_aborted(event: AggregatorEvent, gate: bool, reason: str) -> None:
    bench = Bench().merging()
    bench.decider.open_gate = gate
    effects = bench.after(event)
    (aborted,) = noted(effects)
    assert effects == [
        Persist((RoundClosed(7, "aborted", reason, None, ("ada", "bob")),), (aborted,)),
        CancelTimer(Timer.DEADLINE),
        Alarm(f"round 7 aborted: {reason}"),
        Announce(Close(7, "aborted", 0)),
        Release(7),
        SetTimer(Timer.INTERVAL, 10.0),
    ]
    assert aborted == Entry("round.abort", {"round": 7, "reason": reason, "counted": 2, "needed": 1})
    assert bench.machine.head == FIRST


def test_the_next_round_opens_after_the_interval_with_the_next_number() -> None:
    bench = Bench().merging()
    bench.after(Merged(7, digest("model 1"), {}))
    assert bench.after(("ada", Presence(6, True, "d"))) == []
    (persist, *_) = bench.after(TimerFired(Timer.INTERVAL))
    assert isinstance(persist, Persist)
    assert persist.changes == (replace(OPENED, round=8, base=1),)


def test_rounds_that_keep_failing_come_ever_less_often_until_one_succeeds() -> None:
    bench = Bench().in_round()
    bench.decider.pause = 1.0
    pauses = []
    for _ in range(11):
        effects = bench.after(TimerFired(Timer.DEADLINE))
        pauses += [effect.after_s for effect in effects if isinstance(effect, SetTimer)]
        bench.after(TimerFired(Timer.INTERVAL))
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 600.0, 600.0]
    number = bench.machine.last_round
    for device in ("ada", "bob"):
        bench.after((device, ready(device, number)), UpdateStored(number, device, ready(device).manifest.blob_id))
    assert bench.after(Merged(number, digest("model 1"), {}))[-1] == SetTimer(Timer.INTERVAL, 1.0)


def test_the_last_round_stops_the_aggregator_after_everything_is_out() -> None:
    bench = Bench(rules=example_rules(max_rounds=7)).merging()
    effects = bench.after(Merged(7, digest("model 1"), {}))
    assert effects[-2:] == [Release(7), Stop("7 rounds are done")]
    assert bench.state is FederationState.STOPPED


def test_a_restart_after_the_last_round_stops_at_once() -> None:
    assert Bench(rules=example_rules(max_rounds=6)).after(Started())[-1] == Stop("6 rounds are done")


# ---- restart with an open round -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passed_s", "left_s"),
    [(0.0, 60.0), (20.0, 40.0), (45.0, 30.0), (86_400.0, 30.0), (-45.0, 60.0)],
    ids=["at once", "soon", "near the deadline", "a day later", "the clock was set back"],
)
def test_a_round_that_is_resumed_has_the_deadline_of_its_opening_and_a_moment_for_who_returns(
    passed_s: float, left_s: float
) -> None:
    """Aggregators that are restarted again and again do not make their devices wait for ever."""
    saved = replace(SAVED, last_round=7, rounds_opened=7, open_round=OpenRound(OPENED, (counted("ada"),), NOON))
    bench = Bench(saved)
    bench.now = NOON + passed_s
    effects = bench.after(Started())
    assert [effect for effect in effects if isinstance(effect, SetTimer)] == [SetTimer(Timer.DEADLINE, left_s)]


def test_an_open_round_is_resumed_folded_and_receipted_again() -> None:
    saved = replace(SAVED, last_round=7, rounds_opened=7, open_round=OpenRound(OPENED, (counted("ada"),), NOON))
    bench = Bench(saved)
    assert bench.after(Started())[1:] == [
        ShareModel(0, FIRST.model, broadcast=False),
        Announce(Head(4, 0, LAYOUT, ())),
        OpenFold(7, FIRST.model, 2),
        Fold(7, "ada", 1, counted("ada").blob_id, 2.0),
        SetTimer(Timer.DEADLINE, 60.0),
        Tell("ada", Receipt(7, Verdict.COUNTED, "")),
    ]
    hello = Hello(6, "wind", "d", LAYOUT, 7)
    assert [type(message) for _, message in told(bench.after(("ada", hello)))] == [Assign]
    assert [type(message) for _, message in told(bench.after(("bob", hello)))] == [Assign, Offer]


def test_an_open_round_that_had_counted_everybody_is_closed_at_once() -> None:
    saved = replace(
        SAVED, last_round=7, rounds_opened=7, open_round=OpenRound(OPENED, (counted("ada"), counted("bob")), NOON)
    )
    assert Bench(saved).after(Started())[-2:] == [CancelTimer(Timer.DEADLINE), Merge(7)]


def test_an_open_round_of_another_policy_is_aborted() -> None:
    opened = replace(OPENED, policy=digest("old policy"))
    bench = Bench(replace(SAVED, last_round=7, rounds_opened=7, open_round=OpenRound(opened, (counted("ada"),), NOON)))
    effects = bench.after(Started())
    assert kinds(effects) == ["aggregator.start", "round.abort"]
    assert noted(effects)[1].facts["reason"] == "the policy was changed while the round was open"
    assert bench.state is FederationState.RESTING


# ---- rollback -------------------------------------------------------------------------------------------------

ROLLBACK = RollbackAsked(2, digest("model 2"), {"accuracy/small": 0.4}, "worse in the field", "eve")


def test_a_rollback_is_a_newer_version_with_older_weights() -> None:
    head = VersionAdded(5, 4, digest("model 5"), LAYOUT, "round", 6, {}, "")
    bench = Bench(replace(SAVED, head=head))
    bench.after(Started())
    added = VersionAdded(
        6, 5, digest("model 2"), LAYOUT, "rollback", None, {"accuracy/small": 0.4}, "worse in the field"
    )
    effects = bench.after(ROLLBACK)
    facts: dict[str, Fact] = {
        "version": 6,
        "to": 2,
        "from": 5,
        "model": digest("model 2"),
        "reason": "worse in the field",
        "who": "eve",
    }
    assert effects == [
        Persist((added,), (Entry("model.rollback", facts),)),
        ShareModel(6, digest("model 2")),
        Announce(Head(4, 6, LAYOUT, ())),
    ]
    assert bench.after(ROLLBACK) == []
    assert bench.state is FederationState.WAITING


def test_a_rollback_aborts_the_open_round_and_the_next_one_starts_from_it() -> None:
    bench = Bench().in_round()
    effects = bench.after(ROLLBACK)
    assert kinds(effects) == ["round.abort", "model.rollback"]
    assert SetTimer(Timer.INTERVAL, 10.0) in effects
    assert bench.state is FederationState.RESTING
    bench.after(TimerFired(Timer.INTERVAL))
    assert bench.machine.round is not None
    assert bench.machine.round.opened.base == 1


def test_what_a_round_that_was_rolled_back_still_brings_is_thrown_away() -> None:
    bench = Bench().merging()
    bench.after(ROLLBACK)
    assert bench.after(Merged(7, digest("model of 7"), {})) == []
    assert bench.after(UpdateStored(7, "ada", "x"), UpdateBad(7, "ada", "x"), MergeFailed(7, "x")) == []
    bench.after(TimerFired(Timer.INTERVAL))
    assert bench.after(Merged(7, digest("model of 7"), {})) == []
    assert bench.after(Merged(8, digest("model of 8"), {})) == []


# ---- a lost state folder --------------------------------------------------------------------------------------


def test_a_device_that_was_in_a_later_round_shows_that_numbers_are_used_up() -> None:
    bench = Bench(rules=example_rules(max_rounds=8))
    bench.after(Started())
    effects = bench.after(("ada", Hello(6, "wind", "d", LAYOUT, 57)))
    assert effects[0] == Persist(entries=(Entry("round.skip", {"device": "ada", "known": 6, "heard": 57}),))
    assert isinstance(effects[1], Alarm)
    bench.after(("bob", Hello(6, "wind", "d", LAYOUT, 57)))
    assert bench.machine.last_round == 58
    for device in ("ada", "bob"):
        bench.after((device, ready(device, 58)), UpdateStored(58, device, ready(device).manifest.blob_id))
    assert bench.after(Merged(58, digest("model 1"), {}))[-1] == SetTimer(Timer.INTERVAL, 10.0)


def test_numbers_that_were_skipped_are_no_rounds_of_a_bounded_run_also_after_a_restart() -> None:
    """Of 40 rounds asked for, 2 were opened here: a device that was in round 900 of a lost folder ends nothing."""
    saved = replace(SAVED, last_round=901, rounds_opened=2)
    bench = Bench(saved, example_rules(max_rounds=40))
    assert not any(isinstance(effect, Stop) for effect in bench.after(Started()))
    last = Bench(replace(saved, rounds_opened=40), example_rules(max_rounds=40))
    assert last.after(Started())[-1] == Stop("40 rounds are done")


@pytest.mark.parametrize("hello", [Hello(6, "sun", "d", LAYOUT, 57), Hello(6, "wind", "d", LAYOUT, 57)])
def test_a_device_that_is_refused_uses_up_no_number(hello: Hello) -> None:
    bench = Bench()
    bench.after(Started())
    bench.decider.tier = 1 if hello.task == "sun" else None
    assert isinstance(told(bench.after(("ada", hello)))[-1][1], Refuse)
    assert bench.machine.last_round == 6


def test_a_device_that_is_new_to_us_uses_up_its_numbers_when_it_has_a_tier() -> None:
    bench = Bench(SavedState(head=FIRST))
    bench.after(Started())
    assert isinstance(told(bench.after(("eve", Hello(6, "wind", "d", "", 57))))[-1][1], Survey)
    assert bench.machine.last_round == 0
    effects = bench.after(("eve", Capability(6, LAYOUT, 100, 0.0, PROBES)))
    assert kinds(effects) == ["round.skip", "device.assign"]
    assert bench.machine.last_round == 57


@pytest.mark.parametrize("known", [6, 2**63 - 1_000_000])
def test_a_device_cannot_use_up_all_numbers(known: int) -> None:
    bench = Bench(replace(SAVED, last_round=known))
    bench.after(Started())
    effects = bench.after(("ada", Hello(6, "wind", "d", LAYOUT, 2**63 - 2)))
    assert kinds(effects) == ["peer.fault", *kinds(effects)[1:]]
    assert isinstance(told(effects)[-1][1], Assign)
    assert bench.machine.last_round == known


def test_claims_of_devices_that_never_join_take_no_memory_for_ever() -> None:
    numbers = Numbers(last=6, opened=6)
    for number in range(5000):
        assert numbers.claim(f"device {number}", 57)
    assert numbers.skip("device 0") is None
    assert numbers.skip("device 4999") == 6
    assert numbers.skip("device 4998") is None  # no later than what is known by now


# ---- messages that are late or wrong --------------------------------------------------------------------------


def test_an_update_of_a_round_that_is_over_is_late() -> None:
    bench = Bench().merging()
    bench.after(Merged(7, digest("model 1"), {}))
    effects = bench.after(("cyd", ready("cyd")))
    assert effects == [
        Persist(entries=(Entry("update.late", {"round": 7, "device": "cyd"}),)),
        Tell("cyd", Receipt(7, Verdict.LATE, "round 7 is over")),
    ]
    assert bench.after(("cyd", ready("cyd"))) == effects[1:]


def test_a_device_that_lost_its_receipt_hears_that_its_update_is_in_the_head() -> None:
    bench = Bench().merging()
    bench.after(Merged(7, digest("model 1"), {}))
    duplicate = [Tell("ada", Receipt(7, Verdict.DUPLICATE, ""))]
    assert bench.after(("ada", ready("ada"))) == duplicate
    closed = RoundClosed(7, "committed", "", 1)
    saved = replace(SAVED, last_round=7, last_closed=closed, latest=(counted("ada"), counted("bob")))
    restarted = Bench(saved)
    restarted.after(Started())
    assert restarted.after(("ada", ready("ada"))) == duplicate


def test_an_update_that_was_counted_in_an_aborted_round_is_late_for_it_is_in_no_model() -> None:
    bench = Bench().merging()
    bench.decider.open_gate = False
    bench.after(Merged(7, digest("model 1"), {}))
    assert told(bench.after(("ada", ready("ada")))) == [("ada", Receipt(7, Verdict.LATE, "round 7 is over"))]


# ---- how updates travel ---------------------------------------------------------------------------------------


class Slow(Everybody):
    """Everybody sends int8; who said that it changed little, every four rounds."""

    def __init__(self, needed: int = 1) -> None:
        super().__init__(needed)
        self.asked: list[tuple[int, float, float | None]] = []

    def upload(self, tier: int, link_bytes_s: float, change: float | None) -> Upload:
        self.asked.append((tier, link_bytes_s, change))
        every = 1 if change is None or change > 0.1 else 4
        return Upload({"precision": 8.0, "top_k": 1.0}, every, "int8: slow")

    def invite(self, candidates: tuple[Candidate, ...], present: int) -> tuple[str, ...]:
        return super().invite(candidates, present) if len(candidates) >= self.quorum else ()


def invited(effects: Sequence[AggregatorEffect]) -> dict[str, Mapping[str, float]]:
    """Who hears an offer, and with which numbers."""
    return {device: message.options for device, message in told(effects) if isinstance(message, Offer)}


def test_an_offer_says_how_to_send_and_the_ledger_says_why() -> None:
    bench = Bench(decider=Slow())
    bench.after(Started(), ("ada", Presence(6, True, "d")))
    effects = bench.after(("bob", Presence(6, True, "d")))
    numbers = {"steps": 4.0, "precision": 8.0, "top_k": 1.0}
    assert invited(effects) == {"ada": numbers, "bob": numbers}
    (entry,) = noted(effects)
    assert entry.facts["uploads"] == {"ada": "int8: slow", "bob": "int8: slow"}


def test_a_restart_offers_in_the_same_way() -> None:
    opened = replace(SAVED, last_round=7, open_round=OpenRound(OPENED, (), NOON))
    bench = Bench(opened, decider=Slow())
    bench.after(Started())
    again = bench.after(("ada", Hello(6, "wind", "d", LAYOUT, 6)))
    assert invited(again)["ada"]["precision"] == 8.0


def rounds_of(bench: Bench, count: int) -> list[set[str]]:
    """Who is invited to each of the next rounds, when everybody whose update is waited for sends one."""
    found = []
    effects = bench.after(Started(), ("ada", Presence(6, True, "d")), ("bob", Presence(6, True, "d")))
    for number in range(7, 7 + count):
        found.append(set(invited(effects)))
        base = bench.machine.head.version
        for device in sorted(found[-1]):
            message = ready(device, number, base=base, metrics={"change": 0.5 if device == "ada" else 0.05})
            bench.after((device, message), UpdateStored(number, device, message.manifest.blob_id))
        bench.after(Merged(number, digest(f"model {number}"), {}))
        effects = bench.after(TimerFired(Timer.INTERVAL))
    return found


def test_a_device_that_is_not_due_is_not_invited() -> None:
    found = rounds_of(Bench(decider=Slow()), 13)
    assert found[0] == {"ada", "bob"}
    assert all("ada" in one for one in found)
    assert [sum("bob" in one for one in found[at : at + 4]) for at in range(1, 10)] == [1] * 9  # it changed little


def test_where_too_few_are_due_for_a_round_the_others_are_asked_as_well() -> None:
    assert all(one == {"ada", "bob"} for one in rounds_of(Bench(decider=Slow(needed=2)), 6))


def test_what_a_device_changed_is_known_after_a_restart() -> None:
    decider = Slow()
    told_before = replace(counted("ada"), round=6, metrics={"change": 0.25})
    bench = Bench(replace(SAVED, latest=(told_before,)), decider=decider)
    bench.in_round()
    assert (1, 0.0, 0.25) in decider.asked
    assert (1, 0.0, None) in decider.asked


def test_an_update_of_a_round_that_never_was_is_refused() -> None:
    bench = Bench().in_round()
    effects = bench.after(("ada", ready("ada", 8)))
    assert kinds(effects) == ["update.refuse"]
    assert told(effects) == [("ada", Receipt(8, Verdict.REFUSED, "round 8 was never offered"))]


def test_an_update_that_is_stored_after_the_round_closed_counts_nowhere() -> None:
    bench = Bench().in_round()
    bench.after(("ada", ready("ada")), UpdateStored(7, "ada", ready("ada").manifest.blob_id))
    bench.after(("bob", ready("bob")), TimerFired(Timer.DEADLINE))
    assert bench.after(UpdateStored(7, "bob", ready("bob").manifest.blob_id)) == []
    bench.after(Merged(7, digest("model 1"), {}))
    assert bench.machine.members.candidates(LAYOUT) == (("ada", 1, 3), ("bob", 1, 1))  # both had their turn


@pytest.mark.parametrize("message", [Accept(6), Decline(6, "train", "no"), Accept(8)])
def test_answers_to_other_rounds_change_nothing(message: Message) -> None:
    assert Bench().in_round().after(("ada", message)) == []
    bench = Bench()
    bench.after(Started())
    assert bench.after(("ada", message)) == []


def test_every_message_is_acknowledged_once_and_last() -> None:
    bench = Bench().in_round()
    assert bench.machine.handle(Heard("ada", Accept(7), 41), NOON) == [Ack(41)]
    assert bench.machine.handle(Heard("bob", Decline(7, "train", "no"), 42), NOON)[-1] == Ack(42)
    assert bench.machine.handle(Faulted("ada", "bad tag", 43), NOON)[-1] == Ack(43)


def test_a_flood_of_garbage_fills_neither_the_ledger_nor_the_screen() -> None:
    bench = Bench().in_round()
    assert bench.after(Faulted("ada", "bad\ntag")) == [
        Persist(entries=(Entry("peer.fault", {"device": "ada", "what": "bad tag"}),)),
        Alarm("ada: bad tag"),
        SetTimer(Timer.QUIET, 60.0),
    ]
    assert bench.after(Faulted("ada", "bad tag")) == []
    assert kinds(bench.after(Faulted("bob", "bad tag"))) == ["peer.fault"]
    assert bench.after(TimerFired(Timer.QUIET))[0] == Alarm("2 more of this kind in 60 s, the last: bob: bad tag")
    bench.after(TimerFired(Timer.DEADLINE), TimerFired(Timer.INTERVAL))
    assert kinds(bench.after(Faulted("ada", "bad tag"))) == ["peer.fault"]


def test_a_flood_from_many_senders_is_noted_so_many_times_and_no_more() -> None:
    bench = Bench().in_round()
    entries = sum(len(noted(bench.after(Faulted(f"ghost-{index}", "bad tag")))) for index in range(5000))
    assert entries == 4096


def test_a_message_that_only_the_aggregator_sends_is_a_fault() -> None:
    effects = Bench().in_round().after(("ada", Close(7, "aborted", 0)))
    assert noted(effects) == [
        Entry("peer.fault", {"device": "ada", "what": "sent close, which only the aggregator sends"})
    ]


def test_messages_of_the_blobs_are_left_to_their_own_machines() -> None:
    assert Bench().in_round().after(("ada", Pull(digest("blob"), ()))) == []


@pytest.mark.parametrize("timer", [Timer.DEADLINE, Timer.INTERVAL, "breakfast"])
def test_a_timer_that_was_overtaken_is_nothing(timer: str) -> None:
    bench = Bench()
    bench.after(Started())
    assert bench.after(TimerFired(timer)) == []
    assert Bench().merging().after(TimerFired(timer)) == []


def test_a_capability_counts_for_the_round_to_come() -> None:
    bench = Bench(SavedState(head=FIRST))
    bench.after(Started(), ("ada", Capability(1, LAYOUT, 100, 0.0, PROBES)))
    assert bench.state is FederationState.WAITING
    bench.after(("bob", Capability(1, LAYOUT, 100, 0.0, PROBES)))
    assert bench.machine.round is not None
