"""Both real machines together: whole lives, and the accidents that no single machine can show."""

from dataclasses import replace

import pytest

from mhfl_mq.protocol.effects import AggregatorEffect, DeviceEffect, FetchUpdate, Merge, Probe, SavedDevice, Train
from mhfl_mq.protocol.events import (
    MergeFailed,
    Probed,
    RollbackAsked,
    StopAsked,
    Trained,
    TrainFailed,
    UpdateBad,
    UpdateStored,
)
from mhfl_mq.protocol.rules import Candidate
from mhfl_mq.protocol.states import FederationState, Standing, WorkState
from mhfl_mq.testing.machines import LAYOUT, Disk, Everybody, digest, example_rules, manifest_of
from mhfl_mq.testing.pair import AGGREGATOR, Pair
from mhfl_mq.wire.messages import Capability, ProbeResult, TierSpec


def test_devices_join_train_round_after_round_and_follow_the_head() -> None:
    pair = Pair()
    pair.run_to_version(5)
    assert [version.version for version in pair.disk.versions] == [0, 1, 2, 3, 4, 5]
    assert all(closed.outcome == "committed" for closed in pair.disk.closed.values())
    assert set(pair.trained.values()) == {1}
    assert not pair.alarms


def test_a_federation_of_tiers_that_are_no_prefixes_goes_on_round_after_round() -> None:
    apart = (TierSpec("small", 0.5, 0, 10, "tree", (0, 1)), TierSpec("large", 1.0, 0, 20, "net", (0, 2, 3)))
    pair = Pair(rules=example_rules(tiers=apart))
    pair.run_to_version(3)
    assert not pair.alarms
    for device in pair.devices.values():
        assert device.saved.segments == (0, 2, 3)


def test_the_same_seed_gives_the_same_life() -> None:
    lives = []
    for _ in range(2):
        pair = Pair(seed=7)
        pair.run_to_version(2)
        pair.kill(AGGREGATOR)
        pair.run_to_version(4)
        lives.append((pair.now, pair.disk.ledger, pair.side.timers))
    assert lives[0] == lives[1]


def test_a_straggler_is_withdrawn_at_the_deadline_and_invited_again() -> None:
    pair = Pair(decider=Everybody(needed=2), rules=example_rules(quorum_min=3))

    def train(name: str, effect: AggregatorEffect | DeviceEffect) -> Trained | None:
        assert isinstance(effect, Train)
        if name == "cyd" and effect.offer.round == 1:
            return None
        return Trained(effect.offer.round, manifest_of(f"{name} {effect.offer.round}", 80), 1.0, {})

    pair.jobs[Train] = train
    pair.run_to_version(1)
    assert sorted(pair.disk.counted_in(1)) == ["ada", "bob"]
    assert pair.now >= pair.rules.deadline_s
    assert pair.devices["cyd"].life.work is WorkState.IDLE
    pair.run_to_version(2)
    assert sorted(pair.disk.counted_in(2)) == ["ada", "bob", "cyd"]


def test_a_device_that_cannot_train_does_not_hold_the_round_up() -> None:
    pair = Pair(decider=Everybody(needed=1))
    pair.run(lambda: len(pair.disk.devices) == 3)

    def train(name: str, effect: AggregatorEffect | DeviceEffect) -> Trained | TrainFailed:
        assert isinstance(effect, Train)
        number = effect.offer.round
        if name == "bob":
            return TrainFailed(number, "out of memory")
        return Trained(number, manifest_of(f"{name} {number}", 80), 1.0, {})

    pair.jobs[Train] = train
    pair.run_to_version(3)
    assert pair.now < 2 * pair.rules.deadline_s
    assert "update.decline" in pair.disk.kinds()
    assert pair.devices["bob"].life.work is WorkState.IDLE


def test_a_device_that_lost_its_folder_joins_again_and_takes_part() -> None:
    pair = Pair()
    pair.run_to_version(1)
    ada = pair.devices["ada"]
    ada.saved, ada.session = SavedDevice(), 0
    pair.kill("ada")
    before = pair.disk.last_round
    pair.run_to_version(pair.disk.head.version + 2)
    assert any(device == "ada" and number > before for number, device in pair.disk.counted)


def test_an_aggregator_that_lost_its_folder_uses_no_round_number_again_and_devices_follow_its_head() -> None:
    pair = Pair()
    pair.run_to_version(3)
    used = pair.disk.last_round
    pair.disk = Disk()
    pair.first_epoch = 1000
    pair.kill(AGGREGATOR)
    pair.run_to_version(1)
    assert min(pair.disk.rounds) > used
    assert "round.skip" in pair.disk.kinds()
    assert {one.life.installed for one in pair.devices.values()} == {pair.disk.head.version}


def test_a_bounded_run_over_a_lost_folder_does_all_its_rounds_whenever_it_is_restarted() -> None:
    pair = Pair()
    pair.run_to_version(3)
    used = pair.disk.last_round
    pair.disk = Disk()
    pair.first_epoch = 1000
    pair.rules = replace(pair.rules, max_rounds=4)
    pair.kill(AGGREGATOR)
    pair.run(lambda: len(pair.disk.closed) == 2)
    pair.kill(AGGREGATOR)
    pair.run(lambda: bool(pair.stopped))
    assert pair.stopped == "4 rounds are done"
    assert len(pair.disk.rounds) == 4
    assert min(pair.disk.rounds) > used


