"""A policy in the place of the running one: what may change while a federation runs, who signed it, and its order.

A policy that is wrong, unsigned, older, or changes what only a restart can change, never replaces the running one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import algorithm_numbers
from mhfl_mq.policy import Policy
from mhfl_mq.policy.signatures import namespace_of, signed_by
from mhfl_mq.policy.signers import read_signers
from mhfl_mq.protocol.records import Fact
from mhfl_mq.protocol.rules import Rules
from mhfl_mq.run.rules import PolicyDecider, algorithm_name
from mhfl_mq.store.requests import PolicyRequest

__all__ = ["KIND", "Applying", "Planned", "cold_changes", "required_signers"]

KIND = "FederationPolicy"
"""The kind of document, which is what a signature is for."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A policy that may be applied, ready for the machine, and what the ledger says of it."""

    policy: Policy
    rules: Rules
    decider: PolicyDecider
    facts: Mapping[str, Fact]


class Applying:
    """The running policy, and the way to another. `read` makes a policy of a file's text, or raises `PolicyError`;
    `make` what the machine goes by; `signers` is the `allowed_signers` file."""

    def __init__(
        self,
        policy: Policy,
        make: Callable[[Policy], tuple[Rules, PolicyDecider]],
        *,
        read: Callable[[str, str], Policy] | None,
        signers: Path | None,
        now: Callable[[], datetime],
    ) -> None:
        self.policy = policy
        self.rules, self.decider = make(policy)
        self._make = make
        self._read = read
        self._signers = signers
        self._now = now

    def plan(self, asked: PolicyRequest) -> Planned:
        """Hold a policy against the running one; raises `ConfigError` or `PolicyError` with what is wrong."""
        if self._read is None:
            raise ConfigError("this aggregator reads no policies", remedy="restart it with the new policy")
        policy = self._read(asked.text, asked.file)
        running = self.policy
        if policy.digest == running.digest:
            raise ConfigError("this policy runs already", where=asked.file, remedy="nothing is to be done")
        if policy.revision < running.revision or (running.revision and policy.revision == running.revision):
            raise ConfigError(
                f"revision {policy.revision} does not follow revision {running.revision}, which runs",
                where=asked.file,
                remedy=f"write metadata.revision: {running.revision + 1}, if it is really newer",
            )
        people = required_signers(
            asked.text.encode(),
            asked.signatures,
            max(policy.require_signatures, running.require_signatures),
            self._signers,
            self._now(),
            asked.file,
        )
        cold = cold_changes(running, policy)
        if cold:
            raise ConfigError(
                f"only a restart can change {', '.join(cold)}",
                where=asked.file,
                remedy="leave these as they are, or stop the aggregator and start it with this policy",
            )
        rules, decider = self._make(policy)
        facts: dict[str, Fact] = {
            "policy": policy.digest,
            "was": running.digest,
            "name": policy.name,
            "revision": policy.revision,
            "reason": asked.reason,
            "who": asked.who,
            "signed_by": list(people),
        }
        return Planned(policy, rules, decider, facts)

    def took(self, planned: Planned) -> None:
        """The machine has it: it is the running one."""
        self.policy, self.rules, self.decider = planned.policy, planned.rules, planned.decider


def required_signers(
    content: bytes, signatures: str, required: int, signers: Path | None, now: datetime, where: str
) -> tuple[str, ...]:
    """Who signed a policy, by name; raises `ConfigError` when they are fewer than required."""
    if signers is None:
        if required:
            remedy = "start the aggregator with --signers FILE, an allowed_signers file as SSH has it"
            raise ConfigError(f"{_people(required)} must sign, and nobody is known who may", where=where, remedy=remedy)
        return ()
    try:
        allowed = read_signers(signers.read_text("utf-8", "replace"), str(signers))
    except OSError as error:
        remedy = "give --signers a file that can be read"
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(signers), remedy=remedy) from None
    people = signed_by(content, signatures, namespace_of(KIND), allowed, now)
    if len(people) < required:
        names = f" ({', '.join(people)})" if people else ""
        raise ConfigError(
            f"signed by {len(people)}{names} of the {_people(required)} required",
            where=where,
            remedy=f"`mhfl policy sign {where} -k KEY`; `mhfl policy verify` says which signatures count",
        )
    return people


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def cold_changes(old: Policy, new: Policy) -> list[str]:
    """What differs that a running aggregator cannot change, by the keys of the file."""
    own = algorithm_numbers(algorithm_name(old))
    both = (old, new)
    both = (old, new)
    numbers: list[object] = [{name: one.algorithm.options.get(name) for name in own} for one in both]
    shapes: list[object] = [[(one.name, one.width, one.depth, one.architecture) for one in each.tiers] for each in both]
    pairs: dict[str, list[object]] = {
        "tiers (names and sizes)": shapes,
        "algorithm.name": [algorithm_name(old), algorithm_name(new)],
        "algorithm.options (the algorithm's own)": numbers,
        "algorithm.options.weighting": [old.algorithm.weighting, new.algorithm.weighting],
        "stages": [old.stages, new.stages],
        **{
            f"limits.{name}": [getattr(old.limits, name), getattr(new.limits, name)]
            for name in (
                "update_bytes",
                "chunk_bytes",
                "concurrent_uploads",
                "largest_value",
                "broadcast_bytes_s",
                "devices",
            )
        },
    }
    return [name for name, (before, after) in pairs.items() if before != after]
