"""A device whose rounds take longer or shorter than its probe said: told when it is in no round, its tier redone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.effects import DeviceEffect, Probe, SavedDevice, Say
from mhfl_mq.protocol.events import (
    Connected,
    DeviceEvent,
    Fetched,
    Heard,
    Probed,
    Started,
    TimerFired,
    Trained,
    TrainingStopped,
)
from mhfl_mq.protocol.pauses import Timer
from mhfl_mq.protocol.states import Standing
from mhfl_mq.testing.machines import LAYOUT, digest, example_rules
from mhfl_mq.wire.messages import (
    Assign,
    Capability,
    Close,
    Hello,
    Manifest,
    Message,
    Offer,
    ProbeResult,
    Refuse,
    Survey,
)

TIERS = example_rules().tiers
SURVEY = Survey(4, "wind", LAYOUT, TIERS, 8)
ABLE = Capability(1, LAYOUT, 100, 0.0, tuple(ProbeResult(tier.name, 0.1 * 2**k, 1000) for k, tier in enumerate(TIERS)))
SEGMENTS = (digest("segment 0"), digest("segment 1"))
UPDATE = Manifest(digest("update"), 8, 1024, bytes(16))


class NoLuck:
    def random(self) -> float:
        return 0.0


def after(machine: DeviceMachine, *events: DeviceEvent | Message) -> list[DeviceEffect]:
    effects: list[DeviceEffect] = []
    for event in events:
        effects = machine.handle(event if isinstance(event, DeviceEvent) else Heard("aggregator", event, 9))
    return effects


def probed() -> DeviceMachine:
    """A device that was surveyed and carries tier 1, whose step it told as 0.2 s."""
    machine = DeviceMachine("ada", "wind", "mhfl-mq/test", SavedDevice(), NoLuck())
    after(machine, Started(), Connected(1, 100_000), SURVEY, Probed(ABLE), Assign(4, 1, "fits"))
    assert machine.saved.step_told == 0.2
    return machine


def a_round(machine: DeviceMachine, number: int, step_s: float) -> list[DeviceEffect]:
    """One round whose steps took so long; what comes of its end."""
    offer = Offer(number, 3, 1, LAYOUT, SEGMENTS, "heterofl", {"steps": 4.0}, (), "p", 60.0)
    after(machine, offer, Fetched(number), Trained(number, UPDATE, 10.0, {"step_s": step_s}, b""))
    assert standing(machine) is Standing.READY  # never in the middle of a round
    return after(machine, Close(number, "committed", 4))


def steps(effects: Sequence[DeviceEffect]) -> list[list[float]]:
    said = [one.message for one in effects if isinstance(one, Say)]
    return [[probe.step_s for probe in one.probes] for one in said if isinstance(one, Capability)]


def standing(machine: DeviceMachine) -> Standing:
    return machine.standing


@pytest.mark.parametrize("step_s", [0.5, 0.05], ids=["slower", "faster"])
def test_two_rounds_off_by_more_than_a_factor_of_two_bring_the_capability_again_with_every_tier_scaled(
    step_s: float,
) -> None:
    machine = probed()
    assert steps(a_round(machine, 7, step_s)) == []
    (said,) = steps(a_round(machine, 8, step_s))
    assert said == pytest.approx([0.1 * 2**k * step_s / 0.2 for k in range(len(TIERS))])
    assert standing(machine) is Standing.REPORTING
    assert steps(after(machine, TimerFired(Timer.CAPABILITY))) == [said]
    after(machine, Assign(4, 0, "large.step: 500 ms is over 200 ms"))
    assert machine.saved.tier == 0
    assert machine.saved.step_told == pytest.approx(0.1 * step_s / 0.2)
    assert standing(machine) is Standing.READY


def test_what_was_told_is_what_later_rounds_are_held_against() -> None:
    machine = probed()
    a_round(machine, 7, 0.5)
    a_round(machine, 8, 0.5)
    after(machine, Assign(4, 1, "fits"))
    for number in (9, 10, 11):
        assert steps(a_round(machine, number, 0.5)) == []
    assert standing(machine) is Standing.READY


@pytest.mark.parametrize("second", [0.2, 0.05], ids=["as told", "off the other way"])
def test_one_odd_round_is_no_news(second: float) -> None:
    machine = probed()
    a_round(machine, 7, 0.5)
    assert steps(a_round(machine, 8, second)) == []
    assert standing(machine) is Standing.READY


def test_a_factor_under_two_and_a_trainer_that_says_nothing_are_no_news() -> None:
    machine = probed()
    for number, step_s in enumerate((0.39, 0.11, 0.0), 7):
        assert steps(a_round(machine, number, step_s)) == []


def test_a_life_that_was_not_probed_asks_to_be_surveyed() -> None:
    machine = DeviceMachine("ada", "wind", "mhfl-mq/test", replace(probed().saved), NoLuck())
    after(machine, Started(), Connected(2, 100_000), Assign(4, 1, "fits"))
    assert machine.saved.step_told == 0.2
    a_round(machine, 7, 0.5)
    a_round(machine, 8, 0.5)
    assert standing(machine) is Standing.JOINING
    hello = after(machine, TimerFired(Timer.HELLO))
    assert [one.message.layout for one in hello if isinstance(one, Say) and isinstance(one.message, Hello)] == [""]


def missed(machine: DeviceMachine, number: int, step_s: float, *ends: DeviceEvent | Message) -> list[list[float]]:
    """One round that ended before its training did: what it said of its steps in all of it."""
    offer = Offer(number, 3, 1, LAYOUT, SEGMENTS, "heterofl", {"steps": 4.0}, (), "p", 60.0)
    after(machine, offer, Fetched(number))
    said = [steps(after(machine, end)) for end in (*ends, TrainingStopped(number, step_s))]
    return [one for some in said for one in some]


def test_a_device_too_slow_to_end_a_round_before_its_deadline_says_so_after_two_of_them() -> None:
    machine = probed()
    assert missed(machine, 7, 15.0, TimerFired(Timer.DEADLINE)) == []
    (said,) = missed(machine, 8, 15.0, TimerFired(Timer.DEADLINE))
    assert said == pytest.approx([7.5 * 2**k for k in range(len(TIERS))])
    assert standing(machine) is Standing.REPORTING


def test_missing_a_deadline_counts_however_little_the_device_is_slower_than_it_said() -> None:
    machine = probed()
    missed(machine, 7, 0.25, TimerFired(Timer.DEADLINE))
    assert len(missed(machine, 8, 0.25, TimerFired(Timer.DEADLINE))) == 1


@pytest.mark.parametrize(("step_s", "news"), [(0.39, False), (0.41, True)], ids=["not overdue", "overdue"])
def test_a_round_that_ended_without_the_device_counts_when_that_was_overdue_by_a_factor_of_two(
    step_s: float, news: bool
) -> None:
    machine = probed()
    missed(machine, 7, step_s, Close(7, "committed", 4))
    assert bool(missed(machine, 8, step_s, Close(8, "committed", 5))) is news


def test_a_round_that_ended_early_is_no_sign_that_the_device_is_fast() -> None:
    machine = probed()
    for number in (7, 8, 9):
        assert missed(machine, number, 0.001, Close(number, "committed", 4)) == []
    assert standing(machine) is Standing.READY


def test_a_device_refused_for_what_its_rounds_showed_is_measured_anew_when_it_asks_again() -> None:
    machine = probed()
    for number in (7, 8):
        missed(machine, number, 15.0, TimerFired(Timer.DEADLINE))
    after(machine, Refuse("tier", "no tier fits"), TimerFired(Timer.RETRY))
    effects = after(machine, SURVEY)
    assert [one for one in effects if isinstance(one, Probe)]
    assert steps(after(machine, Probed(ABLE))) == [[0.1 * 2**k for k in range(len(TIERS))]]
