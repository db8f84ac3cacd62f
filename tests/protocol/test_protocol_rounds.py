"""One round, event by event: what is fetched, counted, refused, and when it closes."""

from dataclasses import replace

import pytest

from mhfl_mq.protocol.effects import (
    AggregatorEffect,
    CancelTimer,
    DropFetch,
    FetchUpdate,
    Fold,
    Merge,
    Persist,
    Tell,
)
from mhfl_mq.protocol.events import Merged, UpdateBad, UpdateStored
from mhfl_mq.protocol.pauses import Once, Timer
from mhfl_mq.protocol.records import Entry, Fact, RoundClosed, RoundOpened, UpdateCounted
from mhfl_mq.protocol.rounds import Round
from mhfl_mq.protocol.rules import Decider, Rules
from mhfl_mq.protocol.states import RoundState
from mhfl_mq.testing.machines import Disk, Everybody, digest, example_rules, manifest_of
from mhfl_mq.wire.messages import Decline, Offer, Receipt, UpdateReady, Verdict, Withdraw

COHORT = (("ada", 1), ("bob", 1), ("cyd", 0))
NAN = float("nan")


def ready(device: str, **changes: object) -> UpdateReady:
    size = 40 if device == "cyd" else 80
    message = UpdateReady(7, 3, 2.0, manifest_of(f"update of {device}", size), {"loss": 0.5}, b"")
    return replace(message, **changes)  # type: ignore[arg-type]  # a test names fields that exist


def blob(device: str) -> str:
    return ready(device).manifest.blob_id


def opened(rules: Rules | None = None, needed: int = 2, decider: Decider | None = None) -> Round:
    opening = RoundOpened(7, 3, digest("policy"), needed, COHORT)
    one = Round(
        example_rules() if rules is None else rules,
        Everybody() if decider is None else decider,
        Once(),
        opening,
        digest("model 3"),
    )
    one.open()
    return one


def count(one: Round, *devices: str) -> list[AggregatorEffect]:
    effects: list[AggregatorEffect] = []
    for device in devices:
        assert isinstance(one.update_ready(device, ready(device))[-1], FetchUpdate)
        effects = one.stored(UpdateStored(7, device, blob(device)))
    return effects


def state(one: Round) -> RoundState:
    return one.state


def refusal(device: str, reason: str) -> list[AggregatorEffect]:
    facts: dict[str, Fact] = {"round": 7, "device": device, "reason": reason}
    return [
        Persist(entries=(Entry("update.refuse", facts),)),
        Tell(device, Receipt(7, Verdict.REFUSED, reason)),
    ]


# ---- one update -----------------------------------------------------------------------------------------------


def test_an_update_is_fetched_and_durable_before_it_is_folded_and_receipted() -> None:
    one = opened()
    assert one.update_ready("ada", ready("ada", inline=b"x")) == [FetchUpdate(7, "ada", 1, ready("ada").manifest, b"x")]
    counted = UpdateCounted(7, "ada", 1, blob("ada"), 80, 2.0, {"loss": 0.5})
    facts: dict[str, Fact] = {"round": 7, "device": "ada", "tier": 1, "blob": blob("ada"), "size": 80, "weight": 2.0}
    assert one.stored(UpdateStored(7, "ada", blob("ada"))) == [
        Persist((counted,), (Entry("update.count", facts),)),
        Fold(7, "ada", 1, blob("ada"), 2.0),
        Tell("ada", Receipt(7, Verdict.COUNTED, "")),
    ]
    assert one.waiting == ["bob", "cyd"]


def test_metrics_that_are_no_numbers_are_left_out() -> None:
    one = opened()
    one.update_ready("ada", ready("ada", metrics={"loss": NAN, "energy": 3.0}))
    one.stored(UpdateStored(7, "ada", blob("ada")))
    assert one.counted["ada"].metrics == {"energy": 3.0}


def test_an_update_that_is_being_fetched_is_not_fetched_twice() -> None:
    one = opened()
    one.update_ready("ada", ready("ada"))
    assert one.update_ready("ada", ready("ada")) == []


def test_another_update_of_the_same_device_replaces_the_one_being_fetched() -> None:
    one = opened()
    one.update_ready("ada", ready("ada"))
    other = ready("ada", manifest=manifest_of("trained again", 80))
    assert one.update_ready("ada", other) == [
        DropFetch(7, "ada"),
        FetchUpdate(7, "ada", 1, other.manifest, b""),
    ]
    assert one.stored(UpdateStored(7, "ada", blob("ada"))) == []
    assert one.bad(UpdateBad(7, "ada", "timeout", blob_id=blob("ada"))) == []
    assert len(one.stored(UpdateStored(7, "ada", other.manifest.blob_id))) == 3


def test_a_counted_update_said_again_is_a_duplicate_even_when_the_round_is_closing() -> None:
    one = opened()
    count(one, "ada")
    duplicate = [Tell("ada", Receipt(7, Verdict.DUPLICATE, ""))]
    assert one.update_ready("ada", ready("ada")) == duplicate
    count(one, "bob", "cyd")
    assert one.update_ready("ada", ready("ada")) == duplicate


