"""Stages: found by name, refused in a wrong order, sealed forward and opened in reverse."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError, LocalMisuse
from mhfl_mq.stages import (
    GROUP,
    Cohort,
    Contribution,
    Domain,
    Entropy,
    Opener,
    Options,
    Quiet,
    Sealer,
    Stage,
    check_order,
    find_stages,
    open_sum,
    seal,
)

SCALE = 2.0**20


@dataclass(frozen=True)
class FixedSealer(Quiet):
    def seal(self, one: Contribution) -> Contribution:
        def words(v: np.ndarray) -> np.ndarray:
            return np.rint(v * SCALE).astype(np.int64).astype(np.uint64)

        sums = {name: words(vector) for name, vector in one.sums.items()}
        return replace(one, domain=Domain.MODULAR, sums=sums, weights=words(one.weights))


@dataclass(frozen=True)
class FixedOpener(Quiet):
    def open(self, total: Contribution) -> Contribution:
        sums = {name: vector.astype(np.int64) / SCALE for name, vector in total.sums.items()}
        return replace(total, domain=Domain.REAL, sums=sums, weights=total.weights.astype(np.int64) / SCALE)


@dataclass(frozen=True)
class Fixed:
    """Real numbers to fixed-point words and back: a stage as a plugin would write it."""

    name: str = "fixed"
    takes: Domain = Domain.REAL
    gives: Domain = Domain.MODULAR

    def check(self, options: Options) -> None:
        if options:
            raise ConfigError("no options")

    def sealer(self, device: str, options: Options, entropy: Entropy) -> Sealer:
        return FixedSealer()

    def opener(self, options: Options, entropy: Entropy) -> Opener:
        return FixedOpener()


@dataclass(frozen=True)
class KeySealer(Quiet):
    key: int

    def seal(self, one: Contribution) -> Contribution:
        return replace(one, sums={n: v + np.uint64(self.key) for n, v in one.sums.items()})


@dataclass(frozen=True)
class KeyOpener(Quiet):
    """Takes the survivors' keys off the sum."""

    total: int

    def open(self, total: Contribution) -> Contribution:
        return replace(total, sums={n: v - np.uint64(self.total) for n, v in total.sums.items()})


@dataclass(frozen=True)
class Silent(Quiet):
    """A half whose dialogue is never over."""

    @property
    def ready(self) -> bool:
        return False

    def seal(self, one: Contribution) -> Contribution:
        return one

    def open(self, total: Contribution) -> Contribution:
        return total


FIXED: Stage = Fixed()
MASK: Stage = Fixed("mask", Domain.MODULAR, Domain.MODULAR)


@given(
    values=st.lists(st.lists(st.integers(-(2**30), 2**30), min_size=2, max_size=2), min_size=1, max_size=4),
)
def test_opening_the_sum_of_sealed_contributions_gives_the_sum(values: list[list[int]]) -> None:
    plain = [
        Contribution("p", Domain.REAL, {"v": np.array(v) / SCALE}, np.array([float(i)])) for i, v in enumerate(values)
    ]
    sealed = [seal([FixedSealer(), KeySealer(7 * i)], one) for i, one in enumerate(plain)]
    total, expected = sealed[0], plain[0]
    for one, other in zip(sealed[1:], plain[1:], strict=True):
        total, expected = total + one, expected + other
    opened = open_sum([FixedOpener(), KeyOpener(sum(7 * i for i in range(len(plain))))], total)
    assert opened.domain is Domain.REAL
    assert opened.sums["v"].tolist() == expected.sums["v"].tolist()
    assert opened.weights.tolist() == expected.weights.tolist()


def test_an_order_in_which_the_numbers_fit_is_accepted() -> None:
    check_order([])
    check_order([FIXED])
    check_order([FIXED, MASK])


@pytest.mark.parametrize("stages", [[MASK], [MASK, FIXED], [FIXED, FIXED]])
def test_an_order_in_which_the_numbers_do_not_fit_is_refused_and_explained(stages: list[Stage]) -> None:
    with pytest.raises(ConfigError, match=r"takes \w+ numbers, but .* gives"):
        check_order(stages)


def test_no_half_seals_or_opens_before_its_dialogue_is_over() -> None:
    one = Contribution("p", Domain.REAL, {"v": np.ones(1)}, np.ones(1))
    with pytest.raises(LocalMisuse, match="seal before"):
        seal([Silent()], one)
    with pytest.raises(LocalMisuse, match="open before"):
        open_sum([Silent()], one)


def test_a_quiet_half_writes_no_letters() -> None:
    tiers: Mapping[str, int] = {"a": 0}
    half = Quiet()
    assert [*half.begin(Cohort(1, (3,), tiers)), *half.receive("a", b""), *half.closing(frozenset({"a"}))] == []
    assert half.ready


def offer(name: str, value: str = "", group: str = GROUP) -> EntryPoint:
    return EntryPoint(name, value or "json:dumps", group)


def test_stages_are_found_by_name_in_the_asked_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda self: {"fixed": FIXED, "mask": MASK}[self.name])
    assert find_stages(["mask", "fixed"], [offer("fixed"), offer("mask")]) == (MASK, FIXED)
    with pytest.raises(ConfigError, match="name one twice"):
        find_stages(["mask", "mask"], [offer("mask")])


def test_a_policy_without_stages_needs_no_plugin() -> None:
    assert find_stages([]) == ()


def test_an_unknown_stage_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'secagg'"):
        find_stages(["secag"], [offer("secagg")])
    with pytest.raises(ConfigError, match="installed are: none"):
        find_stages(["secagg"], [])


def test_a_name_that_two_distributions_claim_is_refused_with_both() -> None:
    with pytest.raises(ConfigError, match="claimed by a:X and b:Y"):
        find_stages(["dp"], [offer("dp", "b:Y"), offer("dp", "a:X")])


def test_only_the_named_stages_are_imported() -> None:
    with pytest.raises(ConfigError, match="not a stage of that name"):
        find_stages(["good"], [offer("good"), offer("bad", "no_such_module:X")])


def test_a_plugin_that_does_not_load_is_named() -> None:
    with pytest.raises(ConfigError, match=r"stage 'bad' \(no_such_module:X\) does not load: ModuleNotFound"):
        find_stages(["bad"], [offer("bad", "no_such_module:X")])
