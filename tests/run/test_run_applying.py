"""Which policy may take the place of a running one, and why another may not."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import Algorithm, Budget, Limits, Participation, Policy, Tier
from mhfl_mq.protocol.entries import policy_refused
from mhfl_mq.protocol.rules import Rules
from mhfl_mq.run.applying import Applying, cold_changes
from mhfl_mq.run.rules import PolicyDecider
from mhfl_mq.store.requests import PolicyRequest
from mhfl_mq.testing.machines import example_rules

RUNNING = Policy("line", (Tier("small", 0.5), Tier("large", 1.0)), Algorithm("heterofl", "uniform", {"steps": 5}))


def make(policy: Policy) -> tuple[Rules, PolicyDecider]:
    return example_rules(policy=policy.digest), PolicyDecider(policy, (10, 20), random.Random(0))


def applying(running: Policy, new: Policy, signers: Path | None = None) -> Applying:
    return Applying(running, make, read=lambda _text, _file: new, signers=signers, now=lambda: datetime.now(UTC))


def asked(signatures: str = "") -> PolicyRequest:
    return PolicyRequest(Path("request.json"), "text", signatures, "line.yaml", "a drill", "ana")


def test_a_policy_that_may_be_applied_is_ready_for_the_machine_with_what_the_ledger_says() -> None:
    new = replace(RUNNING, participation=Participation(deadline_s=60.0), revision=1)
    one = applying(RUNNING, new)
    planned = one.plan(asked())
    assert planned.rules.policy == new.digest
    assert planned.facts == {
        "policy": new.digest,
        "was": RUNNING.digest,
        "name": "line",
        "revision": 1,
        "reason": "a drill",
        "who": "ana",
        "signed_by": [],
    }
    assert one.policy == RUNNING
    one.took(planned)
    assert one.policy == new


@pytest.mark.parametrize(
    ("running", "new", "says"),
    [
        (0, 0, ""),
        (0, 1, ""),
        (1, 2, ""),
        (1, 1, "revision 1 does not follow revision 1"),
        (2, 1, "revision 1 does not follow revision 2"),
        (1, 0, "revision 0 does not follow revision 1"),
    ],
)
def test_a_revision_only_counts_up_once_it_is_counted(running: int, new: int, says: str) -> None:
    other = replace(RUNNING, description="another", revision=new)
    one = applying(replace(RUNNING, revision=running), other)
    if not says:
        assert one.plan(asked()).policy == other
        return
    with pytest.raises(ConfigError, match=says):
        one.plan(asked())


def test_the_running_policy_again_is_refused() -> None:
    with pytest.raises(ConfigError, match="this policy runs already"):
        applying(RUNNING, RUNNING).plan(asked())


@pytest.mark.parametrize("asks", ["running", "new"])
def test_signatures_are_asked_for_by_the_running_policy_and_by_the_new_one(tmp_path: Path, asks: str) -> None:
    two = replace(RUNNING, require_signatures=2)
    pair = (two, replace(RUNNING, description="b")) if asks == "running" else (RUNNING, two)
    with pytest.raises(ConfigError, match="2 people must sign, and nobody is known who may"):
        applying(*pair).plan(asked())
    signers = tmp_path / "signers"
    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    signers.write_text(f"ana@plant {public}\n")
    with pytest.raises(ConfigError, match="signed by 0 of the 2 people required"):
        applying(*pair, signers).plan(asked("garbage"))
    with pytest.raises(ConfigError, match="cannot be read"):
        applying(*pair, tmp_path / "nowhere").plan(asked())


def test_an_aggregator_that_reads_no_policies_says_so() -> None:
    one = Applying(RUNNING, make, read=None, signers=None, now=lambda: datetime.now(UTC))
    with pytest.raises(ConfigError, match="reads no policies"):
        one.plan(asked())


@pytest.mark.parametrize(
    ("change", "cold"),
    [
        (lambda one: replace(one, tiers=(Tier("small", 0.25), one.tiers[1])), ["tiers (names and sizes)"]),
        (lambda one: replace(one, algorithm=replace(one.algorithm, name="fjord")), ["algorithm.name"]),
        (lambda one: replace(one, limits=Limits(devices=5)), ["limits.devices"]),
        (lambda one: replace(one, limits=Limits(update_bytes=2**30)), ["limits.update_bytes"]),
        (lambda one: replace(one, algorithm=replace(one.algorithm, options={"steps": 9})), []),
        (lambda one: replace(one, tiers=(replace(one.tiers[0], budget=Budget(step_s=1.0)), one.tiers[1])), []),
        (lambda one: replace(one, tiers=(replace(one.tiers[0], every=2), one.tiers[1])), []),
    ],
)
def test_what_only_a_restart_can_change_is_named(change: Callable[[Policy], Policy], cold: list[str]) -> None:
    assert cold_changes(RUNNING, change(RUNNING)) == cold
    new = replace(change(RUNNING), description="another")
    if cold:
        with pytest.raises(ConfigError, match="only a restart can change"):
            applying(RUNNING, new).plan(asked())
    else:
        assert applying(RUNNING, new).plan(asked()).policy == new


def test_a_refusal_in_the_ledger_cannot_forge_lines() -> None:
    entry = policy_refused("line\n.yaml", "wrong\x1b[0m", "ana")
    assert entry.kind == "policy.refuse"
    assert all(str(text).isprintable() for text in entry.facts.values())
