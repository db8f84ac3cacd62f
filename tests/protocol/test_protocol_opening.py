"""When the federation machine opens rounds: it asks the schedule, and looks again when the schedule's word changes."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mhfl_mq.protocol.effects import Adopt, AggregatorEffect, Alarm, Persist, SetTimer, Tell
from mhfl_mq.protocol.events import (
    AggregatorEvent,
    Heard,
    Merged,
    PolicyAsked,
    RollbackAsked,
    Started,
    TimerFired,
    UpdateStored,
)
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.pauses import Timer
from mhfl_mq.protocol.records import DeviceSaved, Entry, PastSaved, SavedState, UploadSaved, VersionAdded
from mhfl_mq.protocol.rules import Asked, May, Opening, Rules
from mhfl_mq.testing.machines import LAYOUT, Everybody, digest, example_rules, manifest_of
from mhfl_mq.wire.messages import Assign, Facts, Message, Offer, Presence, ProbeResult, UpdateReady

PROBES = (ProbeResult("small", 0.1, 1), ProbeResult("large", 0.2, 2))
SAVED = SavedState(
    head=VersionAdded(0, None, digest("model 0"), LAYOUT, "initial", None, {}, ""),
    devices=tuple(DeviceSaved(name, 1, 1, "fits", LAYOUT, 10, 0.0, PROBES) for name in ("ada", "bob")),
)
OPENS, CLOSES = 1000.0, 2000.0


def window(now: float, _committed_at: float | None) -> Opening:
    """Rounds may begin from `OPENS` to `CLOSES`."""
    if now < OPENS:
        return Opening(False, OPENS - now, "not yet")
    return Opening(True, CLOSES - now, "in the window") if now < CLOSES else Opening(False, None, "never again")


class Bench:
    """A federation machine under a schedule, with a clock in the test's hand."""

    def __init__(self, saved: SavedState = SAVED, rules: Rules | None = None) -> None:
        self.decider = Everybody()
        self.decider.schedule = window
        self.machine = FederationMachine(example_rules() if rules is None else rules, self.decider, saved)
        self.now = 0.0

    def after(self, *events: AggregatorEvent | tuple[str, Message]) -> list[AggregatorEffect]:
        """The effects of all of these events."""
        effects: list[AggregatorEffect] = []
        for event in events:
            effects += self.machine.handle(Heard(*event) if isinstance(event, tuple) else event, self.now)
        return effects

    @property
    def state(self) -> str:
        return self.machine.state.value

    def at(self, now: float) -> list[AggregatorEffect]:
        """The timer of the pause runs out at this time."""
        self.now = now
        return self.after(TimerFired(Timer.INTERVAL))

    def here(self, *devices: str) -> list[AggregatorEffect]:
        return self.after(*((device, Presence(2, True, "d")) for device in devices))

    def finish_round(self) -> list[AggregatorEffect]:
        """Both devices deliver, and the merge makes a model."""
        one = self.machine.round
        assert one is not None
        for device in ("ada", "bob"):
            manifest = manifest_of(f"{device} {one.number}", 80)
            ready = UpdateReady(one.number, one.opened.base, 1.0, manifest, {})
            self.after((device, ready), UpdateStored(one.number, device, manifest.blob_id))
        return self.after(Merged(one.number, digest(f"of {one.number}")))


def timers(effects: Sequence[AggregatorEffect]) -> list[float]:
    return [one.after_s for one in effects if isinstance(one, SetTimer) and one.name == Timer.INTERVAL]


def offers(effects: Sequence[AggregatorEffect]) -> set[str]:
    return {one.device for one in effects if isinstance(one, Tell) and isinstance(one.message, Offer)}


def noted(effects: Sequence[AggregatorEffect], kind: str) -> list[Entry]:
    entries = [entry for one in effects if isinstance(one, Persist) for entry in one.entries]
    return [entry for entry in entries if entry.kind == kind]


def test_nobody_is_invited_before_the_schedule_allows_a_round() -> None:
    bench = Bench()
    bench.now = 900.0
    started = bench.after(Started())
    assert timers(started) == [100.0]
    assert bench.state == "resting"
    assert offers(bench.here("ada", "bob")) == set()
    assert timers(bench.at(999.0)) == [1.0]  # a timer that was early is set again
    assert offers(bench.at(OPENS)) == {"ada", "bob"}
    assert not noted(started, "round.miss")


