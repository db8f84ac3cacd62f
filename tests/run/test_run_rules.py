"""What a survey says of the tiers follows from the layout."""

import pytest

from mhfl_mq.errors import ConfigError, LocalMisuse
from mhfl_mq.policy import Algorithm, Policy, Tier
from mhfl_mq.run.rules import rules_of
from mhfl_mq.segments import Axis, Layout, Parameter
from mhfl_mq.segments import Tier as LayoutTier
from mhfl_mq.wire.messages import TierSpec


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
