"""Whole runs on the wind data: the real machines in virtual time, with real training."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from mhfl_mq.bench.cell import measure_costs, run_cell
from mhfl_mq.bench.fleet import NEVER_S, Cost
from mhfl_mq.bench.methods import BASELINES, EXCLUSIVE, LOCAL, REFERENCE, SMALLEST, UPPER, method_names
from mhfl_mq.bench.plan import Cell, Plan, own_costs, reference_costs
from mhfl_mq.bench.profiles import profiles
from mhfl_mq.bench.sets import SETS, Kind, open_task
from mhfl_mq.families import algorithm_class
from mhfl_mq.train.inprocess import LocalWorker
from mhfl_mq.train.task import Task

PLAN = Plan(rounds=3, devices=5, options={"steps": 2.0, "batch": 8.0})
STEPS = 2
Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task(SETS["wind"], None, PLAN.devices, 0)


@pytest.fixture(scope="module")
def worker(task: Task) -> LocalWorker:
    return LocalWorker(task, None)


@pytest.fixture
def run(task: Task, worker: LocalWorker, costs: list[Cost]) -> Run:
    """Runs a method bound by memory."""

    def run(method: str, seed: int = 0, plan: Plan = PLAN, told: Callable[[int], None] = lambda _: None) -> Any:
        known = {own_costs(method): costs, reference_costs(method): costs}
        return run_cell(Cell("wind", "memory", method, seed), plan, known, worker, task, told)

    return run


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Without what is measured by this machine's clock."""
    devices = [{k: v for k, v in one.items() if k != "compute_s_real"} for one in document["devices"]]
    return {**document, "devices": devices, "compute_s_real": 0.0}


def test_the_same_seed_gives_the_same_run_and_another_seed_another(run: Run) -> None:
    one, same, other = (comparable(run("heterofl", seed)) for seed in (0, 0, 1))
    assert one == same
    assert one["accuracy"] != other["accuracy"]


def test_devices_carry_tiers_as_planned_and_all_take_part(run: Run) -> None:
    told: list[int] = []
    found = run("heterofl", told=told.append)
    assert told == [1, 2, 3]
    assert [tier["devices"] for tier in found["tiers"]] == [3, 1, 1]
    assert set(found["accuracy"]) == {"small", "medium", "large"}
    assert found["participation"] == found["participation_of_rounds"] == 1.0
    assert found["aborted"] == []
    assert [point["round"] for point in found["curve"]] == [1, 2, 3]
    wanted = {"raspberry": "small", "jetson": "medium", "pc": "large"}
    for device in found["devices"]:
        assert device["tier"] == wanted[device["profile"]]


def test_simulated_seconds_follow_from_costs_profiles_and_links(run: Run, costs: list[Cost]) -> None:
    found = run("heterofl")
    for device in found["devices"]:
        index = ("small", "medium", "large").index(device["tier"])
        slowdown = profiles()[device["profile"]].slowdown
        assert device["compute_s_simulated"] == pytest.approx(PLAN.rounds * STEPS * costs[index].step_s * slowdown)
        assert 0.0 < device["transfer_s_simulated"] < found["seconds_simulated"]
    slowest = max(one["compute_s_simulated"] for one in found["devices"])
    assert slowest < found["seconds_simulated"] < slowest + 30.0


def test_bytes_are_those_of_the_updates_and_models(run: Run, worker: LocalWorker) -> None:
    found = run("heterofl")
    bytes_up = {one["tier"]: one["bytes_up"] for one in found["devices"]}
    real = measure_lengths(worker)
    for name, coordinates in real.items():
        update = 4 * coordinates * PLAN.rounds
        assert update < bytes_up[name] < update + 20_000  # and some messages


def measure_lengths(worker: LocalWorker) -> dict[str, int]:
    data = SETS["wind"]
    tiers = data.tiers[Kind.WIDTH]
    found = measure_costs(worker, data, REFERENCE, Kind.WIDTH, PLAN)
    assert [cost.step_s for cost in found] == sorted(cost.step_s for cost in found)
    return {tier.name: cost.length for tier, cost in zip(tiers, found, strict=True)}


def test_exclusion_leaves_all_but_the_strongest_devices_out(run: Run) -> None:
    found = run(EXCLUSIVE)
    assert set(found["accuracy"]) == {"large"}
    assert found["participation"] == 0.2
    assert [one["profile"] for one in found["devices"] if one["tier"]] == ["pc"]
    assert all(one["bytes_up"] == 0 for one in found["devices"] if not one["tier"])
    assert found["largest"] == found["accuracy"]["large"]


def test_the_smallest_and_the_largest_on_all_are_federations_of_one_tier(run: Run) -> None:
    small, large = run(SMALLEST), run(UPPER)
    assert set(small["accuracy"]) == {"small"}
    assert small["largest"] is None  # nobody has the largest tier
    assert set(large["accuracy"]) == {"large"}
    assert small["participation"] == large["participation"] == 1.0
    assert large["bytes_up"] > 10 * small["bytes_up"]


def test_who_trains_alone_sends_nothing(run: Run) -> None:
    found = run(LOCAL)
    assert list(found["accuracy"]) == ["small", "medium", "large"]
    assert found["bytes_up"] == found["bytes_down"] == 0
    assert found["compute_s_simulated"] > 0
    assert all(one["local_accuracy"] is not None for one in found["devices"])


def test_a_cohort_trains_a_part_of_the_fleet_in_turns(run: Run) -> None:
    plan = Plan(rounds=4, devices=4, cohort=2, options=PLAN.options)
    found = run("heterofl", plan=plan)
    assert [one["rounds_counted"] for one in found["devices"]] == [2, 2, 2, 2]
    assert found["participation_of_rounds"] == 0.5


def test_a_tier_that_nobody_can_hold_is_said_and_not_run(run: Run) -> None:
    plan = Plan(rounds=2, devices=2, options=PLAN.options)  # a raspberry and a jetson
    found = run(EXCLUSIVE, plan=plan)
    assert found["outcome"] == "impossible"
    assert "no device" in found["why"]


def test_models_that_never_leave_the_devices_whole_are_scored_by_the_devices(run: Run) -> None:
    found = run("fedper")
    assert len(found["curve"]) == PLAN.rounds
    assert set(found["accuracy"]) == {"small", "medium", "large"}
    assert all(one["local_accuracy"] is not None for one in found["devices"])


@pytest.mark.parametrize("method", [name for name in method_names() if name not in BASELINES])
def test_every_algorithm_runs_and_each_of_its_devices_is_counted(
    method: str, task: Task, worker: LocalWorker, costs: list[Cost]
) -> None:
    own = [*costs[:-1], Cost(NEVER_S, 0, 1)] if algorithm_class(method).PLAN.server else costs
    known = {own_costs(method): own, reference_costs(method): costs}
    few = replace(PLAN, rounds=1, options={**PLAN.options, "distill_steps": 3.0, "align_steps": 2.0})
    found = run_cell(Cell("wind", "memory", method, 0), few, known, worker, task)
    assert (found["outcome"], found["aborted"]) == ("done", [])
    assert found["participation"] == 1.0
    assert found["accuracy"]
    assert all(0.0 <= value <= 1.0 for value in found["accuracy"].values())
    assert found["largest"] is not None