def test_the_schedule_is_asked_again_after_ten_minutes_at_most_because_clocks_are_set() -> None:
    bench = Bench()
    assert timers(bench.after(Started())) == [600.0]
    bench.here("ada", "bob")
    assert offers(bench.at(OPENS + 5.0)) == {"ada", "bob"}  # ten minutes by the timer, and the clock was set forward


def test_a_round_that_ends_after_the_window_is_not_followed_by_another() -> None:
    bench = Bench()
    bench.now = CLOSES - 1.0
    bench.after(Started())
    assert offers(bench.here("ada", "bob")) == {"ada", "bob"}
    bench.now = CLOSES + 30.0
    assert timers(bench.finish_round()) == [10.0]  # the interval, as after every round
    effects = bench.at(CLOSES + 40.0)
    assert offers(effects) == set()
    assert bench.state == "resting"
    assert [one.text for one in effects if isinstance(one, Alarm)] == ["never again"]
    assert timers(effects) == [600.0]
    assert not any(isinstance(one, Alarm) for one in bench.at(CLOSES + 640.0))  # said once


def test_a_window_that_closes_while_devices_are_missing_is_a_missed_round_in_the_ledger() -> None:
    bench = Bench()
    bench.now = 1500.0
    assert timers(bench.after(Started())) == [500.0]
    assert offers(bench.here("ada")) == set()
    assert bench.state == "waiting"
    (missed,) = noted(bench.at(CLOSES), "round.miss")
    assert missed.facts == {"present": 1, "needed": 2, "why": "never again"}
    assert bench.state == "resting"
    assert offers(bench.here("bob")) == set()


def test_the_pause_timer_means_nothing_while_a_round_is_open() -> None:
    bench = Bench()
    bench.now = 1500.0
    bench.after(Started())
    bench.here("ada", "bob")
    assert bench.at(CLOSES) == []
    assert bench.state == "in round"


@pytest.mark.parametrize("how", ["committed", "aborted"])
def test_the_schedule_is_told_when_the_last_round_that_made_a_version_began(how: str) -> None:
    asked: list[float | None] = []

    def schedule(now: float, committed_at: float | None) -> Opening:
        asked.append(committed_at)
        return Opening(True)

    bench = Bench()
    bench.decider.schedule = schedule
    bench.now = 50.0
    bench.after(Started())
    bench.here("ada", "bob")
    bench.now = 90.0
    if how == "committed":
        bench.finish_round()
    else:
        bench.after(TimerFired(Timer.DEADLINE))
    bench.at(100.0)
    assert asked == [None, 50.0 if how == "committed" else None]


def test_a_restart_goes_on_with_what_the_last_life_knew_of_the_last_round() -> None:
    asked: list[float | None] = []
    bench = Bench(replace(SAVED, committed_at=77.0))

    def schedule(_now: float, committed_at: float | None) -> Opening:
        asked.append(committed_at)
        return Opening(True)

    bench.decider.schedule = schedule
    bench.after(Started())
    assert asked == [77.0]


def test_the_pause_is_the_deciders_for_each_round() -> None:
    bench = Bench(replace(SAVED, last_round=6))
    bench.decider.pause_s = float  # type: ignore[method-assign,assignment]  # so many seconds as the round's number
    bench.now = 1500.0
    bench.after(Started())
    bench.here("ada", "bob")
    assert timers(bench.finish_round()) == [7.0]
    assert bench.machine.pace.opening.why == "the pause after the last round"


def test_a_pause_that_began_in_the_future_is_over() -> None:
    """The clock was set back."""
    bench = Bench()
    bench.now = 1500.0
    bench.after(Started())
    bench.here("ada", "bob")
    bench.finish_round()
    assert offers(bench.at(1499.0)) == {"ada", "bob"}


def test_a_rollback_in_a_round_rests_as_after_a_round() -> None:
    bench = Bench()
    bench.now = 1500.0
    bench.after(Started())
    bench.here("ada", "bob")
    assert timers(bench.after(RollbackAsked(0, digest("model -1"), {}, "worse", "op"))) == [10.0]


# ---- who may be invited ---------------------------------------------------------------------------------------


def always(_now: float, _committed_at: float | None) -> Opening:
    return Opening(True)


