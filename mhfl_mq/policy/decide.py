"""Decisions: pure functions from facts and rules to an answer with its reasons.

No clock, no luck, no files: what a decision depends on comes in, so it can be explained, tested and made again. The
name of a rule (`large.step`) is the same in reasons, logs, the ledger and `mhfl policy`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from mhfl_mq.policy.compiled import Gate, Participation, Quorum, Tier
from mhfl_mq.policy.quantities import MAX_SECONDS, show_bytes, show_duration
from mhfl_mq.wire.messages import Capability, ProbeResult

__all__ = [
    "Decision",
    "Invitation",
    "Luck",
    "Member",
    "Reason",
    "assign_tier",
    "best_tiers",
    "gate",
    "invite",
    "quorum_needed",
    "transfer_seconds",
]

AnswerT = TypeVar("AnswerT")

BYTES_PER_COORDINATE: Final = 4  # an update and a segment are raw float32
_A_SECOND: Final = 0.9995  # what rounds to a thousand milliseconds is shown as seconds
_LONGEST_REASON: Final = 400  # characters of `why`: it travels in an `Assign` (512), and people read it in a row


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule, whether it holds, and with which numbers."""

    rule: str
    holds: bool
    says: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.says}"


@dataclass(frozen=True, slots=True)
class Decision(Generic[AnswerT]):
    """An answer with its reasons, in the order in which the rules were looked at.

    `alarms` are sentences that a person should see although the answer stands.
    """

    answer: AnswerT
    reasons: tuple[Reason, ...]
    alarms: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """What decided it, in one line: the rules that do not hold, or all when all hold."""
        against = [str(reason) for reason in self.reasons if not reason.holds]
        text = "; ".join(against or [str(reason) for reason in self.reasons])
        return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


# ---- which tier a device carries ------------------------------------------------------------------------------


def transfer_seconds(length: int, link_bytes_s: float) -> float:
    """Seconds per round that a model of `length` coordinates spends on a link: the model down, the update up."""
    return 2 * length * BYTES_PER_COORDINATE / link_bytes_s


def assign_tier(tiers: Sequence[Tier], lengths: Sequence[int], capability: Capability) -> Decision[int | None]:
    """The largest tier whose measured step time, peak memory and transfer time are within its budget.

    `lengths` are the coordinates that each tier holds. What was not measured does not fit, but for a link that was
    never measured (`link_bytes_s` 0): a device learns its speed from the segments that it receives, and then asks
    again. None: no tier fits. Only what this device measured counts: a share of the full model's width says little
    about its cost.
    """
    probes = {probe.tier: probe for probe in capability.probes}
    answer: int | None = None
    reasons: list[Reason] = []
    for index, (tier, length) in enumerate(zip(tiers, lengths, strict=True)):
        held = _costs(tier, length, probes.get(tier.name), capability.link_bytes_s)
        reasons.extend(held)
        if all(reason.holds for reason in held):
            answer = index
    return Decision(answer, tuple(reasons))


def _costs(tier: Tier, length: int, probe: ProbeResult | None, link_bytes_s: float) -> list[Reason]:
    """The rules of one tier."""
    if probe is None:
        return [Reason(f"{tier.name}.runs", False, "does not run on this device")]
    budget = tier.budget
    reasons = [
        _within(f"{tier.name}.step", probe.step_s, budget.step_s, _milliseconds),
        _within(f"{tier.name}.memory", probe.peak_bytes, budget.memory_bytes, show_bytes),
    ]
    if link_bytes_s > 0:
        seconds = transfer_seconds(length, link_bytes_s)
        reasons.append(_within(f"{tier.name}.transfer", seconds, budget.transfer_s, _seconds))
    else:
        reasons.append(Reason(f"{tier.name}.transfer", True, "link not measured yet"))
    return reasons


class _Show(Protocol):
    def __call__(self, value: float, /) -> str: ...


def _within(rule: str, value: float, bound: float | None, show: _Show) -> Reason:
    if bound is None:
        return Reason(rule, True, f"{show(value)}, no bound")
    holds = value <= bound
    return Reason(rule, holds, f"{show(value)} is {'within' if holds else 'over'} {show(bound)}")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < _A_SECOND else _seconds(seconds)


def _seconds(seconds: float) -> str:
    return show_duration(seconds) if 60 <= seconds <= MAX_SECONDS else f"{seconds:.3g} s"


# ---- who is invited -------------------------------------------------------------------------------------------


class Luck(Protocol):
    """Where luck comes from, e.g. a seeded `random.Random`."""

    def random(self) -> float:
        """A number from 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A device that could be invited: present, with a tier. `turns` is in how many rounds it had its turn."""

    device: str
    tier: int
    turns: int


@dataclass(frozen=True, slots=True)
class Invitation:
    """Whom a round invites, how many updates it aims at, and how many it needs."""

    devices: tuple[str, ...]
    cohort: int
    needed: int


def quorum_needed(quorum: Quorum, cohort: int) -> int:
    """How many updates a round of this cohort needs: the larger of the number and the share, rounded up."""
    # 0.7 * 10 is 7.000000000000001: a share is meant as it is written, so the last digits are dropped first.
    return max(quorum.min, math.ceil(round(quorum.fraction * cohort, 9)))


