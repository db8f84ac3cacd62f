"""Translates a policy into what the aggregator's machine goes by, and lends it the policy's decisions."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mhfl_mq.errors import ConfigError, LocalMisuse
from mhfl_mq.families import (
    AUTO,
    Algorithm,
    Choice,
    Constraint,
    Evaluated,
    algorithm_numbers,
    choose_algorithm,
    make_algorithm,
)
from mhfl_mq.policy import (
    Communication,
    How,
    Member,
    Policy,
    assign_tier,
    best_tiers,
    choose,
    gate,
    invite,
    quorum_needed,
    upload_bytes,
)
from mhfl_mq.policy.eligible import Eligibility
from mhfl_mq.policy.schedule import jitter, opening
from mhfl_mq.protocol.rules import Asked, Candidate, Decision, May, Opening, Rules, Upload
from mhfl_mq.run.fleet import FactsOf
from mhfl_mq.segments import Layout, Tier
from mhfl_mq.wire.bounds import MAX_SEGMENTS
from mhfl_mq.wire.messages import Capability, TierSpec

__all__ = [
    "PolicyDecider",
    "algorithm_name",
    "algorithm_of",
    "algorithm_why",
    "choice_of",
    "layout_tiers",
    "plain_rules",
    "rules_of",
    "tier_metrics",
    "training_of",
]


def algorithm_of(policy: Policy) -> Algorithm:
    """The policy's algorithm; raises `ConfigError` when it cannot serve the policy's tiers, or cannot be run here."""
    if policy.stages:  # never run without a privacy that the policy asks for
        names = ", ".join(stage.name for stage in policy.stages)
        remedy = "leave `stages: []`, and do not run this policy where it needs them"
        raise ConfigError(f"this release runs no privacy stages yet, the policy names {names}", remedy=remedy)
    name = algorithm_name(policy)
    own = algorithm_numbers(name)
    options: dict[str, object] = {key: value for key, value in policy.algorithm.options.items() if key in own}
    if policy.algorithm.weighting:
        options["weighting"] = policy.algorithm.weighting
    algorithm = make_algorithm(name, options)
    algorithm.check_tiers(len(policy.tiers))
    against = algorithm.plan.against_compacting if policy.communication.compacts else ""
    if against:
        raise ConfigError(
            f"updates of {name} cannot be compacted: {against}",
            where="communication",
            remedy="leave the communication out, or take another algorithm",
        )
    return algorithm


def choice_of(policy: Policy) -> Choice | None:
    """What `algorithm: auto` comes to under this policy, and why; None where the policy names one itself."""
    if policy.algorithm.name != AUTO:
        return None
    budgets = [tier.budget for tier in policy.tiers]
    binding = {
        Constraint.COMPUTATION: any(budget.step_s is not None for budget in budgets),
        Constraint.COMMUNICATION: any(budget.transfer_s is not None for budget in budgets),
        Constraint.MEMORY: any(budget.memory_bytes is not None for budget in budgets),
    }
    bound = [constraint for constraint, binds in binding.items() if binds]
    constraint = bound[0] if len(bound) == 1 else Constraint.MIXED if bound else Constraint.NONE
    if any(tier.architecture for tier in policy.tiers):
        constraint = Constraint.FOREIGN
    return choose_algorithm(
        constraint,
        widths=len({tier.width for tier in policy.tiers}) > 1,
        depths=len({tier.depth for tier in policy.tiers}) > 1,
    )


def algorithm_why(policy: Policy) -> str:
    """Why it is this algorithm, where the policy left the choice to us; else empty."""
    choice = choice_of(policy)
    return "" if choice is None else f"auto: {choice.why}"


def algorithm_name(policy: Policy) -> str:
    """The algorithm that runs under this policy."""
    choice = choice_of(policy)
    return policy.algorithm.name if choice is None else choice.algorithm


def training_of(policy: Policy) -> dict[str, float]:
    """The policy's numbers of local training: those that are not the algorithm's own."""
    own = algorithm_numbers(algorithm_name(policy))
    return {name: value for name, value in policy.algorithm.options.items() if name not in own}


def layout_tiers(policy: Policy) -> tuple[Tier, ...]:
    """The policy's tiers as a layout has them."""
    return tuple(Tier(tier.name, tier.width, tier.depth, tier.architecture) for tier in policy.tiers)


