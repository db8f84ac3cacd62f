"""The worker, through its real child process: jobs, errors, deaths, idleness."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from mhfl_mq.errors import LocalMisuse, TaskError, TrainingFailed
from mhfl_mq.segments import Tier
from mhfl_mq.train.client import Worker
from mhfl_mq.train.options import Handicap
from mhfl_mq.train.reports import Participant, Subject

QUICK = {"steps": 20.0, "batch": 16.0, "rate": 0.1}


# One child serves most tests (loading torch takes seconds), so they share an event loop and a process.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("training child")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(toy: str) -> AsyncIterator[Worker]:
    async with Worker(toy) as made:
        yield made


async def gone(pid: int) -> None:
    """Wait until a process is no more (not even a zombie)."""
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)


async def test_a_round_from_the_initial_model_to_a_better_one(
    worker: Worker, tiers: Sequence[Tier], tmp_path: Path
) -> None:
    flat, delta = tmp_path / "flat", tmp_path / "delta"
    told = await worker.describe(Subject.of(tiers), seed=3, out=flat)
    assert told.metric == "accuracy"
    assert flat.stat().st_size == 4 * told.layout.lengths[-1]
    before = await worker.evaluate(Subject.of(tiers), flat)
    assert set(before) == {"accuracy/small", "accuracy/middle", "accuracy/large"}
    report = await worker.train(Subject.of(tiers), 2, [flat], delta, shard="a", options={**QUICK, "steps": 200.0})
    assert report.weight == 90
    assert report.metrics["loss_last"] < report.metrics["loss_first"]
    (np.fromfile(flat, "<f4") + np.fromfile(delta, "<f4")).tofile(flat)
    after = await worker.evaluate(Subject.of(tiers), flat)
    assert after["accuracy/large"] > before["accuracy/large"] + 0.1


async def test_a_tier_trains_from_its_segments_files(worker: Worker, tiers: Sequence[Tier], tmp_path: Path) -> None:
    whole = tmp_path / "flat"
    layout = (await worker.describe(Subject.of(tiers), out=whole)).layout
    flat = np.fromfile(whole, "<f4")
    segments = [tmp_path / f"segment-{k}" for k in range(2)]
    for path, (start, stop) in zip(segments, layout.segment_bounds, strict=False):
        flat[start:stop].tofile(path)
    await worker.train(Subject.of(tiers), 1, segments, tmp_path / "a", options=QUICK)
    await worker.train(Subject.of(tiers), 1, [whole], tmp_path / "b", options=QUICK)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size == 4 * layout.lengths[1]
    with pytest.raises(TrainingFailed, match="fetch its segments again"):
        await worker.train(Subject.of(tiers), 1, segments[:1], tmp_path / "c", options=QUICK)
    assert not (tmp_path / "c").exists()


async def test_the_probe_measures_every_tier_on_the_devices_own_data(worker: Worker, tiers: Sequence[Tier]) -> None:
    report = await worker.probe(Subject.of(tiers, options=QUICK), shard="a")
    layout = (await worker.describe(Subject.of(tiers))).layout
    assert (report.layout, report.examples, report.left_out) == (layout.digest, 90, {})
    assert [probe.tier for probe in report.probes] == ["small", "middle", "large"]
    assert all(0 < probe.step_s < 1 for probe in report.probes)
    small, _, large = (probe.peak_bytes for probe in report.probes)
    assert 0 < small < large


async def test_a_handicap_multiplies_the_measured_time_and_caps_the_memory(
    worker: Worker, tiers: Sequence[Tier]
) -> None:
    plain = await worker.probe(Subject.of(tiers, options=QUICK), shard="a")
    room = plain.probes[1].peak_bytes
    weak = await worker.probe(Subject.of(tiers, options=QUICK), shard="a", handicap=Handicap(1000.0, room))
    assert [probe.tier for probe in weak.probes] == ["small", "middle"]
    assert f"this device has {room}" in weak.left_out["large"]
    assert weak.probes[0].step_s > 20 * plain.probes[0].step_s


async def test_a_tier_that_kills_the_child_is_left_out_and_the_others_are_measured(worker: Worker) -> None:
    sizes = (Tier("small", 0.25), Tier("deadly", 0.75), Tier("large", 1.0))
    report = await worker.probe(Subject.of(sizes, options=QUICK), shard="a")
    assert [probe.tier for probe in report.probes] == ["small", "large"]
    assert list(report.left_out) == ["deadly"]
    assert "was killed by SIGKILL" in report.left_out["deadly"]


async def test_a_tier_that_takes_too_long_is_left_out(worker: Worker, tiers: Sequence[Tier]) -> None:
    await worker.probe(Subject.of(tiers[:1]), shard="a")  # the child is up
    report = await worker.probe(Subject.of(tiers[:1]), shard="a", tier_s=0.0)
    assert report.left_out == {"small": "its probe took longer than 0 s"}


async def test_an_exception_in_the_tasks_code_is_told_and_the_child_lives_on(
    worker: Worker, tiers: Sequence[Tier], tmp_path: Path
) -> None:
    await worker.describe(Subject.of(tiers), out=tmp_path / "flat")
    pid = worker.pid
    with pytest.raises(TrainingFailed, match=r"ValueError: the sensor is upside down \(toy_task.py:\d+\)"):
        await worker.train(Subject.of(tiers), 0, [tmp_path / "flat"], tmp_path / "x", shard="raises")
    with pytest.raises(TrainingFailed, match="the loss is nan at step 1"):
        await worker.train(Subject.of(tiers), 0, [tmp_path / "flat"], tmp_path / "x", shard="nan")
    with pytest.raises(TaskError, match="steps is 0"):
        await worker.train(Subject.of(tiers), 0, [tmp_path / "flat"], tmp_path / "x", options={"steps": 0.0})
    assert worker.pid == pid


async def test_what_the_task_prints_does_not_reach_the_pipe(worker: Worker, tiers: Sequence[Tier]) -> None:
    assert (await worker.probe(Subject.of(tiers[:1], options=QUICK), shard="chatty")).examples == 90


async def test_the_log_gets_what_the_task_prints(toy: str, tiers: Sequence[Tier]) -> None:
    lines: list[str] = []
    async with Worker(toy, log=lines.append) as worker:
        await worker.probe(Subject.of(tiers[:1], options=QUICK), shard="chatty")
    assert any("garbage on standard output" in line for line in lines)


@pytest.mark.parametrize(
    ("shard", "said"),
    [("dies", "was killed by SIGKILL: about to die;"), ("leaves", "ended with exit code 3: leaving")],
)
async def test_a_child_that_dies_is_reported_with_its_last_words_and_replaced(
    worker: Worker, tiers: Sequence[Tier], shard: str, said: str
) -> None:
    with pytest.raises(TrainingFailed) as caught:
        await worker.probe(Subject.of(tiers), shard=shard)
    assert said in str(caught.value)
    assert worker.pid is None
    assert (await worker.describe(Subject.of(tiers))).metric == "accuracy"


async def test_kill_9_in_the_middle_of_training_fails_this_job_only(
    worker: Worker, tiers: Sequence[Tier], tmp_path: Path
) -> None:
    await worker.describe(Subject.of(tiers), out=tmp_path / "flat")
    training = asyncio.create_task(
        worker.train(Subject.of(tiers), 0, [tmp_path / "flat"], tmp_path / "out", options={"steps": 900_000.0})
    )
    await asyncio.sleep(0)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(TrainingFailed, match="was killed by SIGKILL"):
        await training
    assert not (tmp_path / "out").exists()
    await worker.train(Subject.of(tiers), 0, [tmp_path / "flat"], tmp_path / "out", options=QUICK)
    assert (tmp_path / "out").exists()


async def test_cancelling_the_caller_ends_the_child(worker: Worker, tiers: Sequence[Tier], tmp_path: Path) -> None:
    await worker.describe(Subject.of(tiers), out=tmp_path / "flat")
    pid = worker.pid
    assert pid is not None
    training = asyncio.create_task(
        worker.train(Subject.of(tiers), 0, [tmp_path / "flat"], tmp_path / "out", options={"steps": 900_000.0})
    )
    await asyncio.sleep(0)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    await gone(pid)
    assert worker.pid is None


async def test_a_training_says_when_its_first_step_begins(
    worker: Worker, tiers: Sequence[Tier], tmp_path: Path
) -> None:
    await worker.describe(Subject.of(tiers), out=tmp_path / "flat")
    began = asyncio.Event()
    training = asyncio.create_task(
        worker.train(
            Subject.of(tiers), 0, [tmp_path / "flat"], tmp_path / "out", options={"steps": 900_000.0}, began=began.set
        )
    )
    await began.wait()
    assert not training.done()
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training


async def test_a_training_that_never_gets_to_a_step_does_not_say_that_one_began(
    worker: Worker, tiers: Sequence[Tier], tmp_path: Path
) -> None:
    began: list[bool] = []
    with pytest.raises(TrainingFailed):
        await worker.train(
            Subject.of(tiers), 0, [tmp_path / "nothing"], tmp_path / "out", began=lambda: began.append(True)
        )
    assert not began


async def test_cancel_fails_the_running_job(worker: Worker, tiers: Sequence[Tier], tmp_path: Path) -> None:
    await worker.describe(Subject.of(tiers), out=tmp_path / "flat")
    training = asyncio.create_task(
        worker.train(Subject.of(tiers), 0, [tmp_path / "flat"], tmp_path / "out", options={"steps": 900_000.0})
    )
    await asyncio.sleep(0)
    worker.cancel()
    with pytest.raises(TrainingFailed):
        await training


async def test_an_idle_child_is_stopped_and_started_again_when_needed(toy: str, tiers: Sequence[Tier]) -> None:
    async with Worker(toy, idle_s=0.05) as worker:
        await worker.describe(Subject.of(tiers))
        pid = worker.pid
        assert pid is not None
        await gone(pid)
        assert worker.pid is None
        await worker.describe(Subject.of(tiers))
        assert worker.pid not in (None, pid)


async def test_jobs_wait_for_each_other(worker: Worker, tiers: Sequence[Tier], tmp_path: Path) -> None:
    told = await asyncio.gather(*(worker.describe(Subject.of(tiers), seed=k, out=tmp_path / str(k)) for k in range(3)))
    assert len({one.layout.digest for one in told}) == 1
    assert len({(tmp_path / str(k)).read_bytes() for k in range(3)}) == 3


async def test_start_says_at_once_that_a_task_does_not_exist() -> None:
    with pytest.raises(TaskError, match="there is no task 'wint'; did you mean 'wind'"):
        await Worker.start("wint")


async def test_who_is_cancelled_while_closing_waits_for_the_childs_end_all_the_same(toy: str) -> None:
    worker = await Worker.start(toy)
    pid = worker.pid
    closing = asyncio.create_task(worker.close())
    for _ in range(3):
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not Path(f"/proc/{pid}").exists()


async def test_a_closed_worker_does_no_jobs(toy: str, tiers: Sequence[Tier]) -> None:
    worker = await Worker.start(toy)
    pid = worker.pid
    assert pid is not None
    await worker.close()
    await gone(pid)
    with pytest.raises(LocalMisuse, match="closed"):
        await worker.describe(Subject.of(tiers))


async def test_a_task_without_test_data_cannot_be_evaluated(toy: str, tiers: Sequence[Tier], tmp_path: Path) -> None:
    async with Worker("toy_task:UNTESTED") as worker:
        await worker.describe(Subject.of(tiers), out=tmp_path / "flat")
        with pytest.raises(TaskError, match="it has no test data"):
            await worker.evaluate(Subject.of(tiers), tmp_path / "flat")


async def test_the_data_folder_reaches_the_task(toy: str, tiers: Sequence[Tier], tmp_path: Path) -> None:
    folder = tmp_path / "readings"
    folder.mkdir()
    for name in "abc":
        (folder / name).touch()
    async with Worker(toy, data=folder) as worker:
        assert (await worker.probe(Subject.of(tiers[:1], options=QUICK), shard="folder")).examples == 3


async def test_niceness_is_added_to_the_child(toy: str) -> None:
    async with await Worker.start(toy, nice=3) as worker:
        assert worker.pid is not None
        assert os.getpriority(os.PRIO_PROCESS, worker.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 3


async def test_baselines_run_in_the_child(worker: Worker, tiers: Sequence[Tier]) -> None:
    devices = [Participant("a", 0), Participant("bb", 2)]
    report = await worker.baseline("exclusive-largest", Subject.of(tiers, options=QUICK), devices, rounds=2)
    assert report.tiers["large"] == report.score
    with pytest.raises(LocalMisuse, match="there is no baseline 'best-on-all'"):
        await worker.baseline("best-on-all", Subject.of(tiers), devices, rounds=2)


async def test_the_client_loads_no_torch() -> None:
    code = "import sys, mhfl_mq.train.client; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the signal on a parent's death is Linux's")
async def test_the_child_dies_with_its_parent_even_in_the_middle_of_a_job(toy: str) -> None:
    code = (
        "import asyncio\n"
        "from mhfl_mq.train.client import Worker\n"
        "from mhfl_mq.segments import Tier\n"
        "async def main():\n"
        f"    worker = await Worker.start({toy!r})\n"
        "    print(worker.pid, flush=True)\n"
        "    await worker.probe(Subject.of([Tier('small', 0.25), Tier('large')]), shard='sleeps')\n"
        "asyncio.run(main())\n"
    )
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert agent.stdout is not None
    child = int(await agent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    agent.kill()
    await agent.wait()
    await gone(child)
