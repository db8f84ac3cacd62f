"""The main test: whole federations under every plan of faults, a hundred seeds here and thousands in the long run."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

import pytest

from mhfl_mq.testing.faults import PLANS
from mhfl_mq.testing.sim import Outcome, simulate

FIRST = {"mixed": 10, "crashes": 7, "network": 4, "malice": 4, "stragglers": 3, "calm": 1}
"""Seeds of each plan that are run together, and must have seen everything that is worth seeing."""
MORE = {"mixed": 24, "crashes": 15, "network": 12, "malice": 12, "stragglers": 8}
CHUNK = 4
LONG = 500
LONG_CHUNK = 25

SOMETIMES = (
    "aborted.quorum missed",
    "aborted.quorum out of reach",
    "aborted.rolled back to version",
    "aborted.the gate said no",
    "broker.died",
    "chunk c 2",  # broadcast
    "chunk chunk in",  # repair of a segment, pulled
    "chunk chunk out",  # an update, pulled
    "crash at effect",
    "crash at write",
    "crash.aggregator collecting",
    "crash.aggregator between rounds",
    "crash.device idle",
    "crash.in merge",
    "ended.BrokerUnreachable",
    "ended.StoreFull",
    "ledger.completed after a crash",
    "ledger.model.rollback",
    "ledger.peer.fault",
    "link.clogged",
    "link.severed",
    "malice",
    "packet.corrupt",
    "packet.cut",
    "packet.duplicate",
    "packet.lost",
    "receipt.counted",
    "receipt.duplicate",
    "receipt.late",
    "receipt.refused",
    "resume.device sending",
    "resume.device training",
    "resume.round with counted updates",
    "resume.round without counted updates",
    "segment.untouched",
    "training.failed",
    "training.slow",
    "update.poisoned",
    "update.twin",
    "wipe",
)


def run_all(runs: Iterable[tuple[str, int]]) -> list[Outcome]:
    """Run them all; fails with the commands that replay those that failed."""
    outcomes = [simulate(seed, plan) for plan, seed in runs]
    failed = [f"{one.error}\n  {one.replay}" for one in outcomes if one.error]
    assert not failed, "\n".join(failed)
    return outcomes


def chunks(counts: dict[str, int], first: dict[str, int], size: int) -> list[tuple[str, int, int]]:
    return [
        (plan, start, min(start + size, first[plan] + count))
        for plan, count in counts.items()
        for start in range(first[plan], first[plan] + count, size)
    ]


def test_the_first_seeds_hold_all_invariants_and_see_everything_worth_seeing() -> None:
    outcomes = run_all((plan, seed) for plan, count in FIRST.items() for seed in range(count))
    seen: Counter[str] = sum((one.seen for one in outcomes), start=Counter())
    assert [what for what in SOMETIMES if not seen[what]] == []


@pytest.mark.parametrize(("plan", "start", "stop"), chunks(MORE, FIRST, CHUNK))
def test_seeds_hold_all_invariants(plan: str, start: int, stop: int) -> None:
    run_all((plan, seed) for seed in range(start, stop))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "start", "stop"), chunks(dict.fromkeys(PLANS, LONG), dict.fromkeys(PLANS, 1000), LONG_CHUNK)
)
def test_thousands_of_seeds_hold_all_invariants(plan: str, start: int, stop: int) -> None:
    run_all((plan, seed) for seed in range(start, stop))


@pytest.mark.parametrize(("plan", "seeds"), [("mixed", 4), ("crashes", 2), ("network", 2), ("malice", 2)])
def test_federations_whose_tiers_are_no_prefixes_hold_all_invariants(plan: str, seeds: int) -> None:
    outcomes = [simulate(seed, plan, apart=True) for seed in range(seeds)]
    assert [one.replay for one in outcomes if one.error] == []
    assert all("--apart" in one.replay for one in outcomes)
    assert sum(one.commits for one in outcomes) >= seeds


@pytest.mark.slow
@pytest.mark.parametrize("devices", [3, 25])
def test_small_and_large_federations_hold_all_invariants(devices: int) -> None:
    failed = [one.replay for seed in range(20) if (one := simulate(seed, "mixed", devices=devices)).error]
    assert not failed


def test_a_hundred_seeds_are_run() -> None:
    assert sum(FIRST.values()) + sum(MORE.values()) >= 100
    assert FIRST.keys() == PLANS.keys()


def test_a_seed_is_the_same_run_in_another_process_under_another_hash_seed() -> None:
    script = (
        "import json\n"
        "from mhfl_mq.testing.sim import simulate\n"
        "runs = [simulate(*run) for run in ((0, 'mixed'), (1, 'network'), (2, 'crashes'))]\n"
        "print(json.dumps([(one.digest, one.seconds, one.rounds, dict(one.seen)) for one in runs]))"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "4711")
    ]
    assert json.loads(answers[0]) == json.loads(answers[1])


def test_another_seed_is_another_run() -> None:
    assert simulate(0, "calm").digest != simulate(1, "calm").digest
