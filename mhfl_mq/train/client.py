"""The agent's side of training: a `Worker` that does jobs in a child process, so that the agent itself stays light.

Imports no torch. The child is started by the first job and stopped when it was idle for a while; the next job starts
a fresh one, as it does after a child that died.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from mhfl_mq.errors import (
    ConfigError,
    LayoutError,
    LocalMisuse,
    MhflError,
    StoreError,
    StoreFull,
    TaskError,
    TrainingFailed,
)
from mhfl_mq.segments import Layout
from mhfl_mq.train.child import Child
from mhfl_mq.train.options import Handicap
from mhfl_mq.train.reports import (
    BASELINES,
    BaselineReport,
    Description,
    Participant,
    ProbeReport,
    Subject,
    TrainReport,
)
from mhfl_mq.wire.messages import ProbeResult

__all__ = ["IDLE_S", "Worker"]

IDLE_S: Final = 60.0
"""Seconds without a job after which the child is stopped: torch holds 200 to 350 MB that a device may need."""
PROBE_S: Final = 120.0
"""Seconds that one tier's probe may take, loading of torch included; a tier that is slower does not run here."""

_ERRORS: Final[dict[str, type[MhflError]]] = {
    kind.__name__: kind
    for kind in (ConfigError, LayoutError, LocalMisuse, StoreError, StoreFull, TaskError, TrainingFailed)
}


