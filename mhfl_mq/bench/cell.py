"""One cell of the matrix: a method under a constraint on a data set with a seed, run and measured, as a document."""

import asyncio
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mhfl_mq.bench.alone import Alone, run_alone
from mhfl_mq.bench.federation import LAST, Setting, Simulated, fast_disk, run_federation
from mhfl_mq.bench.fleet import NEVER_S, Budgets, Cost, Device, fleet_of, place_budgets, tier_of, with_budgets
from mhfl_mq.bench.measures import DeviceFacts, Point, last_mean, mean_over_tiers, stability, time_to
from mhfl_mq.bench.methods import EXCLUSIVE, LOCAL, ONE_TIER, SMALLEST, UPPER
from mhfl_mq.bench.plan import FORMAT, Cell, Plan, algorithm_of, own_costs, reference_costs
from mhfl_mq.bench.profiles import constraints
from mhfl_mq.bench.sets import SETS, DataSet, Kind, kind_of, tiers_of
from mhfl_mq.bench.trainer import Spent
from mhfl_mq.bench.watch import RoundSeen
from mhfl_mq.errors import TaskError
from mhfl_mq.families import algorithm_class
from mhfl_mq.policy import Budget, Tier
from mhfl_mq.segments import Tier as LayoutTier
from mhfl_mq.train.inprocess import LocalWorker
from mhfl_mq.train.reports import Subject
from mhfl_mq.train.task import Task

__all__ = ["Costs", "measure_costs", "run_cell"]

Costs = Mapping[str, Sequence[Cost]]
"""By the names of `mhfl_mq.bench.plan`, tiers smallest first."""


def measure_costs(worker: LocalWorker, data: DataSet, algorithm: str, kind: Kind, plan: Plan) -> list[Cost]:
    """What each tier costs on this machine: the probe of a device, and the lengths of the layout.

    Tiers in width or depth contain the ones below them, so one that was measured to be cheaper shows what those cost at
    most: a busy machine makes steps longer, never shorter.
    """

    async def measured() -> list[Cost]:
        tiers = [_layout_tier(tier) for tier in tiers_of(data, kind)]
        subject = Subject.of(tiers, algorithm, {**data.options, **plan.options})
        description = await worker.describe(subject)
        report = await worker.probe(subject, shard=data.shards(plan.devices)[0])
        if not report.probes:
            raise TaskError("no tier of it runs here", where=data.name, remedy=next(iter(report.left_out.values()), ""))
        found = {probe.tier: probe for probe in report.probes}
        steps = [found[tier.name].step_s if tier.name in found else NEVER_S for tier in tiers]
        if kind is not Kind.FOREIGN:
            steps = [min(steps[index:]) if one < NEVER_S else one for index, one in enumerate(steps)]
        peaks = [found[tier.name].peak_bytes if tier.name in found else 0 for tier in tiers]
        return [Cost(*one) for one in zip(steps, peaks, description.layout.lengths, strict=True)]

    return asyncio.run(measured())


def _layout_tier(tier: Tier) -> LayoutTier:
    return LayoutTier(tier.name, tier.width, tier.depth, tier.architecture)


