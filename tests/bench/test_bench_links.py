"""Bytes take time on a simulated link, one packet after the other."""

import pytest

from mhfl_mq.bench.links import HEADER, LATENCY_S, Links
from mhfl_mq.bench.profiles import profiles
from mhfl_mq.transport.memory import FINE, Hop, Kind

PI = profiles()["raspberry"]


def hop(size: int, *, up: bool = True, who: str = "d0") -> Hop:
    return Hop(Kind.PUBLISH, up, who, "t", bytes(size), 1)


def test_a_packet_takes_the_time_of_its_bytes_and_the_next_one_waits_for_it() -> None:
    links = Links({"d0": PI}, lambda: 5.0)
    took = (1000 + HEADER + 1) / PI.up_bytes_s
    assert links.fate(hop(1000)).delay_s == pytest.approx(took + LATENCY_S)
    assert links.fate(hop(1000)).delay_s == pytest.approx(2 * took + LATENCY_S)
    assert links.used["d0"].busy_s == pytest.approx(2 * took)


def test_the_two_ways_do_not_wait_for_each_other() -> None:
    links = Links({"d0": PI}, lambda: 0.0)
    links.fate(hop(10**6))
    assert links.fate(hop(0, up=False)).delay_s < 1.0
    assert links.used["d0"].up_bytes == 10**6 + HEADER + 1
    assert links.used["d0"].down_bytes == HEADER + 1


def test_a_link_that_rested_is_free() -> None:
    now = [0.0]
    links = Links({"d0": PI}, lambda: now[0])
    first = links.fate(hop(10**6)).delay_s
    now[0] = 60.0
    assert links.fate(hop(10**6)).delay_s == pytest.approx(first)


def test_the_aggregator_has_a_link_without_limits() -> None:
    assert Links({"d0": PI}, lambda: 0.0).fate(hop(10**9, who="_aggregator_")) is FINE