@pytest.mark.parametrize(("size", "taken"), [(80, True), (36, True), (1, True), (0, False), (81, False), (400, False)])
def test_where_updates_are_compacted_a_smaller_one_is_taken_as_well(size: int, taken: bool) -> None:
    one = opened(example_rules(compacts=True))
    effects = one.update_ready("ada", ready("ada", manifest=manifest_of("packed", size)))
    assert any(isinstance(effect, FetchUpdate) for effect in effects) is taken
    if not taken:
        reason = f"wrong shape: {size} bytes, tier large has 80"
        assert effects[-1] == Tell("ada", Receipt(7, Verdict.REFUSED, reason))


def test_what_compacting_saved_and_lost_stands_in_the_ledger() -> None:
    one = opened()
    said = {"loss": 0.5, "change": 0.02, "error": 0.008, "saved_bytes": 60.0}
    one.update_ready("ada", ready("ada", metrics=said))
    (persist, *_) = one.stored(UpdateStored(7, "ada", blob("ada")))
    assert isinstance(persist, Persist)
    facts = persist.entries[0].facts
    assert {name: facts.get(name) for name in said} == {**said, "loss": None}


@pytest.mark.parametrize(
    ("device", "change", "reason"),
    [
        ("ada", {"base": 2}, "stale base: trained from version 2, round 7 has 3"),
        ("ada", {"manifest": manifest_of("x", 76)}, "wrong shape: 76 bytes, tier large has 80"),
        ("cyd", {"manifest": manifest_of("x", 80)}, "wrong shape: 80 bytes, tier small has 40"),
        ("ada", {"manifest": manifest_of("x", 1001)}, "too large: 1001 bytes, at most 1000 are allowed"),
        ("ada", {"weight": 0.0}, "it says that 0 examples are behind it"),
        ("ada", {"weight": -1.0}, "it says that -1 examples are behind it"),
        ("ada", {"weight": 100.5}, "weight 100.5 is over the 100 that one update may count"),
        ("ada", {"weight": NAN}, "it says that nan examples are behind it"),
    ],
)
def test_an_update_that_is_wrong_by_its_announcement_is_refused_and_the_device_is_out(
    device: str, change: dict[str, object], reason: str
) -> None:
    one = opened()
    assert one.update_ready(device, ready(device, **change)) == refusal(device, reason)
    assert one.update_ready(device, ready(device)) == [Tell(device, Receipt(7, Verdict.REFUSED, reason))]
    assert device not in one.waiting
    assert state(one) is RoundState.COLLECTING


class OneEach(Everybody):
    """Weighs every update as one."""

    def weight(self, examples: float) -> float:
        return 1.0


def test_what_an_update_counts_is_the_deciders_to_say_and_not_the_devices() -> None:
    one = opened(decider=OneEach())
    one.update_ready("ada", ready("ada", weight=1e9))
    effects = one.stored(UpdateStored(7, "ada", blob("ada")))
    assert [effect.weight for effect in effects if isinstance(effect, Fold)] == [1.0]
    assert one.counted["ada"].weight == 1.0


def test_the_largest_weight_and_size_are_still_good() -> None:
    rules = example_rules(max_update_bytes=80)
    assert isinstance(opened(rules).update_ready("ada", ready("ada", weight=100.0))[0], FetchUpdate)


def test_a_wrong_update_stops_the_fetch_of_a_good_one() -> None:
    one = opened()
    one.update_ready("ada", ready("ada"))
    wrong = ready("ada", manifest=manifest_of("x", 76))
    assert one.update_ready("ada", wrong)[0] == DropFetch(7, "ada")


def test_an_uninvited_device_is_refused_and_noted_once() -> None:
    one = opened()
    effects = refusal("eve", "not invited to round 7")
    assert one.update_ready("eve", ready("ada")) == effects
    assert one.update_ready("eve", ready("ada")) == effects[1:]


def test_a_bad_update_puts_its_device_out_and_the_round_goes_on() -> None:
    one = opened()
    one.update_ready("ada", ready("ada"))
    assert one.bad(UpdateBad(7, "ada", "holds NaN")) == refusal("ada", "holds NaN")
    assert count(one, "bob", "cyd")[-1] == Merge(7)


def test_a_fetch_that_failed_by_our_own_fault_is_begun_again_when_the_device_says_so() -> None:
    one = opened()
    one.update_ready("ada", ready("ada"))
    assert one.bad(UpdateBad(7, "ada", "disk full", retry=True)) == []
    assert one.bad(UpdateBad(7, "ada", "disk full", retry=True)) == []
    assert isinstance(one.update_ready("ada", ready("ada"))[0], FetchUpdate)


# ---- accept and decline ---------------------------------------------------------------------------------------


