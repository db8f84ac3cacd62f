"""Who is due in a round, and in which order the others are asked when those are too few."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.protocol.members import Members
from mhfl_mq.protocol.records import DeviceSaved, UpdateCounted
from mhfl_mq.protocol.rules import Candidate, Upload
from mhfl_mq.protocol.uploads import Uploads
from mhfl_mq.testing.machines import LAYOUT, Everybody

NAMES = tuple(f"gw-{number}" for number in range(8))


class ByLink(Everybody):
    """The link's speed is how rarely a device is asked."""

    def upload(self, tier: int, link_bytes_s: float, change: float | None) -> Upload:
        return Upload(every=int(link_bytes_s), why=f"{tier} {change}")


def uploads(every: list[int], latest: tuple[UpdateCounted, ...] = ()) -> tuple[Uploads, tuple[Candidate, ...]]:
    saved = [
        DeviceSaved(name, 1, 0, "fits", LAYOUT, 10, float(pause), ()) for name, pause in zip(NAMES, every, strict=False)
    ]
    members = Members(saved, {}, 10)
    return Uploads(ByLink(), members, latest), tuple((one.device, 0, 0) for one in saved)


PAUSES = st.lists(st.sampled_from((1, 2, 3, 4, 8)), min_size=1, max_size=8)


@given(every=PAUSES, first=st.integers(1, 10**6))
def test_each_device_is_due_once_in_as_many_rounds_as_it_should_be(every: list[int], first: int) -> None:
    asked, candidates = uploads([1, *every[:7]])  # the first is always due, so that nobody is asked before its turn
    rounds = [next(asked.due(candidates, number)) for number in range(first, first + 24)]
    for candidate, pause in zip(candidates[1:], every, strict=False):
        assert sum(candidate in due for due in rounds) == 24 // pause


@given(every=PAUSES, number=st.integers(1, 10**6))
def test_each_further_answer_has_those_before_and_the_last_has_all(every: list[int], number: int) -> None:
    asked, candidates = uploads(every)
    answers = list(asked.due(candidates, number))
    assert answers[-1] == candidates
    for fewer, more in pairwise(answers):
        assert set(fewer) < set(more)


def test_nobody_is_due_where_nobody_is() -> None:
    asked, _ = uploads([1])
    assert list(asked.due((), 1)) == []


def test_the_newest_word_of_a_device_on_its_change_counts() -> None:
    def said(number: int, **metrics: float) -> UpdateCounted:
        return UpdateCounted(number, "gw-0", 0, "b", 4, 1.0, metrics)

    asked, _ = uploads([1], (said(1, change=0.5),))
    assert asked.of([("gw-0", 0)])["gw-0"].why == "0 0.5"
    asked.counted([said(2, change=0.25), said(3, loss=1.0)])
    assert asked.of([("gw-0", 0)])["gw-0"].why == "0 0.25"
    assert asked.of([("gw-1", 1)])["gw-1"].why == "1 None"
