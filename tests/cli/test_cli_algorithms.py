"""`mhfl algorithms`: the methods, and one with its options."""

import json
from typing import Any

from mhfl_mq.families import algorithm_names


def test_every_algorithm_stands_with_family_what_travels_linear_and_paper(mhfl: Any) -> None:
    listed = json.loads(mhfl("algorithms", "--json").out)
    assert [one["name"] for one in listed] == list(algorithm_names())
    assert all(one[key] for one in listed for key in ("title", "family", "travels", "paper"))
    assert {one["name"] for one in listed if not one["linear"]} == {"fedtgp", "feddf-weights"}
    table = mhfl("algorithms").out
    assert all(name in table for name in algorithm_names())


def test_one_is_shown_with_its_options_and_their_bounds(mhfl: Any) -> None:
    shown = mhfl("algorithms", "fedrep").out
    assert "a shared body, a head of one's own" in shown
    assert "head_share" in shown
    one = json.loads(mhfl("algorithms", "fedrep", "--json").out)
    assert (one["options"]["head_share"]["low"], one["options"]["head_share"]["high"]) == (0.0, 1.0)


def test_a_wrong_name_is_an_error_with_the_closest_one(mhfl: Any) -> None:
    done = mhfl("algorithms", "fedprot")
    assert done.code == 3
    assert "did you mean 'fedproto'?" in done.err