def invite(
    members: Sequence[Member], rules: Participation, luck: Luck, *, present: int | None = None
) -> Decision[Invitation | None]:
    """Whom to invite; None when too few devices are here to reach the quorum.

    Who had the fewest turns goes first, so that no device is passed over for long; among equals, luck decides. A turn
    is a round that waited for the device, whatever came of it: were only counted updates turns, devices whose updates
    are refused each time would be invited for ever, and nobody else.
    With a largest share of the rounds for each device, no more are invited than that share of the `present` (None: the
    members), so that those who rest take turns and not all at once; but always a quorum.
    The order of `members` does not matter: the same devices and the same luck give the same invitation.
    """
    drawn = [(member.turns, luck.random(), member.device) for member in sorted(members, key=_by_name)]
    here = len(drawn)
    cohort = here if rules.cohort is None else min(rules.cohort, here)
    needed = quorum_needed(rules.quorum, cohort)
    if here < needed:
        short = Reason("quorum", False, f"{_devices(here)} here, {needed} needed")
        return Decision(None, (short,))
    count = min(here, math.ceil(round(cohort * rules.over_provision, 9)))
    if rules.largest_share < 1:
        in_turn = math.floor(round(rules.largest_share * (here if present is None else present), 9))
        count = cohort = min(count, max(needed, in_turn))
    devices = tuple(device for _, _, device in sorted(drawn)[:count])
    reasons = (
        Reason("quorum", True, f"{_devices(here)} here, {needed} needed"),
        Reason("cohort", True, f"{count} invited for a cohort of {cohort}, fewest turns first"),
    )
    return Decision(Invitation(devices, cohort, needed), reasons)


def _by_name(member: Member) -> str:
    return member.device


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


# ---- whether a merged model becomes the head ------------------------------------------------------------------


def gate(tiers: Sequence[str], new: Mapping[str, float], head: Mapping[str, float], rules: Gate) -> Decision[bool]:
    """Whether a merged model may become the head, by its metric per tier (higher is better).

    `tiers` are the names, smallest first. Every tier must have a finite value, and the mean over the tiers that
    the head was measured on may be at most `max_drop` below the head's. An alarm, but no refusal: the largest tier
    is worse than a smaller one, as when too few strong devices train what only they hold.
    """
    unusable = [name for name in tiers if not math.isfinite(new.get(name, math.nan))]
    if unusable:
        return Decision(False, (Reason("finite", False, f"no finite metric for tier {', '.join(unusable)}"),))
    reasons = [Reason("finite", True, f"all of {len(tiers)} metrics are finite")]
    reasons.append(_no_worse([name for name in tiers if math.isfinite(head.get(name, math.nan))], new, head, rules))
    return Decision(all(reason.holds for reason in reasons), tuple(reasons), _largest_is_worse(tiers, new))


def best_tiers(
    tiers: Sequence[str], holds: Sequence[Sequence[int]], metrics: Mapping[str, float]
) -> Decision[tuple[int, ...]]:
    """For each tier, the one whose model its devices had better use: the best of those that they hold whole.

    `holds` are the numbers of each tier's segments. A smaller tier's model is inside a larger one's, so a device whose
    own is worse (too few strong devices trained it) loses nothing by using it. Equally good, the larger one is used; a
    tier that was not measured uses its own.
    """
    answer: list[int] = []
    alarms: list[str] = []
    for k, name in enumerate(tiers):
        own = metrics.get(name, math.nan)
        inside = [
            j for j in range(k) if set(holds[j]) < set(holds[k]) and math.isfinite(metrics.get(tiers[j], math.nan))
        ]
        best = max(inside, key=lambda j: (metrics[tiers[j]], j), default=k)
        better = math.isfinite(own) and best != k and metrics[tiers[best]] > own
        answer.append(best if better else k)
        if better:
            alarms.append(f"devices of tier {name} ({own:.4f}) use tier {tiers[best]} ({metrics[tiers[best]]:.4f})")
    reason = Reason("best", not alarms, "; ".join(alarms) or "each tier's own model is the best that it holds")
    return Decision(tuple(answer), (reason,), tuple(alarms))


def _no_worse(common: Sequence[str], new: Mapping[str, float], head: Mapping[str, float], rules: Gate) -> Reason:
    if rules.max_drop is None:
        return Reason("max_drop", True, "no bound")
    if not common:
        return Reason("max_drop", True, "the head was not measured")
    now, before = (math.fsum(metrics[name] / len(common) for name in common) for metrics in (new, head))
    drop = before - now
    # A drop of exactly the bound passes, whatever the last bit of the mean says.
    holds = drop <= rules.max_drop or math.isclose(drop, rules.max_drop, rel_tol=1e-9)
    return Reason("max_drop", holds, f"mean {before:.4f} -> {now:.4f}, at most {rules.max_drop:g} less is allowed")


def _largest_is_worse(tiers: Sequence[str], new: Mapping[str, float]) -> tuple[str, ...]:
    largest = tiers[-1]
    better = [name for name in tiers[:-1] if new[name] > new[largest]]
    if not better:
        return ()
    best = max(better, key=lambda name: new[name])
    return (f"tier {largest} ({new[largest]:.4f}) is worse than the smaller tier {best} ({new[best]:.4f})",)
