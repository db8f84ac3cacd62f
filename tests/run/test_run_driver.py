"""The driver: effects in their order, its own timers, and a failed effect that stops all that follow."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from mhfl_mq.errors import StoreFull
from mhfl_mq.protocol.effects import Ack, Alarm, CancelTimer, SetTimer, Stop
from mhfl_mq.protocol.events import StopAsked, TimerFired
from mhfl_mq.run.driver import Driver

Event = StopAsked | TimerFired | str
Effect = SetTimer | CancelTimer | Ack | Alarm | Stop


class Script:
    """A machine that answers each event with what the test says; it knows when each event came."""

    def __init__(self, answer: Callable[[Event], Sequence[Effect]]) -> None:
        self._answer = answer
        self.heard: list[tuple[float, Event]] = []

    def handle(self, event: Event) -> Sequence[Effect]:
        self.heard.append((asyncio.get_running_loop().time(), event))
        return self._answer(event)


def play(
    virtual: asyncio.Runner, answer: Callable[[Event], Sequence[Effect]], *events: Event, until_s: float = 100.0
) -> tuple[Script, list[Effect], str]:
    """Run a driver over these events; what the machine heard, what was performed, and why it ended."""

    async def main() -> tuple[Script, list[Effect], str]:
        script, performed = Script(answer), []

        async def perform(effect: Effect) -> None:
            await asyncio.sleep(0)
            performed.append(effect)

        driver: Driver[Event, Effect] = Driver(script.handle, perform)
        for event in events:
            driver.post(event)
        asyncio.get_running_loop().call_later(until_s, driver.post, StopAsked())
        return script, performed, await driver.run()

    return virtual.run(main())


def test_effects_are_performed_in_the_order_of_the_list_event_by_event(virtual: asyncio.Runner) -> None:
    answers: dict[str, list[Effect]] = {"a": [Alarm("1"), Ack(1), Alarm("2")], "b": [Ack(2)]}
    _, performed, reason = play(virtual, lambda e: answers[e] if isinstance(e, str) else [Stop("done")], "a", "b")
    assert performed == [Alarm("1"), Ack(1), Alarm("2"), Ack(2)]
    assert reason == "done"


def test_nothing_after_a_stop_is_performed(virtual: asyncio.Runner) -> None:
    _, performed, _ = play(virtual, lambda _: [Alarm("before"), Stop("now"), Alarm("after")], "go")
    assert performed == [Alarm("before")]


def test_a_timer_fires_once_after_its_seconds(virtual: asyncio.Runner) -> None:
    script, _, _ = play(virtual, lambda e: [Stop("")] if e == StopAsked() else [SetTimer("t", 7.0)] * (e == "go"), "go")
    assert script.heard == [(0.0, "go"), (7.0, TimerFired("t")), (100.0, StopAsked())]


def test_a_timer_that_is_set_again_is_replaced(virtual: asyncio.Runner) -> None:
    answers: dict[Event, list[Effect]] = {
        "first": [SetTimer("t", 5.0), SetTimer("u", 6.0)],
        "again": [SetTimer("t", 50.0)],
        StopAsked(): [Stop("")],
    }
    script, _, _ = play(virtual, lambda e: answers.get(e, []), "first", "again")
    assert script.heard[2:] == [(6.0, TimerFired("u")), (50.0, TimerFired("t")), (100.0, StopAsked())]


def test_a_timer_that_is_cancelled_or_set_again_while_its_event_waits_does_not_fire(virtual: asyncio.Runner) -> None:
    """Two timers run out at one instant, and the first one's event cancels the second, whose event is queued."""

    def answer(event: Event) -> list[Effect]:
        match event:
            case "go":
                return [SetTimer("a", 5.0), SetTimer("b", 5.0), SetTimer("c", 5.0)]
            case TimerFired("a"):
                return [CancelTimer("b"), SetTimer("c", 5.0), CancelTimer("nonesuch")]
            case StopAsked():
                return [Stop("")]
        return []

    script, _, _ = play(virtual, answer, "go")
    assert script.heard[1:] == [(5.0, TimerFired("a")), (10.0, TimerFired("c")), (100.0, StopAsked())]


def test_a_negative_time_is_now(virtual: asyncio.Runner) -> None:
    script, _, _ = play(virtual, lambda e: [Stop("")] if e != "go" else [SetTimer("t", -1.0)], "go")
    assert script.heard == [(0.0, "go"), (0.0, TimerFired("t"))]


def test_a_failed_effect_stops_the_driver_and_nothing_after_it_is_done(virtual: asyncio.Runner) -> None:
    performed: list[Effect] = []

    async def main() -> None:
        async def perform(effect: Effect) -> None:
            if effect == Ack(1):
                raise StoreFull("no room")
            performed.append(effect)

        script = Script(lambda _: [Alarm("before"), SetTimer("t", 1.0), Ack(1), Alarm("after")])
        driver: Driver[Event, Effect] = Driver(script.handle, perform)
        driver.post("go")
        driver.post("never handled")
        with pytest.raises(StoreFull):
            await driver.run()
        await asyncio.sleep(10)  # the timer died with the driver
        assert [event for _, event in script.heard] == ["go"]

    virtual.run(main())
    assert performed == [Alarm("before")]
