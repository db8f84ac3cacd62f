"""What a survey says of the tiers follows from the layout."""

import random
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from mhfl_mq.errors import ConfigError, LocalMisuse
from mhfl_mq.families.plan import Cut, Own, Plan
from mhfl_mq.families.sharing.heterofl import HeteroFL
from mhfl_mq.policy import Algorithm, Budget, Communication, Policy, Schedule, Tier, Window
from mhfl_mq.policy.schedule import opening
from mhfl_mq.protocol.rules import Upload
from mhfl_mq.run.rules import PolicyDecider, algorithm_of, choice_of, rules_of
from mhfl_mq.segments import Axis, Layout, Parameter
from mhfl_mq.segments import Tier as LayoutTier
from mhfl_mq.wire.messages import Capability, ProbeResult, TierSpec


def policy(*names: str) -> Policy:
    tiers = tuple(Tier(name, 1.0) for name in names)
    return Policy(name="p", tiers=tiers, algorithm=Algorithm("heterofl", "uniform", {}))


def tiers_of(layout: Layout) -> tuple[TierSpec, ...]:
    return rules_of(policy(*(tier.name for tier in layout.tiers)), task="t", agent="a", layout=layout).tiers


def apart(count: int, *, shared: bool) -> Layout:
    tiers = tuple(LayoutTier(f"t{k}", architecture=f"net{k}") for k in range(count))
    own = [Parameter(f"t{k}:w", (Axis(k + 1),), only=k) for k in range(count)]
    body = [Parameter("body", (Axis(5),))] if shared else []
    return Layout(tiers, {}, (*own, *body))


def test_nothing_is_said_of_the_segments_of_a_prefix() -> None:
    layout = Layout((LayoutTier("s", 0.5), LayoutTier("l")), {"g": (2, 4)}, (Parameter("w", (Axis(4, group="g"),)),))
    assert tiers_of(layout) == (TierSpec("s", 0.5, 0, 2), TierSpec("l", 1.0, 0, 4))


def test_a_tier_that_is_no_prefix_says_which_segments_it_holds() -> None:
    assert tiers_of(apart(2, shared=True)) == (
        TierSpec("t0", 1.0, 0, 6, "net0", (0, 1)),
        TierSpec("t1", 1.0, 0, 7, "net1", (0, 2)),
    )


def test_a_layout_of_more_segments_than_a_head_can_name_is_refused() -> None:
    assert len(tiers_of(apart(31, shared=True))) == 31
    with pytest.raises(ConfigError, match="33 segments, more than 32"):
        tiers_of(apart(32, shared=True))


def test_a_layout_of_other_tiers_is_our_mistake() -> None:
    with pytest.raises(LocalMisuse, match="other tiers"):
        rules_of(policy("x"), task="t", agent="a", layout=apart(1, shared=False))


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Plan(own=(Own("logits", ("public", "classes")), Own("rows", ("rows",)))), "its logits, rows travel beside"),
        (Plan(rolls=True), "in another order in each round"),
        (Plan(cut=Cut.RANKED), "in another order in each round"),
    ],
)
def test_a_plan_whose_updates_cannot_be_compacted_is_refused_where_the_policy_compacts(plan: Plan, says: str) -> None:
    plain = policy("s")
    packed = replace(plain, communication=Communication(precision=8))
    rare = replace(plain, communication=Communication(every=2))
    assert algorithm_of(packed).about.name == "heterofl"
    with mock.patch.object(HeteroFL, "PLAN", plan):
        algorithm_of(plain)
        algorithm_of(rare)
        with pytest.raises(ConfigError, match=f"updates of heterofl cannot be compacted: .*{says}"):
            algorithm_of(packed)


def test_the_schedules_answer_is_kept_until_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def counted(schedule: Schedule, deadline_s: float, now: float, committed_at: float | None, salt: str) -> Any:
        asked.append(now)
        return opening(schedule, deadline_s, now, committed_at, salt)

    monkeypatch.setattr("mhfl_mq.run.rules.opening", counted)
    hourly = replace(policy("s"), schedule=Schedule(cron="0 * * * *", within_s=600.0))
    decider = PolicyDecider(hourly, (10,), random.Random(0))
    assert (decider.opening(700.0, None).yes, decider.opening(800.0, None).changes_s) == (False, 2800.0)
    assert decider.opening(3600.0, None).yes
    assert decider.opening(4000.0, None).changes_s == 200.0
    assert not decider.opening(4000.0, 3600.0).yes  # a round was made meanwhile
    assert not decider.opening(3700.0, 3600.0).yes  # a clock that was set back
    assert asked == [700.0, 3600.0, 4000.0, 3700.0]
    never = replace(policy("s"), schedule=Schedule(cron="0 * * * *", within_s=600.0, windows=HALVES))
    decider = PolicyDecider(never, (10,), random.Random(0))
    asked.clear()
    for minute in range(0, 1440, 10):
        assert not decider.opening(60.0 * minute, None).yes
    assert asked == [0.0]


HALVES = (Window("30 * * * *", 900.0),)


def test_a_tier_is_asked_as_often_as_it_says_unless_the_communication_says_less() -> None:
    plain = policy("s", "l")
    tiers = (replace(plain.tiers[0], every=2), replace(plain.tiers[1], every=3))
    slow = PolicyDecider(replace(plain, tiers=tiers), (10, 20), random.Random(0))
    assert [slow.upload(tier, 0.0, None).every for tier in (0, 1)] == [2, 3]
    slower = PolicyDecider(
        replace(plain, tiers=tiers, communication=Communication(every=3)), (10, 20), random.Random(0)
    )
    assert [slower.upload(tier, 0.0, None).every for tier in (0, 1)] == [3, 3]


