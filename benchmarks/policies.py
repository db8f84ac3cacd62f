"""What policies cost: a decision over 10,000 devices, and the check of 500 lines, beside what they are made of.

A decision's reference is the plainest loop over the same rules that a person would write; a check's is reading the
same text with PyYAML alone.
"""

import random
import statistics
import time
from collections.abc import Callable

import yaml

from benchmarks.table import Row, at_most, note
from mhfl_mq.cli.policies import installed
from mhfl_mq.policy import Algorithm, Participation, PerDevice, Policy, Rule, Schedule, Tier, Window
from mhfl_mq.policy.conditions import condition, holds
from mhfl_mq.policy.eligible import Fleet, decide
from mhfl_mq.policy.facts import DeviceFacts, Past, Upload
from mhfl_mq.policy.load import check_text
from mhfl_mq.shipped import shipped

DEVICES = 10_000
LINES = 500
REPEATS = 9
DECIDE_MS = 100.0
CHECK_MS = 150.0
NOON = 1_795_600_800.0  # a Wednesday


def measure() -> list[Row]:
    """Both figures in milliseconds, each with its reference on a line of its own."""
    fleet, rules = _fleet(), _policy()
    chosen = decide(rules, fleet, NOON).answer
    assert list(chosen) == _plain(rules, fleet)
    text = _long_policy()
    known = installed()
    checked = check_text(text, "long.yaml", known)
    assert checked.policy is not None
    assert text.count("\n") >= LINES
    decided = _ms(lambda: decide(rules, fleet, NOON))
    took = _ms(lambda: check_text(text, "long.yaml", known))
    return [
        at_most(f"decide for {DEVICES} devices, 4 rules and 4 limits: ms", decided, DECIDE_MS),
        note("  a plain loop over the rules of the file alone: ms", _ms(lambda: _plain(rules, fleet))),
        at_most(f"check of a policy of {LINES} lines: ms", took, CHECK_MS),
        note("  reading the same text with PyYAML's C loader: ms", _ms(lambda: yaml.load(text, yaml.CSafeLoader))),
    ]


def _ms(run: Callable[[], object]) -> float:
    """Median of milliseconds, after a first run that warms up."""
    run()
    taken = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1000


def _policy() -> Policy:
    return Policy(
        "bench",
        (Tier("small", 0.5), Tier("large", 1.0)),
        Algorithm("heterofl"),
        participation=Participation(
            require=(
                Rule("enough-memory", (condition("ram_gb", ">= 1"), condition("cpus", ">= 2"))),
                Rule("line", (condition("tags", ["press"]),)),
                Rule("idle", (condition("idle", True),)),
            ),
            forbid=(Rule("low-battery", (condition("on_battery", True), condition("battery", "< 30"))),),
            cooldown_s=3600.0,
            largest_share=0.9,
        ),
        schedule=Schedule(
            timezone="Asia/Tokyo",
            windows=(Window("0 0 * * *", 86_400.0),),
            per_device=PerDevice(min_interval_s=3600.0, upload_bytes=50_000_000),
        ),
    )


def _fleet() -> Fleet:
    luck = random.Random(1)

    def device(number: int) -> DeviceFacts:
        facts = {
            "ram_gb": luck.choice((0.5, 2.0, 8.0, 32.0)),
            "cpus": float(luck.choice((2, 4, 8))),
            "tags": luck.choice((("press", "old"), ("press",), ("weld",))),
            "idle": luck.random() < 0.9,
            "on_battery": luck.random() < 0.2,
            "battery": float(luck.randrange(100)),
            "tier": "small",
        }
        uploads = tuple(Upload(NOON - hours * 3600.0, 1_000_000, 20.0) for hours in (9, 6, 3))
        return DeviceFacts(f"gw-{number:05}", facts, Past(40, 0, NOON - 10_800.0, uploads), NOON, 1_000_000)

    return Fleet(tuple(map(device, range(DEVICES))), rounds=100)


def _plain(policy: Policy, fleet: Fleet) -> list[str]:
    """Rule by rule, condition by condition; the limits of each device are left out, and keep nobody out here."""
    part = policy.participation
    chosen = []
    for device in fleet.devices:
        forbidden = any(all(holds(one, device.facts[one.fact]) for one in rule.conditions) for rule in part.forbid)
        required = all(all(holds(one, device.facts[one.fact]) for one in rule.conditions) for rule in part.require)
        if required and not forbidden:
            chosen.append(device.device)
    return chosen


def _long_policy() -> str:
    """The shipped default with rules, windows and a registry, until it has so many lines."""
    text = shipped("policies").joinpath("default.yaml").read_text("utf-8")
    head = text.replace(
        "    deadline: 2m ",
        "    require:\n"
        + "".join(f'      - {{name: rule-{k}, ram_gb: ">= {k}", tags: [line-{k}]}}\n' for k in range(80))
        + "    deadline: 2m ",
    ).replace(
        "    interval: 0s ",
        "    blackouts:\n"
        + "".join(f"      - {{name: day-{k}, cron: 0 0 {k % 28 + 1} * *, duration: 1h}}\n" for k in range(60))
        + "    interval: 0s ",
    )
    devices = (f"    gw-{k}: {{tags: [line-{k % 9}]}}\n" for k in range(LINES))
    lines = [*head.splitlines(keepends=True), "  devices:\n", *devices]
    return "".join(lines[:LINES])