def test_a_device_that_a_rule_keeps_out_is_not_invited_and_the_ledger_counts_it_by_rule() -> None:
    bench = Bench(rules=example_rules(quorum_min=1))
    bench.decider.schedule = always
    bench.decider.rule = lambda asked, _rounds, _now: May("enough-memory" if asked.device == "ada" else "")
    effects = bench.after(Started()) + bench.here("ada", "bob")
    assert offers(effects) == {"bob"}
    assert noted(effects, "round.open")[0].facts["out"] == {"enough-memory": 1}


def test_when_all_are_out_the_machine_asks_again_when_waiting_alone_lets_the_first_in() -> None:
    bench = Bench()
    bench.decider.schedule = always
    free = {"ada": 130.0, "bob": 150.0}
    bench.decider.rule = lambda asked, _rounds, now: (
        May() if now >= free[asked.device] else May("min_interval", free[asked.device])
    )
    bench.now = 100.0
    bench.after(Started())
    effects = bench.here("ada", "bob")
    assert timers(effects) == [30.0]
    assert bench.machine.eligibility.out == {"ada": "min_interval", "bob": "min_interval"}
    bench.here("ada")  # the same again: the timer runs already
    assert timers(bench.here("ada")) == []
    assert timers(bench.at(130.0)) == [20.0]  # one is not enough for a round
    assert offers(bench.at(150.0)) == {"ada", "bob"}


def test_where_no_rule_is_about_single_devices_nobody_is_asked_about() -> None:
    bench = Bench()
    bench.decider.schedule = always
    bench.decider.selective = False
    bench.decider.rule = lambda _asked, _rounds, _now: May("never asked")
    bench.after(Started())
    assert offers(bench.here("ada", "bob")) == {"ada", "bob"}


def test_a_device_is_asked_about_again_when_it_is_heard_when_its_time_has_come_and_after_a_round() -> None:
    asked: list[str] = []

    def rule(one: Asked, _rounds: int, now: float) -> May:
        asked.append(one.device)
        return May() if now >= 130.0 else May("rest", 130.0)

    bench = Bench()
    bench.decider.schedule = always
    bench.decider.rule = rule
    bench.now = 100.0
    bench.after(Started())
    bench.here("ada", "bob")
    assert asked == ["ada", "bob"]
    bench.after(("eve", Facts({"idle": 1.0})))  # of a stranger
    assert asked == ["ada", "bob"]
    bench.after(("ada", Facts({"idle": 1.0})))
    assert asked == ["ada", "bob", "ada"]
    bench.at(130.0)
    assert asked == ["ada", "bob", "ada", "ada", "bob"]
    bench.finish_round()
    bench.at(140.0)
    assert asked[5:] == ["ada", "bob"]


def test_a_rule_that_no_waiting_fulfils_sets_no_timer() -> None:
    bench = Bench()
    bench.decider.schedule = always
    bench.decider.rule = lambda _asked, _rounds, _now: May("press-line")
    assert timers(bench.after(Started()) + bench.here("ada", "bob")) == []


def test_a_missed_round_says_which_rules_kept_devices_out() -> None:
    bench = Bench()
    bench.decider.rule = lambda asked, _rounds, _now: May("idle" if asked.device == "ada" else "")
    bench.now = 1500.0
    bench.after(Started())
    bench.here("ada", "bob")
    (missed,) = noted(bench.at(CLOSES), "round.miss")
    assert missed.facts == {"present": 2, "needed": 2, "why": "never again", "out": {"idle": 1}}


def test_the_decider_is_told_what_a_device_said_and_did() -> None:
    asked: list[Asked] = []

    def rule(one: Asked, _rounds: int, _now: float) -> May:
        asked.append(one)
        return May()

    bench = Bench(replace(SAVED, turns={"ada": 4}, pasts={"ada": PastSaved(7.0, 2)}))
    bench.decider.schedule = always
    bench.decider.rule = rule
    bench.now = 300.0
    bench.after(Started(), ("ada", Facts({"ram_gb": 2.0}, {"os": ("linux",)})))
    bench.now = 310.0
    bench.here("ada", "bob")
    ada, bob = asked
    said = (Facts({"ram_gb": 2.0}, {"os": ("linux",)}), 300.0)
    assert ada == Asked("ada", 1, 4, PastSaved(7.0, 2), 10, 0.0, said, 0)
    assert (bob.said, bob.past) == (None, PastSaved())