def rules_of(
    policy: Policy,
    *,
    task: str,
    agent: str,
    layout: Layout,
    public: str = "",
    max_rounds: int | None = None,
    seed: int = 0,
) -> Rules:
    """The rules of a federation. `max_rounds` (a number of the command line) wins over the policy's.

    `seed` draws the devices' batches; it travels in the offers.
    """
    algorithm = algorithm_of(policy)
    if layout.segments > MAX_SEGMENTS:
        raise ConfigError(
            f"the tiers' models are made of {layout.segments} segments, more than {MAX_SEGMENTS}",
            where="tiers",
            remedy="leave tiers out",
        )
    names = [tier.name for tier in policy.tiers]
    if names != [tier.name for tier in layout.tiers]:
        raise LocalMisuse(f"a layout of other tiers than {names}")
    tiers = tuple(
        TierSpec(tier.name, tier.width, tier.depth, length, tier.architecture, () if _nested(k, held) else held)
        for k, (tier, length, held) in enumerate(zip(layout.tiers, layout.lengths, layout.holds, strict=True))
    )
    rules = plain_rules(policy, layout.digest, tiers)
    return replace(
        rules,
        task=task,
        agent=agent,
        public=public,
        options={"seed": float(seed), **algorithm.device_options(training_of(policy))},
        max_rounds=rules.max_rounds if max_rounds is None else max_rounds,
    )


def plain_rules(policy: Policy, layout: str, tiers: tuple[TierSpec, ...]) -> Rules:
    """What the policy alone says of the rules: no task, and no options that devices train by."""
    part, limits = policy.participation, policy.limits
    return Rules(
        task="",
        agent="",
        layout=layout,
        tiers=tiers,
        algorithm=algorithm_name(policy),
        algorithm_why=algorithm_why(policy),
        policy=policy.digest,
        quorum_min=part.quorum.min,
        cohort=part.cohort,
        deadline_s=part.deadline_s,
        max_devices=limits.devices,
        max_update_bytes=limits.update_bytes,
        max_weight=limits.max_weight,
        batch=int(policy.algorithm.options.get("batch", 1)),
        stages=tuple(stage.name for stage in policy.stages),
        compacts=policy.communication.compacts,
        max_rounds=policy.schedule.max_rounds,
    )


def _nested(tier: int, held: tuple[int, ...]) -> bool:
    """Whether a tier is the prefix that it is when nothing is said of its segments."""
    return held == tuple(range(tier + 1))


_YES: Final = May()
_DAY_S: Final = 86400.0


@dataclass(frozen=True, slots=True)
class _Kept:
    """The schedule's last answer, and from when until when it holds."""

    since: float
    until: float
    committed_at: float | None
    yes: bool
    changes_at: float | None
    why: str


