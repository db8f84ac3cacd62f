"""Contributions add: as prefixes, in both domains, and never apples to pears."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.segments import Contribution, Domain

WORDS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6)


def modular(values: list[int]) -> Contribution:
    numbers = np.array(values, np.uint32)
    return Contribution("parameters", Domain.MODULAR, {"prefix": numbers}, numbers[:1])


@given(a=WORDS, b=WORDS, c=WORDS)
def test_adding_is_associative_and_commutative_and_wraps(a: list[int], b: list[int], c: list[int]) -> None:
    x, y, z = modular(a), modular(b), modular(c)
    one, two = (x + y) + z, z + (y + x)
    longest = max(len(a), len(b), len(c))
    padded = [v + [0] * (longest - len(v)) for v in (a, b, c)]
    assert one.sums["prefix"].tolist() == [sum(column) % 2**32 for column in zip(*padded, strict=True)]
    assert one.sums["prefix"].tolist() == two.sums["prefix"].tolist()
    assert one.weights.tolist() == two.weights.tolist()


def test_a_shorter_prefix_adds_to_the_front_and_leaves_both_as_they_were() -> None:
    small = Contribution("parameters", Domain.REAL, {"prefix": np.array([1.0])}, np.array([2.0]))
    large = Contribution("parameters", Domain.REAL, {"prefix": np.array([1.0, 5.0])}, np.array([3.0, 3.0]))
    both = small + large
    assert both.sums["prefix"].tolist() == [2.0, 5.0]
    assert both.weights.tolist() == [5.0, 3.0]
    assert large.sums["prefix"].tolist() == [1.0, 5.0]


def test_contributions_of_different_kinds_do_not_add_up() -> None:
    base = modular([1])
    others = [
        Contribution("logits", Domain.MODULAR, base.sums, base.weights),
        Contribution("parameters", Domain.MODULAR, {"other": base.sums["prefix"]}, base.weights),
        Contribution("parameters", Domain.REAL, {"prefix": np.array([1.0])}, np.array([1.0])),
        Contribution("parameters", Domain.MODULAR, {"prefix": np.array([1], np.uint64)}, base.weights),
    ]
    for other in others:
        with pytest.raises(LocalMisuse, match="do not add up"):
            base + other


@pytest.mark.parametrize(
    ("domain", "numbers"),
    [
        (Domain.REAL, np.array([1], np.uint32)),
        (Domain.MODULAR, np.array([1.0])),
        (Domain.MODULAR, np.array([1], np.int64)),
        (Domain.REAL, np.zeros((2, 2))),
    ],
)
def test_numbers_of_the_wrong_domain_or_shape_are_refused(domain: Domain, numbers: Any) -> None:
    with pytest.raises(LocalMisuse, match=r"parameters\.prefix"):
        Contribution("parameters", domain, {"prefix": numbers}, np.array([1.0]))
