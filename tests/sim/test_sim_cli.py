"""`mhfl simulate`: runs seeds, and says how to replay the one that failed."""

import dataclasses
import json

import pytest
from click.testing import CliRunner, Result

from mhfl_mq.cli import simulate as module
from mhfl_mq.testing.sim import Outcome, simulate


def invoke(*words: str) -> Result:
    return CliRunner().invoke(module.command, words, standalone_mode=False)


def test_a_seed_is_run_and_its_digest_shown() -> None:
    result = invoke("--seed", "3", "--plan", "calm", "--devices", "3")
    assert result.return_value == 0
    digest = simulate(3, "calm", devices=3).digest
    assert result.stdout.splitlines()[-1].startswith("1 seeds, 0 failed; ")
    assert result.stdout.strip().endswith(f"digest {digest}")


def test_many_seeds_give_one_document() -> None:
    result = invoke("--seeds", "1..2", "--plan", "calm", "--devices", "3", "--json")
    document = json.loads(result.stdout)
    assert document["ok"]
    assert [run["seed"] for run in document["runs"]] == [1, 2]
    assert all(run["commits"] and "trace" not in run for run in document["runs"])


def test_a_trace_tells_each_event_with_its_time_and_node() -> None:
    result = invoke("--seed", "1", "--plan", "calm", "--devices", "3", "--trace")
    lines = [line for line in result.stdout.splitlines() if "Heard d0 update_ready round=1" in line]
    assert lines
    assert lines[0].split()[1] == "aggregator"


def test_a_failure_says_how_to_replay_it_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    right = simulate(0, "calm", devices=3)

    def wrong(seed: int, plan: str, *, devices: int, trace: bool, apart: bool) -> Outcome:
        return dataclasses.replace(right, seed=seed, apart=apart, error="Violation: planted" if seed == 1 else "")

    monkeypatch.setattr(module, "simulate", wrong)
    result = invoke("--seeds", "0..2", "--plan", "calm", "--devices", "3")
    assert result.return_value == 1
    assert "seed 1 failed: Violation: planted" in result.stderr
    assert "replay: mhfl simulate --seed 1 --plan calm --devices 3 --trace" in result.stderr
    result = invoke("--seed", "1", "--plan", "calm", "--devices", "3", "--apart")
    assert "replay: mhfl simulate --seed 1 --plan calm --devices 3 --apart --trace" in result.stderr


@pytest.mark.parametrize(
    "words", [("--seeds", "2..1"), ("--seeds", "x"), ("--seed", "1", "--seeds", "1..2"), ("--plan", "nonesuch")]
)
def test_wrong_usage_is_told(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(module.command, words)
    assert result.exit_code == 2