def test_how_a_device_sends_is_said_in_numbers_and_why_where_it_is_less_than_the_best() -> None:
    adaptive = replace(policy("s"), communication=Communication(adaptive=True, transfer_s=1.0))
    decider = PolicyDecider(adaptive, (1_000_000,), random.Random(0))
    assert decider.upload(0, 0.0, None) == Upload({"precision": 32.0, "top_k": 1.0}, most_bytes=4_000_000)
    slow = decider.upload(0, 700_000.0, 0.5)
    assert (slow.options, slow.every) == ({"precision": 8.0, "top_k": 0.5}, 1)
    assert slow.why == "int8, the largest 50 %; int8: 1 MB a round are 1.43 s, over 1 s"
    plain = PolicyDecider(policy("s"), (1_000_000,), random.Random(0))
    assert plain.upload(0, 1.0, 0.0) == Upload(most_bytes=4_000_000)
    rare = replace(policy("s"), communication=Communication(every=3))
    assert PolicyDecider(rare, (10,), random.Random(0)).upload(0, 1.0, 0.0) == Upload(every=3, most_bytes=40)


def test_the_aggregators_own_tier_is_given_to_no_device_whatever_it_says_of_itself() -> None:
    tiers = tuple(Tier(name, 1.0) for name in ("small", "large", "server"))
    probes = tuple(ProbeResult(tier.name, 1e-6, 1) for tier in tiers)
    everything = Capability(1, "0" * 64, 10, 1e9, probes)
    only_the_servers = Capability(1, "0" * 64, 10, 1e9, probes[2:])
    for name, given in (("heterofl", 2), ("feddf", 1), ("feddf-weights", 1), ("fedet", 1)):
        decider = PolicyDecider(Policy("p", tiers, Algorithm(name)), (10, 20, 30), random.Random(0))
        assert decider.assign(everything).tier == given
        refused = decider.assign(only_the_servers)
        assert refused.tier == (2 if given == 2 else None)
        assert refused.yes is (given == 2)


def test_an_algorithm_whose_last_tier_is_the_aggregators_needs_another_for_the_devices() -> None:
    for name in ("feddf", "feddf-weights", "fedet"):
        with pytest.raises(ConfigError, match=f"{name} keeps the last tier.*two tiers"):
            algorithm_of(Policy("p", (Tier("only", 1.0),), Algorithm(name)))


def test_the_head_says_which_tiers_model_is_the_better_one_where_somebody_can_know() -> None:
    tiers = (Tier("small", 0.5), Tier("large", 1.0))
    better = {"accuracy/small": 0.9, "accuracy/large": 0.4}
    nested = PolicyDecider(Policy("p", tiers, Algorithm("heterofl")), (10, 20), random.Random(0))
    assert nested.best(better) == (0, 0)
    assert nested.best({"accuracy/small": 0.4, "accuracy/large": 0.9}) == ()
    apart = PolicyDecider(
        Policy("p", tiers, Algorithm("fedgroups")), (10, 20), random.Random(0), holds=((0, 1), (0, 2))
    )
    assert apart.best(better) == ()
    kept = PolicyDecider(Policy("p", tiers, Algorithm("fedmd")), (10, 10), random.Random(0), holds=((0,), (0,)))
    assert kept.best(better) == ()


@pytest.mark.parametrize(
    ("budget", "tiers", "algorithm", "why"),
    [
        (Budget(step_s=1.0), ((0.5, 0), (1.0, 0)), "slimmable", "computation binds"),
        (Budget(transfer_s=1.0), ((1.0, 1), (1.0, 2)), "depthfl", "communication binds"),
        (Budget(memory_bytes=10), ((1.0, 1), (1.0, 0)), "fedepth", "memory binds"),
        (Budget(memory_bytes=10), ((0.5, 0), (1.0, 0)), "fjord", "memory binds"),
        (Budget(step_s=1.0, memory_bytes=10), ((0.5, 1), (1.0, 2)), "scalefl", "several budgets bind"),
        (Budget(), ((1.0, 0),), "fedavg", "one tier"),
    ],
)
def test_auto_picks_by_what_the_budgets_bind_and_says_why(
    budget: Budget, tiers: tuple[tuple[float, int], ...], algorithm: str, why: str
) -> None:
    named = tuple(Tier(f"t{k}", width, depth, budget) for k, (width, depth) in enumerate(tiers))
    chosen = choice_of(Policy("p", named, Algorithm("auto")))
    assert chosen is not None
    assert (chosen.algorithm, why in chosen.why) == (algorithm, True)
    assert algorithm_of(Policy("p", named, Algorithm("auto"))).about.name == algorithm


def test_auto_takes_prototypes_where_tiers_are_unrelated_models_and_says_nothing_where_a_policy_names_one() -> None:
    foreign = (Tier("a", 1.0, architecture="mlp"), Tier("b", 1.0, architecture="lstm"))
    chosen = choice_of(Policy("p", foreign, Algorithm("auto")))
    assert chosen is not None
    assert chosen.algorithm == "fedproto"
    assert choice_of(Policy("p", foreign, Algorithm("fedmd"))) is None
