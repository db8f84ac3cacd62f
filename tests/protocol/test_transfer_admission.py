"""Admission: bounded places and bytes, first come first served, and the silent lose their place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.protocol.transfer_admission import Admission, Answer, Turn, upload_cost
from mhfl_mq.wire.blobs import build_manifest


def test_places_are_given_in_the_order_of_arrival() -> None:
    admission = Admission(places=2, budget=100, patience_s=60.0)
    assert [admission.ask(who, 10, 0.0) for who in "abcd"] == [Answer.ADMITTED] * 2 + [Answer.QUEUED] * 2
    assert admission.admitted == ("a", "b")
    assert admission.queued == ("c", "d")
    assert admission.release("a", 1.0) == ("c",)
    assert admission.release("b", 1.0) == ("d",)
    assert admission.release("b", 1.0) == ()


def test_the_budget_bounds_the_bytes_and_nobody_overtakes_a_big_one() -> None:
    admission = Admission(places=9, budget=100)
    assert admission.ask("a", 60, 0.0) is Answer.ADMITTED
    assert admission.ask("big", 80, 0.0) is Answer.QUEUED
    assert admission.ask("small", 5, 0.0) is Answer.QUEUED
    assert admission.release("a", 0.0) == ("big", "small")


def test_asking_again_keeps_the_place_and_the_turn() -> None:
    admission = Admission(places=1, budget=100)
    admission.ask("a", 10, 0.0)
    admission.ask("b", 10, 0.0)
    admission.ask("c", 10, 0.0)
    assert admission.ask("a", 99, 0.0) is Answer.ADMITTED
    assert admission.ask("b", 20, 0.0) is Answer.QUEUED
    assert admission.queued == ("b", "c")


def test_what_costs_more_than_the_whole_budget_is_refused_and_leaves_the_queue() -> None:
    admission = Admission(places=1, budget=100)
    assert admission.ask("huge", 101, 0.0) is Answer.TOO_BIG
    admission.ask("a", 1, 0.0)
    admission.ask("grown", 50, 0.0)
    assert admission.ask("grown", 200, 0.0) is Answer.TOO_BIG
    assert admission.queued == ()


def test_one_who_waits_can_leave() -> None:
    admission = Admission(places=1, budget=100)
    admission.ask("a", 1, 0.0)
    admission.ask("b", 1, 0.0)
    assert admission.release("b", 0.0) == ()
    assert admission.queued == ()


def test_the_silent_lose_their_place_to_those_who_wait() -> None:
    admission = Admission(places=2, budget=100, patience_s=60.0)
    assert admission.due is None
    for who in "abc":
        admission.ask(who, 1, 0.0)
    admission.progress("b", 30.0)
    admission.progress("nobody", 30.0)
    assert admission.due == 60.0
    assert admission.tick(59.9) == Turn((), ())
    assert admission.tick(60.0) == Turn(("a",), ("c",))
    assert admission.tick(90.0) == Turn(("b",), ())
    assert admission.due == 120.0


def test_nobody_is_silent_while_the_broker_is_gone() -> None:
    admission = Admission(places=2, budget=100, patience_s=60.0)
    admission.ask("a", 1, 0.0)
    admission.disconnected()
    assert admission.due is None
    assert admission.tick(1000.0) == Turn((), ())
    admission.connected(1000.0)
    assert admission.due == 1060.0


def test_the_cost_of_an_upload_is_what_can_be_on_its_way() -> None:
    assert upload_cost(build_manifest(bytes(1000), 64), 8) == 512
    assert upload_cost(build_manifest(bytes(100), 64), 8) == 100


@pytest.mark.parametrize("options", [{"places": 0}, {"budget": 0}, {"patience_s": 0.0}])
def test_senseless_limits_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(LocalMisuse, match="more than 0"):
        Admission(**options)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(1, 60)), max_size=60))
def test_the_bounds_hold_and_everybody_gets_a_turn(steps: list[tuple[bool, int, int]]) -> None:
    admission = Admission(places=3, budget=60)
    costs: dict[str, int] = {}
    for asks, number, cost in steps:
        who = f"dev-{number}"
        if asks:
            if who not in admission.admitted:
                costs[who] = cost
            admission.ask(who, cost, 0.0)
        else:
            admission.release(who, 0.0)
        assert len(admission.admitted) <= 3
        assert sum(costs[one] for one in admission.admitted) <= 60
        assert admission.admitted or not admission.queued
    turns = 0
    while admission.admitted:
        admission.release(admission.admitted[0], 0.0)
        turns += 1
    assert not admission.queued
    assert turns <= len(costs)