class FewestTurns(Everybody):
    """Two are invited, who had the fewest turns first."""

    def invite(self, candidates: tuple[Candidate, ...], present: int) -> tuple[str, ...]:
        return tuple(device for _, device in sorted((turns, device) for device, _, turns in candidates)[:2])


@pytest.mark.parametrize("fault", ["refused", "declined", "silent"])
def test_devices_whose_updates_never_count_keep_nobody_else_out(fault: str) -> None:
    """They are counted least, for ever: had that alone decided, nobody else would be invited again."""
    pair = Pair(("ada", "bob", "cyd", "dan"), example_rules(cohort=2), FewestTurns())

    def fetch(_: str, effect: AggregatorEffect | DeviceEffect) -> UpdateStored | UpdateBad:
        assert isinstance(effect, FetchUpdate)
        if effect.device in ("ada", "bob"):
            return UpdateBad(effect.round, effect.device, "holds NaN")
        return UpdateStored(effect.round, effect.device, effect.manifest.blob_id)

    def train(name: str, effect: AggregatorEffect | DeviceEffect) -> Trained | TrainFailed | None:
        assert isinstance(effect, Train)
        if name in ("ada", "bob") and fault != "refused":
            return TrainFailed(effect.offer.round, "out of memory") if fault == "declined" else None
        return Trained(effect.offer.round, manifest_of(f"{name} {effect.offer.round}", 80), 1.0, {})

    pair.jobs |= {FetchUpdate: fetch, Train: train}
    pair.run(lambda: {device for _, device in pair.disk.counted} == {"cyd", "dan"}, limit=600)
    pair.kill(AGGREGATOR)
    before = len(pair.disk.counted)
    pair.run(lambda: len(pair.disk.counted) >= before + 4, limit=600)


def test_a_device_that_a_round_did_not_wait_for_has_its_turn_still_before_it() -> None:
    pair = Pair(("ada", "bob", "cyd"), example_rules(cohort=1))
    pair.jobs[Train] = lambda name, effect: (
        Trained(effect.offer.round, manifest_of(f"{name} {effect.offer.round}", 80), 1.0, {})  # type: ignore[union-attr]
        if name == "ada"
        else None
    )
    pair.run(lambda: 1 in pair.disk.closed)
    assert pair.disk.closed[1].turns == ("ada",)


def test_a_device_of_another_layout_is_shown_the_reason_and_comes_in_when_it_is_mended() -> None:
    pair = Pair()
    layout = {"cyd": digest("old task")}

    def probe(name: str, effect: AggregatorEffect | DeviceEffect) -> Probed:
        assert isinstance(effect, Probe)
        probes = tuple(ProbeResult(tier.name, 0.1, 1000) for tier in effect.survey.tiers)
        return Probed(Capability(effect.session, layout.get(name, LAYOUT), 100, 0.0, probes))

    pair.jobs[Probe] = probe
    pair.run(lambda: pair.disk.head.version >= 2)
    assert pair.devices["cyd"].life.standing is Standing.REFUSED
    assert any(text.startswith("cyd") and digest("old task") in text and LAYOUT in text for text in pair.alarms)
    del layout["cyd"]
    pair.kill("cyd")
    pair.run_to_version(pair.disk.head.version + 2)
    assert any(device == "cyd" for _, device in pair.disk.counted)


def test_a_rollback_reaches_every_device() -> None:
    pair = Pair()
    pair.run_to_version(2)
    old = pair.disk.versions[1]
    pair.queue.append((AGGREGATOR, RollbackAsked(1, old.model, {}, "worse in the field", "eve")))
    pair.run(lambda: pair.disk.head.origin == "rollback")
    assert pair.disk.head.model == old.model
    pair.run_to_version(pair.disk.head.version)


def test_merges_that_fail_are_followed_by_rounds_that_succeed() -> None:
    pair = Pair()
    pair.jobs[Merge] = lambda _, effect: MergeFailed(getattr(effect, "round", 0), "out of memory")
    pair.run(lambda: len(pair.disk.closed) == 3)
    assert {closed.outcome for closed in pair.disk.closed.values()} == {"aborted"}
    assert pair.disk.head.version == 0
    del pair.jobs[Merge]
    pair.run_to_version(2)


def test_the_aggregator_stops_after_its_last_round() -> None:
    pair = Pair(rules=replace(example_rules(), max_rounds=3))
    pair.run(lambda: bool(pair.stopped))
    assert pair.stopped == "3 rounds are done"
    assert pair.disk.last_round == 3
    assert pair.machine.state is FederationState.STOPPED


def test_stopped_in_order_and_started_again_the_round_goes_on() -> None:
    pair = Pair()
    pair.run(lambda: len(pair.disk.counted) == 1)
    pair.queue.appendleft((AGGREGATOR, StopAsked()))
    pair.step()
    assert pair.stopped == "asked to stop"
    pair.stopped = ""
    pair.kill(AGGREGATOR)
    pair.run_to_version(1)
    assert pair.disk.closed[1].outcome == "committed"


@pytest.mark.parametrize("away", ["ada", "bob", "cyd"])
def test_a_device_that_trains_while_its_connection_is_gone_is_counted_when_it_returns(away: str) -> None:
    pair = Pair(decider=Everybody(needed=3), rules=example_rules(quorum_min=3))
    pair.run(lambda: pair.devices[away].life.work is WorkState.TRAINING)
    pair.cut(away)
    for _ in range(10):
        pair.step()
    assert pair.devices[away].life.work is WorkState.SENDING
    pair.connect(away)
    pair.run_to_version(1)
    assert pair.trained[1, away] == 1
    assert (1, away) in pair.disk.counted
