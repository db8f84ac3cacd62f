"""Runs the demo from its options to its report."""

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mhfl_mq.cli.demo.checks import check_broker, check_writable, not_writable
from mhfl_mq.cli.demo.fleet import DemoDevice, Fleet
from mhfl_mq.cli.demo.report import BASELINES, DemoResult, last_mean, plot, table
from mhfl_mq.cli.demo.story import MOST_ROUNDS, Story
from mhfl_mq.cli.options import policy_file
from mhfl_mq.cli.output import Progress, print_table, say
from mhfl_mq.cli.policies import read_installed_policy
from mhfl_mq.cli.signals import run_interruptible
from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Cut, Evaluated
from mhfl_mq.policy import Policy
from mhfl_mq.run.rules import algorithm_of, tier_metrics
from mhfl_mq.run.training import subject_of
from mhfl_mq.store.files import explained
from mhfl_mq.store.view import open_view
from mhfl_mq.train.client import Worker
from mhfl_mq.train.reports import Participant, ProbeReport

__all__ = ["run_demo"]

TASK = "wind"
MARK = "mhfl-demo"
"""A file in the demo's folder: only a folder with it is emptied."""


def run_demo(
    *,
    devices: int,
    rounds: int | None,
    broker: str | None,
    data: Path | None,
    policy: Path | None,
    seed: int,
    json_file: Path | None,
    folder: Path,
    kills: bool,
) -> None:
    """Run it; raises `MhflError` when something does not work."""
    began = time.monotonic()
    rules_file = policy_file(policy)
    rules = read_installed_policy(rules_file)
    if json_file is not None:
        check_writable(json_file, folder)
    if broker is not None:
        check_broker(broker)
    _empty(folder)
    fleet = Fleet(folder, TASK, data, rules_file, seed, url=broker or "")
    say(f"policy {rules.name}: tiers {', '.join(tier.name for tier in rules.tiers)}, {rules.algorithm.name}")
    try:
        say(f"broker: {fleet.start_broker()}")
        fleet.start_aggregator(rounds or MOST_ROUNDS, devices)
        say("measuring this machine: what a step of each tier costs, so that devices can play weaker ones")
        members = _members(devices, run_interruptible(_measure(rules, data)))
        for device in members:
            fleet.start_device(device)
        say(f"started the aggregator and {devices} devices as processes; logs in {folder}/")
        say(f"look inside from another terminal: mhfl status --state {fleet.state} --watch")
        with Progress("rounds", rounds or MOST_ROUNDS) as bar:
            story = Story(fleet, members, rounds, kills, bar.tell, bar.update, began)
            story.run()
        trained_s = time.monotonic() - began
        tiers = story.tiers()
    finally:
        fleet.stop()
    say("training the baselines with the same rounds, data and settings")
    baselines = run_interruptible(_baselines(rules, members, tiers, len(story.losses), data, seed))
    result = _result(rules, story, tiers, baselines, seed, trained_s)
    _show(result, folder, json_file)
    if data is None:
        say("a table of wind speed alone reaches 0.862 on this test part: easy physics")


