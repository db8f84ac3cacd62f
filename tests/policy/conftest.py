"""Policies to check: a whole one, and the names that it may use."""

from pathlib import Path

import pytest

from mhfl_mq.policy.load import Known

SHIPPED = Path(__file__).parents[2] / "policies"

WHOLE = """\
apiVersion: mhfl-mq/v1
kind: FederationPolicy
metadata: {name: line-3, description: a test}
spec:
  tiers:
    - {name: small, width: 0.25, budget: {step_ms: 40, memory_mb: 300, transfer_s: 10}, depth: 2}
    - {name: large, width: 1.0, depth: 4}
  algorithm:
    name: heterofl
    options: {weighting: uniform, steps: 5, batch: 16, rate: 0.01, static: 1}
  participation:
    cohort: 10
    over_provision: 1.2
    quorum: {min: 3, fraction: 0.6}
    deadline: 15m
  schedule: {interval: 1h30m, max_rounds: 50}
  gate: {max_drop: 0.02}
  stages:
    - {name: dp, options: {epsilon: 6.0, mode: local}}
  limits:
    update_bytes: 2MB
    chunk_bytes: 64KiB
    concurrent_uploads: 2
    devices: 20
    max_weight: 5000
    largest_value: 10
    broadcast_bytes_s: 1MB
"""


@pytest.fixture
def whole() -> str:
    """A policy that uses every key."""
    return WHOLE


PLANNED = """\
  schedule:
    timezone: Asia/Tokyo
    cron: 0 2 * * 1-5
    within: 90m
    jitter: 5m
    windows:
      - {name: night, cron: 0 22 * * *, duration: 8h}
    blackouts:
      - {name: month-end, cron: 0 0 L * *, duration: 1d}
      - {cron: 30 4 * * 7, duration: 20m}
    per_device: {min_interval: 1h, upload_per_day: 50MB, training_per_day: 20m, quiet_on_battery: true}
  devices:
    gw-*: {tags: [press, line-3]}
  require_signatures: 2
  kpi:
    - {metric: participation_rate, target: ">= 0.8", window: 7d}
    - {metric: bytes_per_device_round, target: "<= 2MB"}
    - {metric: energy_per_device_round, target: "<= 500", watts: 12}
    - {metric: time_to_accuracy, target: "<= 2h", of: 0.9}
"""


RULES = """\
    deadline: 15m
    require:
      - {name: enough-memory, ram_gb: ">= 1"}
      - {name: press-line, tags: [press], device: [gw-*, pc-1]}
    forbid:
      - {name: low-battery, on_battery: true, battery: "< 30"}
    largest_share: 0.5
    cooldown: 30m
    failures: 2
"""


@pytest.fixture
def planned() -> str:
    """The same with rules, and with a schedule that uses every key but the interval."""
    text = WHOLE.replace("  schedule: {interval: 1h30m, max_rounds: 50}\n", "")
    text = text.replace("name: line-3,", "name: line-3, revision: 7,")
    return text.replace("    deadline: 15m\n", RULES).replace("depth: 4}", "depth: 4, every: 2}") + PLANNED


@pytest.fixture
def known() -> Known:
    """The names that are installed, for the tests."""
    return Known({"heterofl": frozenset({"static"}), "fedavg": frozenset()}, frozenset({"dp", "secagg"}))


@pytest.fixture
def shipped_policies() -> list[Path]:
    """Every policy that ships."""
    return sorted(SHIPPED.glob("*.yaml"))
