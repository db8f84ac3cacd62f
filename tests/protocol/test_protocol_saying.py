"""A device says what it is after each hello, and again when it changes."""

from random import Random

from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.effects import DeviceEffect, SavedDevice, Say
from mhfl_mq.protocol.events import Connected, DeviceEvent, FactsRead, Heard, Started, TimerFired
from mhfl_mq.protocol.pauses import Timer
from mhfl_mq.testing.machines import digest
from mhfl_mq.wire.messages import Assign, Facts, Hello

BUSY, IDLE = FactsRead({"idle": 0.0}, {"os": ("linux",)}), FactsRead({"idle": 1.0}, {"os": ("linux",)})


def device() -> DeviceMachine:
    return DeviceMachine("ada", "wind", "test", SavedDevice(tier=1, layout=digest("layout")), Random(0))


def said(machine: DeviceMachine, *events: DeviceEvent) -> list[object]:
    effects: list[DeviceEffect] = [effect for event in events for effect in machine.handle(event)]
    return [one.message for one in effects if isinstance(one, Say)]


def test_facts_follow_each_hello() -> None:
    machine = device()
    assert said(machine, Started(), BUSY) == []  # nobody listens yet
    hello, facts = said(machine, Connected(1, 0))
    assert isinstance(hello, Hello)
    assert facts == Facts({"idle": 0.0}, {"os": ("linux",)})
    again = said(machine, TimerFired(Timer.HELLO))
    assert [type(one) for one in again] == [Hello, Facts]


def test_a_hello_before_the_machine_was_looked_at_says_no_facts() -> None:
    assert [type(one) for one in said(device(), Started(), Connected(1, 0))] == [Hello]


def test_a_change_is_said_at_once_and_no_change_is_not() -> None:
    machine = device()
    said(machine, Started(), BUSY, Connected(1, 0), Heard("aggregator", Assign(4, 1, "fits")))
    assert said(machine, BUSY) == []
    assert said(machine, IDLE) == [Facts({"idle": 1.0}, {"os": ("linux",)})]
    assert said(machine, IDLE) == []


def test_a_change_while_nobody_listens_is_said_with_the_next_hello() -> None:
    machine = device()
    said(machine, Started(), BUSY)
    assert said(machine, IDLE) == []
    assert said(machine, Connected(1, 0))[1] == Facts({"idle": 1.0}, {"os": ("linux",)})