class PolicyDecider:
    """The machine's `Decider` over the policy's pure decisions. `luck` breaks ties between equal candidates.

    `holds` are the segments of each tier (None: tiers are nested).
    `federation` makes its jitter unlike that of others under the same policy.
    With `wait_for` nobody is invited to a federation's first round before so many devices are here.
    """

    def __init__(
        self,
        policy: Policy,
        lengths: Sequence[int],
        luck: random.Random,
        *,
        holds: Sequence[Sequence[int]] | None = None,
        wait_for: int = 0,
        federation: str = "",
    ) -> None:
        self._policy = policy
        self._wait_for = wait_for
        self._federation = federation
        self._lengths = tuple(lengths)
        self._holds = tuple(holds or (range(k + 1) for k in range(len(self._lengths))))
        self._luck = luck
        self._names = tuple(tier.name for tier in policy.tiers)
        self._algorithm = algorithm_of(policy)
        self._kept: _Kept | None = None
        self._eligibility = Eligibility(policy)
        self.facts_of = FactsOf(policy)

    def assign(self, capability: Capability) -> Decision:
        """The largest tier that this device's measured capability carries within the budgets.

        Never the aggregator's own, whatever the device measured.
        """
        given = slice(len(self._names) - 1 if self._algorithm.plan.server else None)
        decision = assign_tier(self._policy.tiers[given], self._lengths[given], capability)
        return Decision(decision.answer is not None, (decision.why,), decision.answer)

    def opening(self, now: float, committed_at: float | None) -> Opening:
        """Whether the schedule allows a round now, and when that changes.

        An answer holds until it changes; one that foresees no round at all is looked for anew after a day.
        """
        schedule, part = self._policy.schedule, self._policy.participation
        kept = self._kept
        if kept is None or committed_at != kept.committed_at or not kept.since <= now < kept.until:
            decision = opening(schedule, part.deadline_s, now, committed_at, self._federation)
            answer, changes_at = decision.answer, decision.answer.changes_at
            until = now + _DAY_S if changes_at is None else changes_at
            kept = self._kept = _Kept(now, until, committed_at, answer.now, changes_at, decision.why)
        changes_s = None if kept.changes_at is None else max(0.0, kept.changes_at - now)
        return Opening(kept.yes, changes_s, kept.why)

    def pause_s(self, last_round: int) -> float:
        """The interval, and what its jitter makes of it; with cron there is none: its jitter is in its times."""
        schedule = self._policy.schedule
        return 0.0 if schedule.cron else schedule.interval_s + jitter(schedule, self._federation, last_round)

    @property
    def selective(self) -> bool:
        """Whether the policy has rules about single devices."""
        return bool(self._eligibility.names)

    def may(self, asked: Asked, rounds: int, now: float) -> May:
        """Whether the rules on facts, and what this device has done, let it in."""
        device = self.facts_of(asked)
        rule = self._eligibility.against(device, rounds, now)
        return May(rule, self._eligibility.free_at(device, rounds, now)) if rule else _YES

    def invite(self, candidates: tuple[Candidate, ...], present: int) -> tuple[str, ...]:
        """Whom to invite, fewest turns first; nobody while too few are here."""
        if len(candidates) < self._wait_for and not any(turns for _, _, turns in candidates):
            return ()
        members = [Member(device, tier, turns) for device, tier, turns in candidates]
        answer = invite(members, self._policy.participation, self._luck, present=present).answer
        return () if answer is None else answer.devices

    def needed(self, invited: int) -> int:
        """How many updates a round of so many invited must count."""
        part = self._policy.participation
        aim = invited if part.cohort is None else min(part.cohort, invited)
        return min(invited, quorum_needed(part.quorum, aim))

    def upload(self, tier: int, link_bytes_s: float, change: float | None) -> Upload:
        """The cheapest loss that this link carries in the policy's time, or what the policy says for everybody."""
        rules, every = self._policy.communication, self._policy.tiers[tier].every
        if rules == Communication():
            return Upload(every=every, most_bytes=upload_bytes(self._lengths[tier], How()))
        decision = choose(link_bytes_s, self._lengths[tier], rules.transfer_s, change, rules)
        how = decision.answer
        options = {"precision": float(how.precision), "top_k": how.top_k} if rules.compacts else {}
        against = [str(reason) for reason in decision.reasons if not reason.holds]  # the last one decided
        most_bytes = upload_bytes(self._lengths[tier], how)
        return Upload(options, max(how.every, every), f"{how}; {against[-1]}" if against else "", most_bytes)

    def weight(self, examples: float) -> float:
        """What an update of so many examples counts, by the policy's weighting."""
        return self._algorithm.weight(examples)

    def best(self, metrics: Mapping[str, float]) -> tuple[int, ...]:
        """For each tier, the tier whose model its devices had better use; empty: each its own."""
        own = tuple(range(len(self._names)))
        if self._algorithm.evaluated is Evaluated.DEVICES:  # nobody but the device has its model
            return ()
        found = best_tiers(self._names, self._holds, tier_metrics(metrics)).answer
        return () if found == own else found

    def gate(self, new: Mapping[str, float], head: Mapping[str, float]) -> Decision:
        """Whether a model with these metrics may follow the head with those."""
        found = tier_metrics(new)
        names = self._names
        if self._algorithm.evaluated is Evaluated.DEVICES:  # a tier without devices has nobody who could say
            names = tuple(name for name in names if name in found)
        decision = gate(names, found, tier_metrics(head), self._policy.gate)
        return Decision(decision.answer, (decision.why, *decision.alarms), alarms=decision.alarms)


def tier_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """`<metric>/<tier>` numbers by tier: what the gate and reports look at. An evaluation has one metric per tier."""
    return {name.partition("/")[2]: value for name, value in metrics.items() if "/" in name}