def _empty(folder: Path) -> None:
    """A new folder, or an old demo's, emptied; anybody else's folder is left alone."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        what = f"the folder {folder} is not empty, and not a demo's"
        raise ConfigError(what, where="--folder", remedy="name another with --folder")
    with explained(folder, "making the demo's folder"):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / MARK).touch()


async def _measure(rules: Policy, data: Path | None) -> ProbeReport:
    """What each tier costs on this machine, so that devices can play weaker ones."""
    async with Worker(TASK, data=data) as worker:
        return await worker.probe(subject_of(rules), shard="0/8")


def _members(count: int, here: ProbeReport) -> list[DemoDevice]:
    """Devices of as many strengths as there are tiers, the strengths alternating over the shares of the data.

    One machine plays them all: a device of strength k has memory for tier k and not for tier k + 1, and is slower the
    weaker it is. It still measures itself, and the policy still decides.
    """
    peaks = [probe.peak_bytes for probe in here.probes]
    members = []
    for number in range(count):
        strength = number % len(peaks)
        weaker = len(peaks) - 1 - strength
        memory = math.sqrt(peaks[strength] * peaks[strength + 1]) / 1e6 if weaker else 0.0
        members.append(DemoDevice(f"device-{number + 1}", f"{number}/{count}", 1.0 + weaker, memory))
    return members


async def _baselines(
    rules: Policy, members: list[DemoDevice], tiers: dict[str, int], rounds: int, data: Path | None, seed: int
) -> dict[str, float]:
    algorithm = algorithm_of(rules)
    if algorithm.evaluated is Evaluated.DEVICES or algorithm.plan.cut is Cut.APART:
        say(f"the tiers of {algorithm.about.name} are no sizes of one model: `mhfl bench` compares it with others")
        return {}
    participants = [Participant(device.shard, tiers[device.name]) for device in members if device.name in tiers]
    subject = subject_of(rules)
    subject = replace(subject, options={**subject.options, "seed": float(seed)})
    largest = len(rules.tiers) - 1
    kinds = [kind for kind in BASELINES if kind != "exclusive-largest" or largest in tiers.values()]
    if len(kinds) < len(BASELINES):
        say("no device carries the largest tier: there is no exclusive-largest to compare with")
    found: dict[str, float] = {}
    with Progress("baselines", len(kinds)) as bar:
        async with Worker(TASK, data=data) as worker:
            for kind in kinds:
                bar.tell(f"baseline {kind}: {BASELINES[kind]}")
                bar.update(len(found))
                report = await worker.baseline(
                    kind,
                    subject,
                    participants,
                    rounds=rounds,
                    seed=seed,
                )
                found[kind] = report.score
        bar.update(len(found))
    return found


def _result(
    rules: Policy, story: Story, tiers: dict[str, int], baselines: dict[str, float], seed: int, trained_s: float
) -> DemoResult:
    versions = [version for version in story.versions if version.round is not None]
    scores = last_mean(versions)
    with open_view(story.fleet.state) as view:
        rounds = view.rounds(last=len(versions) + MOST_ROUNDS)
        head = view.restore().head
    invited = sum(len(one.opened.cohort) for one in rounds if one.closed is not None)
    counted = sum(one.counted for one in rounds if one.closed is not None)
    board: dict[str, Any] = dict(story.board)
    lengths = board["lengths"]
    record = {
        "rounds": len(versions),
        "participation": counted / invited if invited else 0.0,
        "tiers": {
            tier.name: {
                "accuracy": scores[tier.name],
                "devices": sum(given == k for given in tiers.values()),
                "parameters": lengths[k],
            }
            for k, tier in enumerate(rules.tiers)
        },
        "baselines": {name: {"accuracy": score} for name, score in baselines.items()},
        "bytes": board["bytes"],
        "seconds": {"first_round": story.first_round_s, "total": trained_s, **board["seconds"]},
        "seed": seed,
        "policy": rules.digest,
        "model": "" if head is None else head.model,
        "killed": story.killed,
    }
    curves = {tier.name: [tier_metrics(version.metrics)[tier.name] for version in versions] for tier in rules.tiers}
    return DemoResult(record, curves)


def _show(result: DemoResult, folder: Path, json_file: Path | None) -> None:
    for title, columns, rows in table(result.record):
        print_table(title, columns, rows)
    names = list(result.record["tiers"])
    best = max(names, key=lambda name: result.record["tiers"][name]["accuracy"])
    if best != names[-1]:
        say(f"note: tier {best} is better than the largest one, {names[-1]}")
    picture = folder / "demo.png"
    if plot(result, picture):
        say(f"plot: {picture}")
    else:
        say("no plot: install the extra `bench` for matplotlib")
    if json_file is not None:
        try:
            result.write(json_file)
        except OSError as error:
            raise not_writable(json_file, error) from error
        say(f"figures: {json_file}")