def run_cell(
    cell: Cell,
    plan: Plan,
    costs: Costs,
    worker: LocalWorker,
    task: Task,
    told: Callable[[int], None] = lambda _rounds: None,
) -> dict[str, Any]:
    """Run it; `told` hears of the rounds that are done. Raises `MhflError` when the run fails."""
    data, case = SETS[cell.data], constraints()[cell.constraint]
    options = {**data.options, **plan.options}
    steps = int(options.get("steps", 1))
    algorithm, own = algorithm_of(cell.method), costs[own_costs(cell.method)]
    budgets = place_budgets(case, costs.get(reference_costs(cell.method), own), steps)
    tiers = with_budgets(tiers_of(data, kind_of(algorithm)), budgets, steps)
    fleet = [
        replace(device, tier=tier_of(tiers, own, device.profile, budgets))
        for device in fleet_of(case, data.shards(plan.devices), cell.seed)
    ]
    setting = Setting(
        task=task,
        folder=None if plan.folder is None else Path(plan.folder),
        algorithm=algorithm,
        tiers=tiers,
        costs=own,
        budgets=budgets,
        devices=fleet,
        options={**options, **data.algorithm_options.get(cell.method, {})},
        rounds=plan.rounds,
        seed=cell.seed,
        cohort=plan.cohort,
        evaluate_every=plan.evaluate_every,
    )
    document: dict[str, Any] = {
        "format": FORMAT,
        "cell": asdict(cell),
        "fingerprint": plan.fingerprint(cell),
        "plan": asdict(plan),
        "budgets": asdict(budgets),
    }
    setting = _as_baseline(cell.method, setting)
    if not any(device.tier is not None for device in setting.devices):
        return document | {"outcome": "impossible", "why": "no device carries the tier that it takes"}
    document["tiers"] = [_tier(setting, index) for index in range(len(setting.tiers))]
    top = tiers[-1].name
    if cell.method == LOCAL:
        result = _alone(setting, fleet, run_alone(setting, worker, told), data.target)
    else:
        run = run_federation(setting, worker, lambda one: told(one.number))
        local = asyncio.run(_local(setting, worker, run))
        result = _federated(setting, fleet, run, local, data.target)
    return document | result | {"largest": result["accuracy"].get(top)}


def _as_baseline(method: str, setting: Setting) -> Setting:
    """The setting as a baseline has it: another tier, other devices."""
    top = len(setting.tiers) - 1
    match method:
        case "smallest-on-all":
            taken, tier = setting.devices, 0
        case "exclusive-largest":
            taken, tier = [one for one in setting.devices if one.tier == top], top
        case "largest-on-all":
            taken, tier = setting.devices, top
        case _:
            return setting
    assert method in (SMALLEST, EXCLUSIVE, UPPER)
    return replace(
        setting,
        algorithm=ONE_TIER,
        weighting="uniform",
        tiers=(replace(setting.tiers[tier], budget=Budget()),),
        costs=[setting.costs[tier]],
        budgets=Budgets(),
        devices=[replace(one, tier=0) for one in taken],
    )


def _tier(setting: Setting, index: int) -> dict[str, Any]:
    tier, cost = setting.tiers[index], setting.costs[index]
    return {
        "name": tier.name,
        "architecture": tier.architecture,
        "width": tier.width,
        "depth": tier.depth,
        "coordinates": cost.length,
        "step_s": cost.step_s,
        "peak_bytes": cost.peak_bytes,
        "devices": sum(one.tier == index for one in setting.devices),
    }


def _names(setting: Setting) -> dict[str, str | None]:
    """The name of the tier that each device trains in this run."""
    return {one.name: None if one.tier is None else setting.tiers[one.tier].name for one in setting.devices}


async def _local(setting: Setting, worker: LocalWorker, run: Simulated) -> dict[str, float]:
    """How good each device's model is on its own test data; as it says itself where no other can know."""
    members = [device for device in setting.devices if device.tier is not None]
    subject = Subject.of([_layout_tier(tier) for tier in setting.tiers], setting.algorithm, setting.options)
    with tempfile.TemporaryDirectory(prefix="mhfl-bench-", dir=fast_disk()) as folder:
        flat = Path(folder) / "last.f32"
        run.flat.tofile(flat)
        devices = [(device.shard, device.tier) for device in members if device.tier is not None]
        scores = await worker.local_scores(subject, flat, devices)
    if scores:
        return {device.name: score for device, score in zip(members, scores, strict=True)}
    own = f"own/{setting.task.metric_name}"
    said = {name: metrics[own] for one in run.rounds for name, metrics in one.counted.items() if own in metrics}
    return {device.name: said[device.name] for device in members if device.name in said}