class Worker:
    """Does a task's jobs, one at a time, in a child process. All methods raise `MhflError`s only.

    `data` is the device's folder, `nice` is added to the child's niceness, `idle_s` is how long it may stand idle,
    `log` gets each line that the child writes to standard error.
    """

    def __init__(
        self,
        task: str,
        *,
        data: Path | None = None,
        nice: int = 0,
        idle_s: float = IDLE_S,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._arguments = ["--task", task, "--nice", str(nice)]
        if data is not None:
            self._arguments += ["--data", str(data.absolute())]
        self._idle_s = idle_s
        self._log = log
        self._child: Child | None = None
        self._busy = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._ends: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def start(
        cls,
        task: str,
        *,
        data: Path | None = None,
        nice: int = 0,
        idle_s: float = IDLE_S,
        log: Callable[[str], None] | None = None,
    ) -> Self:
        """A worker whose child runs and has loaded the task: a wrong name is an error now, not in the first round."""
        worker = cls(task, data=data, nice=nice, idle_s=idle_s, log=log)
        try:
            await worker.hello()
        except BaseException:
            await worker.close()
            raise
        return worker

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return self._child.pid if self._child is not None and self._child.alive else None

    # ---- jobs -------------------------------------------------------------------------------------------------

    async def hello(self) -> str:
        """The name of the task, which the child has loaded: a wrong one is an error now, not in the first round."""
        answer = await self._job("hello", {})
        return str(answer["task"])

    async def describe(self, subject: Subject, *, seed: int = 0, out: Path | None = None) -> Description:
        """The layout of the subject; with `out`, version 0 of `seed` is written there."""
        arguments = {"subject": subject.document(), "seed": seed, "out": str(out.absolute()) if out else ""}
        answer = await self._job("describe", arguments)
        return Description(Layout.from_document(answer["layout"]), answer["metric"], answer["public"])

    async def probe(
        self, subject: Subject, *, shard: str = "", handicap: Handicap | None = None, tier_s: float = PROBE_S
    ) -> ProbeReport:
        """Measure each tier, smallest first. One that fails, crashes the child or takes too long is left out.

        A last tier that is the aggregator's own is no device's business: it is not measured.
        """
        shared = {"subject": subject.document(), "shard": shard}
        counted = await self._job("count", shared)
        weak = handicap or Handicap()
        measured = {"handicap": [weak.slowdown, weak.memory_bytes]}
        probes, left_out = [], {}
        last = -1 if subject.make().plan.server else None
        for index, tier in enumerate(subject.tiers[:last]):
            try:
                async with asyncio.timeout(tier_s):
                    answer = await self._job("probe", {**shared, **measured, "tier": index})
            except TimeoutError:
                left_out[tier.name] = f"its probe took longer than {tier_s:g} s"
            except TrainingFailed as error:
                left_out[tier.name] = str(error)
            else:
                probes.append(ProbeResult(tier.name, answer["step_s"], answer["peak_bytes"]))
        return ProbeReport(counted["layout"], counted["examples"], tuple(probes), left_out)

    async def train(
        self,
        subject: Subject,
        tier: int,
        base: Sequence[Path],
        out: Path,
        *,
        shard: str = "",
        options: Mapping[str, float] | None = None,
        round_number: int = 1,
        handicap: Handicap | None = None,
        keep: Path | None = None,
        began: Callable[[], None] = lambda: None,
    ) -> TrainReport:
        """Train one round of a tier from `base` and write the update (raw little-endian float32) to `out`.

        `base` are the files of the segments that the tier holds, in order, or one file of its vector (it may be
        longer). `options` are the round's numbers (None: the subject's). `keep` is the folder for what stays on the
        device between rounds; without it nothing does. `began` is called when all is loaded and the first step begins.
        Cancelling the caller kills the child.
        """
        weak = handicap or Handicap()
        arguments = {
            "subject": subject.document(),
            "tier": tier,
            "base": [str(path.absolute()) for path in base],
            "out": str(out.absolute()),
            "shard": shard,
            "options": dict(subject.options if options is None else options),
            "round": round_number,
            "handicap": [weak.slowdown, weak.memory_bytes],
            "keep": str(keep.absolute()) if keep else "",
        }
        answer = await self._job("train", arguments, began)
        return TrainReport(answer["weight"], answer["metrics"])

    async def evaluate(self, subject: Subject, flat: Path) -> dict[str, float]:
        """`<metric>/<tier>` of every tier of the version in the file `flat`, on the task's test data.

        Empty where the devices report their own.
        """
        arguments = {"subject": subject.document(), "flat": str(flat.absolute())}
        metrics: dict[str, float] = (await self._job("evaluate", arguments))["metrics"]
        return metrics

    async def conclude(
        self,
        subject: Subject,
        *,
        head: tuple[Path, int],
        merged: Path,
        updates: Sequence[tuple[Path, int, float]],
        round_number: int,
    ) -> None:
        """Make the file `merged` anew by the algorithm's own step at the aggregator.

        `head` is the file of the version that the round started from, and the byte at which its vector begins.
        `updates` are files, tiers and weights.
        """
        arguments = {
            "subject": subject.document(),
            "head": str(head[0].absolute()),
            "start": head[1],
            "merged": str(merged.absolute()),
            "updates": [[str(path.absolute()), tier, weight] for path, tier, weight in updates],
            "round": round_number,
        }
        await self._job("conclude", arguments)

    async def baseline(
        self, kind: str, subject: Subject, participants: Sequence[Participant], *, rounds: int, seed: int = 0
    ) -> BaselineReport:
        """Run one of `BASELINES`, with the federation's initial seed, rounds, options and algorithm."""
        if kind not in BASELINES:
            raise LocalMisuse(f"there is no baseline {kind!r}", remedy=f"give one of {', '.join(BASELINES)}")
        arguments = {
            "kind": kind,
            "subject": subject.document(),
            "participants": [[who.shard, who.tier] for who in participants],
            "rounds": rounds,
            "seed": seed,
        }
        answer = await self._job("baseline", arguments)
        return BaselineReport(answer["score"], answer["tiers"], answer["seconds"])

    # ---- the child's life -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Kill the child: a running job raises `TrainingFailed`; the next job starts a fresh child."""
        if self._child is not None:
            self._child.kill()

    async def close(self) -> None:
        """End the child and wait for its end. No job can be done any more.

        Who is cancelled meanwhile waits all the same: an event loop that ends before the child does complains of it.
        """
        self._closed = True
        closing = asyncio.create_task(self._close())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.wait({closing})
            except asyncio.CancelledError as error:
                cancelled = error
        closing.result()
        if cancelled is not None:
            raise cancelled

    async def _close(self) -> None:
        if self._busy.locked():
            self.cancel()
        async with self._busy:
            self._retire()
        while self._ends:
            await asyncio.gather(*self._ends)

    async def _job(
        self, job: str, arguments: dict[str, Any], began: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Do one job in the child, which is started where needed."""
        async with self._busy:
            if self._closed:
                raise LocalMisuse("the worker is closed", where=f"job {job!r}")
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._child is not None and not self._child.alive:
                self._retire()
            if self._child is None:
                self._child = await Child.spawn(self._arguments, self._log)
            try:
                reply = await self._child.ask(job, arguments, began)
            except BaseException:  # it died, talked nonsense, or the caller was cancelled in the middle of a job
                self._child.kill()
                self._retire()
                raise
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._idle)
        if "error" in reply:
            raise _error(reply["error"])
        answer: dict[str, Any] = reply["answer"]
        return answer

    def _idle(self) -> None:
        if not self._busy.locked():
            self._retire()

    def _retire(self) -> None:
        """Let go of the child; its end is awaited in the background."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._child is not None:
            ending = asyncio.create_task(self._child.close())
            self._ends.add(ending)
            ending.add_done_callback(self._ends.discard)
            self._child = None


def _error(told: Mapping[str, Any]) -> MhflError:
    """The child's error; what the task's own code raised is a `TrainingFailed`."""
    where, remedy = str(told["where"]), str(told["remedy"])
    kind = _ERRORS.get(told["kind"], TaskError if told["kind"] else TrainingFailed)
    return kind(str(told["what"]), where=where, remedy=remedy)
