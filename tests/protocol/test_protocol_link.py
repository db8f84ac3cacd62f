"""A device that learns its link's speed: kept, told when it is in no round, and its tier decided again."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.effects import DeviceEffect, SavedDevice, SaveState, Say, SetTimer
from mhfl_mq.protocol.events import (
    Connected,
    DeviceEvent,
    Disconnected,
    FetchFailed,
    Heard,
    LinkMeasured,
    Probed,
    Started,
    TimerFired,
)
from mhfl_mq.protocol.pauses import Timer
from mhfl_mq.protocol.states import Standing, WorkState
from mhfl_mq.testing.machines import LAYOUT, digest, example_rules
from mhfl_mq.wire.messages import (
    Assign,
    Capability,
    Close,
    Hello,
    Message,
    Offer,
    Presence,
    ProbeResult,
    Refuse,
    Survey,
)

SURVEY = Survey(4, "wind", LAYOUT, example_rules().tiers, 8)
ABLE = Capability(1, LAYOUT, 100, 0.0, (ProbeResult("small", 0.1, 1000),))
KNOWN = SavedDevice(epoch=4, tier=1, layout=LAYOUT, last_round=6, survey=replace(SURVEY, epoch=0))
SEGMENTS = (digest("segment 0"), digest("segment 1"))
OFFER = Offer(7, 3, 1, LAYOUT, SEGMENTS, "heterofl", {"steps": 4.0}, (), "p", 60.0)


class NoLuck:
    def random(self) -> float:
        return 0.0


def after(machine: DeviceMachine, *events: DeviceEvent | Message) -> list[DeviceEffect]:
    effects: list[DeviceEffect] = []
    for event in events:
        effects = machine.handle(event if isinstance(event, DeviceEvent) else Heard("aggregator", event, 9))
    return effects


def ready(saved: SavedDevice = KNOWN) -> DeviceMachine:
    machine = DeviceMachine("ada", "wind", "mhfl-mq/test", saved, NoLuck())
    after(machine, Started(), Connected(1, 100_000), Assign(4, 1, "fits"))
    return machine


def hellos(effects: Sequence[DeviceEffect]) -> list[str]:
    """The layouts of the hellos among these effects."""
    return [one.message.layout for one in effects if isinstance(one, Say) and isinstance(one.message, Hello)]


def standing(machine: DeviceMachine) -> Standing:
    return machine.standing


def told(effects: Sequence[DeviceEffect]) -> list[float]:
    return [one.message.link_bytes_s for one in effects if isinstance(one, Say) and isinstance(one.message, Capability)]


def test_a_first_figure_is_kept_and_brings_a_hello_that_asks_for_a_survey() -> None:
    machine = ready()
    effects = after(machine, LinkMeasured(5000.0))
    assert effects[0] == SaveState(replace(KNOWN, link_bytes_s=5000.0))
    assert effects[-1] == SetTimer(Timer.HELLO, 0.0)
    assert machine.standing is Standing.JOINING
    assert hellos(after(machine, TimerFired(Timer.HELLO))) == [""]


def test_the_survey_is_answered_with_the_figure_and_the_answer_settles_it() -> None:
    machine = ready()
    after(machine, LinkMeasured(5000.0), TimerFired(Timer.HELLO), SURVEY)
    assert told(after(machine, Probed(ABLE))) == [5000.0]
    effects = after(machine, Assign(4, 0, "large.transfer: 90 s is over 30 s"))
    assert SaveState(replace(KNOWN, tier=0, link_bytes_s=5000.0, link_told=5000.0, step_told=0.1)) in effects
    assert machine.standing is Standing.READY
    assert hellos(after(machine, Disconnected(), Connected(2, 100_000))) == [LAYOUT]


def test_a_life_that_was_measured_says_its_capability_again_without_being_asked() -> None:
    machine = ready()
    after(machine, SURVEY, Probed(ABLE), Assign(4, 1, "fits"))
    effects = after(machine, LinkMeasured(5000.0))
    assert told(effects) == [5000.0]
    assert hellos(effects) == []
    assert standing(machine) is Standing.REPORTING
    assert told(after(machine, TimerFired(Timer.CAPABILITY))) == [5000.0]
    after(machine, Assign(4, 0, "large.transfer: 90 s is over 30 s"))
    assert (machine.saved.tier, machine.saved.link_told) == (0, 5000.0)
    assert standing(machine) is Standing.READY


def test_a_figure_that_is_about_the_one_before_changes_nothing() -> None:
    machine = ready(replace(KNOWN, link_bytes_s=5000.0, link_told=5000.0))
    for figure in (5000.0, 4100.0, 6200.0, 0.0):
        assert after(machine, LinkMeasured(figure)) == []
    assert machine.standing is Standing.READY


@pytest.mark.parametrize("figure", [3900.0, 6300.0], ids=["slower", "faster"])
def test_a_link_that_changed_by_a_quarter_is_told(figure: float) -> None:
    machine = ready(replace(KNOWN, link_bytes_s=5000.0, link_told=5000.0))
    after(machine, LinkMeasured(figure))
    assert machine.standing is Standing.JOINING


def test_a_device_in_a_round_tells_it_when_the_round_is_over() -> None:
    machine = ready()
    assert after(machine, OFFER, LinkMeasured(5000.0)) == [SaveState(machine.saved)]
    assert standing(machine) is Standing.READY
    after(machine, Close(7, "aborted", 3))
    assert standing(machine) is Standing.JOINING
    assert machine.work is WorkState.IDLE


def test_a_round_that_the_link_was_too_slow_for_tells_it_as_well() -> None:
    machine = ready()
    after(machine, OFFER, LinkMeasured(5.0), FetchFailed(7, "too slow"))
    assert machine.standing is Standing.JOINING


def test_a_hello_in_a_round_does_not_ask_for_a_survey_which_could_spoil_the_round() -> None:
    machine = ready()
    after(machine, OFFER, LinkMeasured(5000.0), Disconnected())
    assert hellos(after(machine, Connected(2, 100_000))) == [LAYOUT]
    after(machine, Assign(4, 1, "fits"))
    assert machine.standing is Standing.READY


def test_a_figure_that_no_answer_came_for_is_told_in_the_next_life() -> None:
    machine = DeviceMachine("ada", "wind", "mhfl-mq/test", replace(KNOWN, link_bytes_s=5000.0), NoLuck())
    assert hellos(after(machine, Started(), Connected(1, 100_000))) == [""]


def test_an_answer_to_an_earlier_hello_does_not_pass_for_one_to_the_figure() -> None:
    machine = ready()
    after(machine, LinkMeasured(5000.0), Assign(4, 1, "fits"))
    assert machine.saved.link_told == 0.0
    assert machine.standing is Standing.JOINING


def test_an_aggregator_that_is_gone_hears_of_it_when_it_is_back() -> None:
    machine = ready()
    after(machine, Presence(4, False, "aggregator"), LinkMeasured(5000.0))
    assert machine.standing is Standing.READY
    after(machine, Presence(5, True, "aggregator"))
    assert hellos(after(machine, TimerFired(Timer.HELLO))) == [""]


def test_a_refused_device_keeps_its_figure_for_the_next_time() -> None:
    machine = ready()
    after(machine, Refuse("tier", "no tier fits"), LinkMeasured(5000.0))
    assert machine.standing is Standing.REFUSED
    assert hellos(after(machine, TimerFired(Timer.RETRY))) == [""]