def test_a_decline_is_noted_once_and_may_be_taken_back() -> None:
    one = opened()
    one.accept("ada")
    assert one.accepted == {"ada"}
    facts: dict[str, Fact] = {"round": 7, "device": "ada", "code": "train", "reason": "out of memory"}
    no = Decline(7, "train", "out of memory")
    assert one.decline("ada", no) == [Persist(entries=(Entry("update.decline", facts),))]
    assert one.decline("ada", no) == []
    assert (one.accepted, one.declined) == (set(), {"ada": "out of memory"})
    one.accept("ada")
    assert one.waiting == ["ada", "bob", "cyd"]
    assert one.decline("ada", no) == []
    assert isinstance(one.update_ready("ada", ready("ada"))[0], FetchUpdate)
    assert not one.declined


def test_a_decline_stops_a_fetch() -> None:
    one = opened()
    one.update_ready("ada", ready("ada"))
    assert one.decline("ada", Decline(7, "deadline", "too late"))[0] == DropFetch(7, "ada")


def test_answers_of_strangers_change_nothing() -> None:
    one = opened()
    one.accept("eve")
    assert not one.accepted
    assert one.decline("eve", Decline(7, "train", "no")) == []


def test_a_counted_device_cannot_decline() -> None:
    one = opened()
    count(one, "ada")
    assert one.decline("ada", Decline(7, "train", "no")) == []


def test_a_device_that_returns_hears_the_offer_again_while_it_is_waited_for() -> None:
    one = opened()
    (tell,) = one.offer_again("cyd")
    assert isinstance(tell, Tell)
    assert isinstance(tell.message, Offer)
    assert (tell.message.tier, tell.message.base) == (0, 3)
    assert one.offer_again("eve") == []
    count(one, "ada")
    assert one.offer_again("ada") == []
    count(one, "bob", "cyd")
    assert one.offer_again("cyd") == []


# ---- closing --------------------------------------------------------------------------------------------------


def test_the_round_closes_when_everybody_is_counted() -> None:
    one = opened()
    effects = count(one, "ada", "bob", "cyd")
    assert effects[-2:] == [CancelTimer(Timer.DEADLINE), Merge(7)]
    assert state(one) is RoundState.MERGING


def test_the_round_closes_when_nobody_else_is_waited_for() -> None:
    one = opened()
    count(one, "ada", "bob")
    assert state(one) is RoundState.COLLECTING
    assert one.decline("cyd", Decline(7, "train", "no"))[-1] == Merge(7)


def test_at_the_deadline_the_round_closes_without_those_who_are_late() -> None:
    one = opened()
    count(one, "ada", "bob")
    one.update_ready("cyd", ready("cyd"))
    assert one.deadline() == [
        CancelTimer(Timer.DEADLINE),
        DropFetch(7, "cyd"),
        Tell("cyd", Withdraw(7, "round 7 is closing without this device's update")),
        Merge(7),
    ]
    assert one.deadline() == []
    assert one.update_ready("cyd", ready("cyd")) == [Tell("cyd", Receipt(7, Verdict.LATE, "the round is closing"))]
    assert one.stored(UpdateStored(7, "cyd", blob("cyd"))) == []
    assert one.decline("cyd", Decline(7, "train", "no")) == []
    assert one.accept("cyd") == []
    assert not one.accepted


def test_at_the_deadline_a_round_without_quorum_is_aborted() -> None:
    one = opened()
    count(one, "ada")
    one.update_ready("bob", ready("bob"))
    effects = one.deadline()
    assert isinstance(effects[0], Persist)
    reason = "quorum missed: 1 of 2 needed at the deadline"
    assert effects[0].changes == (RoundClosed(7, "aborted", reason, None, ("ada", "bob", "cyd")),)
    assert DropFetch(7, "bob") in effects
    assert one.over


def test_a_round_whose_quorum_is_out_of_reach_is_aborted_at_once() -> None:
    one = opened()
    one.decline("ada", Decline(7, "train", "no"))
    effects = one.decline("bob", Decline(7, "train", "no"))
    assert isinstance(effects[1], Persist)
    reason = "quorum out of reach: 0 counted, 1 expected, 2 needed"
    assert effects[1].changes == (RoundClosed(7, "aborted", reason, None, ("ada", "bob")),)


def test_with_more_invited_than_wanted_the_round_closes_at_its_target() -> None:
    one = opened(example_rules(cohort=2))
    count(one, "ada")
    assert state(one) is RoundState.COLLECTING
    effects = count(one, "cyd")
    assert effects[-3:] == [
        CancelTimer(Timer.DEADLINE),
        Tell("bob", Withdraw(7, "round 7 is closing without this device's update")),
        Merge(7),
    ]


@pytest.mark.parametrize(("cohort", "needed"), [(None, 1), (5, 1), (1, 3)])
def test_the_target_is_never_more_than_all_nor_less_than_needed(cohort: int | None, needed: int) -> None:
    one = opened(example_rules(cohort=cohort), needed)
    count(one, "ada", "bob")
    assert state(one) is RoundState.COLLECTING
    count(one, "cyd")
    assert state(one) is RoundState.MERGING


def test_a_merge_that_nobody_waits_for_makes_no_version() -> None:
    one = opened()
    assert one.merged(Merged(7, digest("model 4"), {}), Disk().head) == []
    assert one.merge_failed("out of memory") == []
    assert one.version is None
    assert state(one) is RoundState.COLLECTING