def test_a_round_that_ended_is_in_the_past_of_those_who_had_their_turn() -> None:
    bench = Bench()
    bench.decider.schedule = always
    bench.now = 100.0
    bench.after(Started())
    bench.here("ada", "bob")
    one = bench.machine.round
    assert one is not None
    manifest = manifest_of("ada", 80)
    bench.now = 120.0
    ready = UpdateReady(one.number, 0, 1.0, manifest, {"seconds": 3.0})
    bench.after(("ada", ready), UpdateStored(one.number, "ada", manifest.blob_id))
    bench.now = 160.0
    bench.after(TimerFired(Timer.DEADLINE), Merged(one.number, digest("new")))
    assert bench.machine.members.past("ada") == PastSaved(100.0, 0, (UploadSaved(0.0, 80, 3.0),), 3.0)
    assert bench.machine.members.past("bob") == PastSaved(100.0, 1)
    assert bench.machine.rounds == 1


# ---- another policy -------------------------------------------------------------------------------------------


def ask(bench: Bench, **changes: object) -> PolicyAsked:
    """Other rules, under a decider that is asked for everything from then on."""
    decider = Everybody()
    decider.schedule = always
    rules = example_rules(policy=digest("other policy"), **changes)
    return PolicyAsked(rules, decider, {"policy": rules.policy, "who": "ana"})


def test_another_policy_counts_at_once_between_rounds_and_is_in_the_ledger_before_it_is_adopted() -> None:
    bench = Bench()
    bench.now = 500.0  # before the window of the running policy
    bench.after(Started())
    bench.here("ada", "bob")
    effects = bench.after(ask(bench, deadline_s=30.0))
    (written,) = noted(effects, "policy.apply")
    assert written.facts == {"policy": digest("other policy"), "who": "ana", "from_round": 1}
    kinds = [type(one) for one in effects]
    assert kinds.index(Persist) < kinds.index(Adopt)
    assert offers(effects) == {"ada", "bob"}
    assert noted(effects, "round.open")[0].facts["policy"] == digest("other policy")
    assert SetTimer(Timer.DEADLINE, 30.0) in effects


def test_an_open_round_ends_under_the_rules_that_it_was_opened_with() -> None:
    bench = Bench()
    bench.now = 1500.0
    bench.after(Started())
    bench.here("ada", "bob")
    before = bench.machine.rules.policy
    effects = bench.after(ask(bench, deadline_s=99.0))
    assert len(noted(effects, "policy.apply")) == 1
    assert bench.machine.rules.policy == before
    assert bench.machine.round is not None
    bench.finish_round()
    assert bench.machine.rules.policy == digest("other policy")
    assert bench.machine.head.version == 1


def test_a_device_whose_tier_no_longer_fits_is_told_when_the_policy_counts() -> None:
    bench = Bench()
    bench.now = 500.0
    bench.after(Started())
    bench.here("ada")
    asked = ask(bench)
    assert isinstance(asked.decider, Everybody)
    asked.decider.tier = 0
    effects = bench.after(asked)
    assigned = [one for one in effects if isinstance(one, Tell) and isinstance(one.message, Assign)]
    assert [(one.device, one.message.tier) for one in assigned] == [("ada", 0)]  # type: ignore[union-attr]
    assert len(noted(effects, "device.assign")) == 1
    again = bench.after(ask(bench))  # tier 1 again
    assert [one.message.tier for one in again if isinstance(one, Tell) and isinstance(one.message, Assign)] == [1]


def test_a_policy_that_is_applied_in_the_pause_between_rounds_begins_none() -> None:
    bench = Bench()
    bench.now = 1500.0
    bench.after(Started())
    bench.here("ada", "bob")
    bench.finish_round()
    bench.now = 1503.0
    effects = bench.after(ask(bench))
    assert offers(effects) == set()
    assert timers(effects) == [7.0]
    assert offers(bench.at(1510.0)) == {"ada", "bob"}


def test_a_policy_that_forbids_rounds_now_ends_the_waiting() -> None:
    bench = Bench()
    bench.now = 1500.0
    bench.after(Started())
    assert bench.state == "waiting"
    asked = ask(bench)
    assert isinstance(asked.decider, Everybody)
    asked.decider.schedule = lambda _now, _committed_at: Opening(False, 60.0, "later")
    assert timers(bench.after(asked)) == [60.0]
    assert bench.state == "resting"
