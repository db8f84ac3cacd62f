"""Simulated nodes: an aggregator or a device that lives, dies, and comes back to what it left on its disk."""

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mhfl_mq.errors import BrokerUnreachable, StoreError
from mhfl_mq.policy import Policy
from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.effects import AggregatorEffect, DeviceEffect, Merge
from mhfl_mq.protocol.events import AggregatorEvent, DeviceEvent, FactsRead
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.records import Change, Entry, SavedState
from mhfl_mq.run.aggregator import AggregatorHost
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import Parts
from mhfl_mq.store.files import Files
from mhfl_mq.store.ledger import Head
from mhfl_mq.store.state import Store
from mhfl_mq.testing.duties import Duties
from mhfl_mq.testing.invariants import AggregatorWatch, DeviceWatch, Truth
from mhfl_mq.testing.sim_time import LIFE, Database, Killed, Life
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.memory import MemoryBroker, MemoryTransport

__all__ = ["AggregatorNode", "DeviceNode", "Node", "Stage"]

EffectT = TypeVar("EffectT")
REBOOT_S = 1.0
"""Seconds after which a process that ended by itself (no broker, a full disk) is started again, as by systemd."""


class Stage:
    """What nodes need of the simulation around them."""

    broker: MemoryBroker
    truth: Truth
    folder: Path

    def note(self, what: str) -> None:
        """Count something interesting."""
        raise NotImplementedError

    def trace(self, node: str, what: str) -> None:
        """Something happened at a node."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """The run has failed."""
        raise NotImplementedError


class _Watched(list[EffectT]):
    """Effects that are looked at one by one, just before each is performed."""

    def __init__(self, effects: Sequence[EffectT], look: Callable[[EffectT], None], life: Life) -> None:
        super().__init__(effects)
        self._look = look
        self._life = life

    def __iter__(self) -> Any:
        for effect in super().__iter__():
            self._life.effect()
            self._look(effect)
            yield effect


class Node:
    """A machine of the plant. Its process is started, killed and started again; its folder stays."""

    def __init__(self, name: str, stage: Stage, luck: random.Random) -> None:
        self.name = name
        self.stage = stage
        self.luck = luck
        self.folder = stage.folder / name
        self.folder.mkdir()
        self.life: Life | None = None
        self.wiped = False  # its folder is lost before its next life
        self.returns_at = 0.0  # not before this instant
        self.lives = 0
        self.host: AggregatorHost | DeviceHost | None = None
        self._stopping = False

    @property
    def up(self) -> bool:
        """Whether its process runs."""
        return self.life is not None and not self.life.dead

    async def run(self) -> None:
        """Keep the process running, until it is stopped in good order."""
        loop = asyncio.get_running_loop()
        while not self._stopping:
            if self.wiped:
                self._wipe()
            self.lives += 1
            life = self.life = Life(self.name, self._ended_badly)
            self.stage.trace(self.name, f"starts, life {self.lives}")
            token = LIFE.set(life)
            task = loop.create_task(self._live(life), name=f"{self.name}/{self.lives}")
            LIFE.reset(token)
            await asyncio.wait([task])
            while life.tasks:
                await asyncio.wait(list(life.tasks))
            self.host = None
            self.stage.trace(self.name, "is dead" if life.dead else "has ended")
            if not self._stopping:
                pause = self.returns_at - loop.time() if life.dead else REBOOT_S
                await asyncio.sleep(max(0.0, pause))

    def kill(self, away_s: float) -> None:
        """Kill the process where it is; it returns after so many seconds."""
        if self.life is not None and not self.life.dead:
            self.returns_at = asyncio.get_running_loop().time() + away_s
            self.life.kill()

    def stop(self) -> None:
        """Ask the process to end in good order, and do not start it again."""
        self._stopping = True
        if self.host is not None and self.up:
            self.host.stop()

    def _wipe(self) -> None:
        self.wiped = False
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    async def _live(self, life: Life) -> None:
        raise NotImplementedError

    def _transport(self, life: Life) -> MemoryTransport:
        backoff = Backoff(self.luck.random, first_s=1.0, cap_s=8.0)
        transport = MemoryTransport(self.stage.broker, backoff=backoff)
        life.cut_off = transport.kill
        return transport

    def _ended_badly(self, task: str, error: BaseException) -> None:
        """A task of this node ended with an error: right for a killed process, a full disk, or no broker."""
        life = self.life
        if isinstance(error, Killed) or life is None or life.dead:
            return
        if isinstance(error, BrokerUnreachable) or (isinstance(error, StoreError) and life.files.was_full):
            self.stage.note(f"ended.{type(error).__name__}")
            return
        self.stage.trace(self.name, f"{task} ended with {error!r}")
        self.stage.fail(error)


class AggregatorNode(Node):
    """The aggregator."""

    def __init__(self, stage: Stage, luck: random.Random, make: Callable[..., Awaitable[str]], policy: Policy) -> None:
        super().__init__("aggregator", stage, luck)
        self.policy = policy
        self.aggregator: AggregatorHost | None = None
        self.dies_in_merge: float | None = None  # seconds away, if it is to die while it merges next
        self.machine: FederationMachine | None = None
        self._make = make

    async def _live(self, life: Life) -> None:
        parts = Parts(
            files=life.files,
            store=lambda folder, now, *, files: _WatchedStore(folder, now, files, life, self.stage.truth),
            federation=lambda *args, **options: self._machine(life, *args, **options),
        )
        await self._make(self.folder, self._transport(life), self._started, parts)

    def _started(self, host: AggregatorHost) -> None:
        self.host = self.aggregator = host

    def _machine(self, life: Life, *args: Any, **options: Any) -> FederationMachine:
        node, stage, watch = self, self.stage, AggregatorWatch(self.stage.truth, self.stage.note)
        duties = Duties(stage.truth, self.policy, self._uploads)

        class Machine(FederationMachine):
            def handle(self, event: AggregatorEvent, now: float) -> list[AggregatorEffect]:
                stage.trace(node.name, brief(event))
                watch.event()
                duties.event(event)
                return _Watched(super().handle(event, now), look, life)

        def look(effect: AggregatorEffect) -> None:
            watch.effect(effect)
            duties.effect(effect)
            if isinstance(effect, Merge) and node.dies_in_merge is not None:
                away, node.dies_in_merge = node.dies_in_merge, None
                asyncio.get_running_loop().call_later(0.05, node._dies_merging, life, away)

        self.machine = Machine(*args, **options)
        saved: SavedState = args[2]
        if saved.open_round is not None:
            stage.note(f"resume.round with{'' if saved.open_round.counted else 'out'} counted updates")
        return self.machine

    def _uploads(self) -> int:
        return 0 if self.aggregator is None else self.aggregator.uploads

    def _dies_merging(self, life: Life, away_s: float) -> None:
        if life is self.life:
            self.stage.note("crash.in merge")
            self.kill(away_s)


class DeviceNode(Node):
    """A device."""

    def __init__(self, name: str, stage: Stage, luck: random.Random, make: Callable[..., Awaitable[str]]) -> None:
        super().__init__(name, stage, luck)
        self.watch = DeviceWatch(name)
        self.machine: DeviceMachine | None = None
        self._make = make

    async def _live(self, life: Life) -> None:
        parts = Parts(
            files=life.files,
            device=lambda *args, **options: self._machine(life, *args, **options),
            facts=lambda _labels: _Facts(self.luck),
        )
        await self._make(self.name, self.folder, self._transport(life), self._started, parts)

    def _started(self, host: DeviceHost) -> None:
        self.host = host

    def _machine(self, life: Life, *args: Any, **options: Any) -> DeviceMachine:
        node, stage, watch = self, self.stage, self.watch

        class Machine(DeviceMachine):
            def handle(self, event: DeviceEvent) -> list[DeviceEffect]:
                stage.trace(node.name, brief(event))
                watch.event()
                return _Watched(super().handle(event), look, life)

        def look(effect: DeviceEffect) -> None:
            watch.effect(effect)

        self.machine = Machine(*args, **options)
        saved = self.machine.saved
        watch.starts(saved)
        if saved.offer is not None:
            stage.note(f"resume.device {'training' if saved.update is None else 'sending'}")
        return self.machine

    def _wipe(self) -> None:
        super()._wipe()
        self.watch = DeviceWatch(self.name)


class _Facts:
    """What a simulated machine is: it has so much memory, and is idle now and then."""

    def __init__(self, luck: random.Random) -> None:
        self._luck = luck

    def read(self) -> FactsRead:
        """The facts as they are now."""
        return FactsRead({"ram_gb": 1.0, "idle": float(self._luck.random() < 0.7)}, {"arch": ("simulated",)})


class _WatchedStore(Store):
    """The real store; the truth hears of each batch that was committed, also when the process died at once."""

    def __init__(self, folder: Path, now: Any, files: Files | None, life: Life, truth: Truth) -> None:
        self._database = Database(life)
        self._truth = truth
        super().__init__(folder, now, files=files, connect=self._database)
        if self.completed:
            truth.note("ledger.completed after a crash")

    def apply(self, changes: Sequence[Change], entries: Sequence[Entry] = ()) -> Head:
        before = self._database.commits
        try:
            return super().apply(changes, entries)
        finally:
            if self._database.commits > before:
                self._truth.durable(changes, entries)


def brief(event: object) -> str:
    """An event in a few words, the same in every run: no bytes, no paths."""
    name = type(event).__name__
    parts = []
    for field in ("sender", "name", "device", "round", "version", "session"):
        value = getattr(event, field, None)
        if value is not None:
            parts.append(f"{value}")
    message = getattr(event, "message", None)
    if message is not None:
        parts.append(message.kind)
        for field in ("round", "base", "version", "tier", "verdict", "outcome", "online", "session", "code"):
            value = getattr(message, field, None)
            if value is not None:
                parts.append(f"{field}={value}")
    return " ".join([name, *parts])
