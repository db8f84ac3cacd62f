"""A machine is killed after each of its effects in turn, over a whole scripted life; what was promised still holds.

The promises are asserted by the pair itself: no update counted or folded twice, no round number used again, nothing
told or said that is not durable, no counted update trained again. Here: it goes on, and all that was counted counts.
"""

from collections.abc import Callable

import pytest

from mhfl_mq.protocol.states import FederationState
from mhfl_mq.testing.machines import Everybody
from mhfl_mq.testing.pair import AGGREGATOR, Pair


def quiet_life() -> Pair:
    """Three devices, rounds that all commit."""
    return Pair()


def eventful_life() -> Pair:
    """One update must be waited for in vain in each round: the deadline closes it."""
    pair = Pair(decider=Everybody(needed=2), seed=1)
    pair.run(lambda: pair.disk.last_round == 1)
    pair.cut("cyd")
    return pair


def goes_on(pair: Pair) -> bool:
    """Two versions are out, and everybody who is there runs the newest."""
    here = [device.life for device in pair.devices.values() if device.online]
    return pair.disk.head.version >= 2 and all(life.installed == pair.disk.head.version for life in here)


def committed_are_counted(pair: Pair) -> None:
    for number, closed in pair.disk.closed.items():
        if closed.outcome == "committed":
            assert len(pair.disk.counted_in(number)) >= pair.disk.rounds[number].needed


@pytest.mark.parametrize("life", [quiet_life, eventful_life])
@pytest.mark.parametrize("victim", [AGGREGATOR, "ada"])
def test_killed_after_each_effect_in_turn_it_goes_on_and_keeps_its_promises(
    life: Callable[[], Pair], victim: str
) -> None:
    kills = 0
    for nth in range(1000):
        pair = life()
        pair.side_of(victim).fuse = nth
        pair.run(lambda: goes_on(pair))  # noqa: B023  (called at once)
        committed_are_counted(pair)
        kills += pair.kills
        if not pair.kills:
            break
    else:
        raise AssertionError("the life never ended")
    assert kills == nth
    assert nth > 30


@pytest.mark.parametrize("victim", [AGGREGATOR, "bob"])
def test_killed_again_and_again_it_still_goes_on(victim: str) -> None:
    """Each life ends a few effects later than the one before: no number of effects is needed to get anywhere."""
    pair = Pair()
    for fuse in range(60):
        pair.side_of(victim).fuse = fuse
        pair.run(lambda: pair.kills > fuse or pair.disk.head.version >= 40)  # noqa: B023  (called at once)
    pair.run_to_version(pair.disk.head.version + 1)
    committed_are_counted(pair)
    assert pair.kills > 20


def test_an_open_round_is_resumed_with_what_it_had_counted() -> None:
    pair = Pair()
    pair.run(lambda: len(pair.disk.counted) == 1)
    (number, first), _ = next(iter(pair.disk.counted.items()))
    pair.kill(AGGREGATOR)
    pair.run(lambda: pair.machine.state is FederationState.IN_ROUND)
    assert pair.machine.round is not None
    assert pair.machine.round.number == number
    pair.run_to_version(1)
    assert pair.disk.closed[number].outcome == "committed"
    assert pair.trained[number, first] == 1