def _federated(
    setting: Setting, fleet: Sequence[Device], run: Simulated, local: Mapping[str, float], target: float
) -> dict[str, Any]:
    curve: list[Point] = []
    merges, known = 0, dict[str, float]()
    for one in run.rounds:
        if one.committed:
            merges += 1
            if merges in run.measured:
                known |= _figures(setting, one)  # a tier of which no device was in the round is as it was
                curve.append(Point(one.number, one.closed_s, dict(known)))
    names, facts = _names(setting), []
    for device in fleet:
        spent, link, traffic = (
            run.spent.get(device.name, Spent()),
            run.links.get(device.name),
            run.traffic.get(device.name),
        )
        facts.append(
            DeviceFacts(
                device,
                names.get(device.name),
                invited=sum(device.name in one.invited for one in run.rounds),
                counted=sum(device.name in one.counted for one in run.rounds),
                bytes_up=0 if traffic is None else traffic.sent.total(),
                bytes_down=0 if traffic is None else traffic.received.total(),
                compute_s=spent.compute_s,
                real_s=spent.real_s,
                transfer_s=0.0 if link is None else link.busy_s,
                local=local.get(device.name),
            )
        )
    aborted = [{"round": one.number, "why": one.reason} for one in run.rounds if not one.committed]
    return _document(setting, facts, curve, run.seconds, target) | {"aborted": aborted}


def _figures(setting: Setting, seen: RoundSeen) -> dict[str, float]:
    """Each tier's accuracy on all test data after a round.

    The aggregator's own measure; where it has no whole model, the mean over the devices of the round.
    """
    common = f"common/{setting.task.metric_name}"
    said: dict[str, list[float]] = {}
    for device, metrics in seen.counted.items():
        if common in metrics:
            said.setdefault(setting.tiers[seen.invited[device]].name, []).append(metrics[common])
    if said:
        return {tier: fmean(values) for tier, values in said.items()}
    return {name.partition("/")[2]: value for name, value in seen.metrics.items()}


def _alone(setting: Setting, fleet: Sequence[Device], alone: Alone, target: float) -> dict[str, Any]:
    names = _names(setting)
    seconds = max((one.compute_s for one in alone.spent.values()), default=0.0)
    curve = [Point(number, seconds * number / setting.rounds, alone.tiers(number)) for number in sorted(alone.curve)]
    facts = []
    for device in fleet:
        spent = alone.spent.get(device.name, Spent())
        facts.append(
            DeviceFacts(
                device,
                names.get(device.name),
                counted=spent.trainings,
                invited=spent.trainings,
                compute_s=spent.compute_s,
                real_s=spent.real_s,
                local=alone.local.get(device.name),
            )
        )
    return _document(setting, facts, curve, seconds, target) | {"aborted": []}


def _document(
    setting: Setting, facts: Sequence[DeviceFacts], curve: Sequence[Point], seconds: float, target: float
) -> dict[str, Any]:
    """Everything that is measured of a run."""
    last = len(setting.tiers) - 1 if algorithm_class(setting.algorithm).PLAN.server else None  # the aggregator's own
    carried = [
        tier.name
        for index, tier in enumerate(setting.tiers)
        if index == last or any(one.tier == index for one in setting.devices)
    ]
    means = last_mean(curve, LAST)
    accuracy = {name: means[name] for name in carried if name in means}
    mean = mean_over_tiers(accuracy, carried)
    devices = [one.document(seconds) for one in facts]
    return {
        "outcome": "done",
        "why": "",
        "accuracy": accuracy,
        "mean": None if math.isnan(mean) else mean,
        "of_devices": fmean(accuracy[one.tier] for one in facts if one.tier in accuracy) if accuracy else None,
        "last_rounds": min(LAST, len(curve)),
        "metric": setting.task.metric_name,
        "target": target,
        "seconds_to_target_simulated": time_to(curve, carried, target),
        "seconds_simulated": seconds,
        "stability": stability([one.local for one in facts if one.local is not None]),
        "local_test": "common" if setting.task.local_test is None else "own",
        "participation": sum(one.counted > 0 for one in facts) / len(facts),
        "participation_of_rounds": sum(one.counted for one in facts) / (len(facts) * setting.rounds),
        "bytes_up": sum(one.bytes_up for one in facts),
        "bytes_down": sum(one.bytes_down for one in facts),
        "compute_s_simulated": sum(one.compute_s for one in facts),
        "compute_s_real": sum(one.real_s for one in facts),
        "energy_j_estimate": sum(float(one["energy_j_estimate"]) for one in devices),
        "curve": [{"round": one.round, "seconds": one.seconds, "accuracy": dict(one.accuracy)} for one in curve],
        "devices": devices,
    }
