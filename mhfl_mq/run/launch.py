"""Puts an aggregator or a device together from a policy, a folder, a broker and what learns; and runs it."""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import mhfl_mq
from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import Policy, Tier
from mhfl_mq.protocol import entries
from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.records import Entry, Fact, RoundClosed, SavedState, VersionAdded
from mhfl_mq.protocol.rules import Rules
from mhfl_mq.run.aggregator import CLIENT_ID, AggregatorHost
from mhfl_mq.run.applying import Applying
from mhfl_mq.run.bench import MAKER, Bench
from mhfl_mq.run.clock import Clock
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.facts import FactReader, Facts
from mhfl_mq.run.fleet import fleet_document
from mhfl_mq.run.kpi import KpiWatch, kpi_document
from mhfl_mq.run.ports import Foundation, Trainer
from mhfl_mq.run.rules import PolicyDecider, algorithm_name, algorithm_of, algorithm_why, choice_of, rules_of
from mhfl_mq.run.site import SiteFile, SiteRules
from mhfl_mq.run.status import StatusBoard, describe
from mhfl_mq.segments import Layout
from mhfl_mq.segments import Tier as LayoutTier
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.device import DeviceStore
from mhfl_mq.store.files import Files
from mhfl_mq.store.models import Models
from mhfl_mq.store.state import Store
from mhfl_mq.transport.base import Transport
from mhfl_mq.wire.topics import DEFAULT_ROOT, Topics

__all__ = ["AGENT", "AggregatorSetup", "DeviceSetup", "Parts", "run_aggregator", "run_device"]

log = logging.getLogger(__name__)

AGENT = f"mhfl-mq {mhfl_mq.__version__}"
DEVICE_BUDGET = 4 * 1024**3
"""Bytes that a device may have in half-received segments: the disk says no before that on a small gateway."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process is made of: a simulation brings its own disk, and looks over the machines' shoulders."""

    files: Files | None = None  # None: the real disk
    store: Callable[..., Store] = Store
    federation: Callable[..., FederationMachine] = FederationMachine
    device: Callable[..., DeviceMachine] = DeviceMachine
    facts: Callable[[Sequence[str]], Facts | None] = FactReader  # what a device says of its machine
    look_every_s: float = 1.0  # between two looks for an operator's requests, and two boards


PARTS: Final = Parts()


@dataclass(frozen=True, slots=True)
class AggregatorSetup:
    """Where an aggregator lives and what it serves."""

    folder: Path
    federation: str
    task: str
    root: str = DEFAULT_ROOT
    max_rounds: int | None = None
    keepalive_s: int = 60
    seed: int = 0
    wait_for: int = 0  # devices that must be here before the first round
    signers: Path | None = None  # who may sign policies that are applied while it runs


async def run_aggregator(
    setup: AggregatorSetup,
    policy: Policy,
    transport: Transport,
    foundation: Foundation,
    *,
    clock: Clock,
    luck: random.Random,
    started: Callable[[AggregatorHost], None] = lambda _host: None,
    parts: Parts = PARTS,
    read_policy: Callable[[str, str], Policy] | None = None,
) -> str:
    """Run a federation until it has done its rounds or is stopped; returns why it ended.

    `read_policy` makes policies of texts, for those that are applied while it runs.
    `started` gets the host before it runs, for signals. A folder with a head goes on from it; a new one starts from
    the task's first weights. Raises `ConfigError` when the folder holds another model than the policy describes.
    """
    algorithm = algorithm_of(policy)
    choice = choice_of(policy)
    if choice is not None:
        log.info("algorithm auto: %s, because %s", choice.algorithm, choice.why)
    try:
        with parts.store(setup.folder, clock.now, files=parts.files) as store:
            models = Models(store.models, parts.files)
            models.sweep()
            layout, saved = await _founded(policy, store, models, foundation)
            public = (await foundation.found(policy, None)).public if algorithm.plan.public else ""

            def make(policy: Policy) -> tuple[Rules, PolicyDecider]:
                rules = rules_of(
                    policy,
                    task=setup.task,
                    agent=AGENT,
                    layout=layout,
                    public=public,
                    max_rounds=setup.max_rounds,
                    seed=setup.seed,
                )
                decider = PolicyDecider(
                    policy,
                    layout.lengths,
                    luck,
                    holds=layout.holds,
                    wait_for=setup.wait_for,
                    federation=setup.federation,
                )
                return rules, decider

            applying = Applying(policy, make, read=read_policy, signers=setup.signers, now=clock.now)
            blobs = Blobs(store.blobs, _upload_budget(policy), clock.monotonic, parts.files)
            counted = () if saved.open_round is None else saved.open_round.counted
            blobs.keep({*blobs.incoming, *(update.blob_id for update in counted)})
            saved = _without_lost_updates(saved, store, blobs)
            limits = policy.limits
            bench = Bench(
                layout=layout,
                algorithm=algorithm,
                models=models,
                blobs=blobs,
                scratch=store.folder,
                evaluate=partial(foundation.evaluate, policy),
                conclude=partial(foundation.conclude, policy) if algorithm.concludes else None,
                largest_value=limits.largest_value,
            )
            # Seconds of the clock keep epochs growing even over a lost state folder.
            first_epoch = int(clock.now().timestamp())
            machine = parts.federation(applying.rules, applying.decider, saved, first_epoch=first_epoch)
            kpis = KpiWatch(
                store.view,
                [tier.name for tier in policy.tiers],
                lambda: applying.policy.kpi,
                lambda: clock.now().timestamp(),
                lambda entries: store.apply((), entries),
            )
            host = AggregatorHost(
                topics=Topics(setup.federation, setup.root),
                machine=machine,
                transport=transport,
                store=store,
                blobs=blobs,
                bench=bench,
                board=StatusBoard(
                    store.folder,
                    clock,
                    layout.lengths,
                    lambda: {**describe(machine), "kpi": kpi_document(kpis.judged)},
                    trainings=sum(saved.rounds_counted.values()),
                    fleet=partial(
                        fleet_document, machine, lambda asked: applying.decider.facts_of(asked), setup.federation
                    ),
                ),
                agent=AGENT,
                chunk=limits.chunk_bytes,
                uploads=limits.concurrent_uploads,
                now=lambda: clock.now().timestamp(),
                broadcast_bytes_s=limits.broadcast_bytes_s,
                keepalive_s=setup.keepalive_s,
                look_every_s=parts.look_every_s,
                applying=applying,
                kpis=kpis,
            )
            started(host)
            try:
                return await host.run()
            finally:
                blobs.close()
    finally:
        await foundation.close()


async def _founded(policy: Policy, store: Store, models: Models, foundation: Foundation) -> tuple[Layout, SavedState]:
    """The layout and the state; an empty folder gets version 0."""
    saved = store.restore()
    if saved.head is not None:
        file = models.open(saved.head.model)
        layout = Layout.from_document(file.layout)
        held, wanted = _shapes(layout.tiers), _shapes(policy.tiers)
        if held != wanted:
            raise ConfigError(
                f"the policy's tiers ({wanted}) are not those of the model here ({held})",
                where=str(store.folder),
                remedy="use the policy that this folder was started with, or a new state folder",
            )
        await _check_algorithm(policy, layout, file.metadata.get(MAKER), foundation, store.folder)
        return layout, saved
    founded = await foundation.found(policy, store.folder)
    layout, flat = founded.layout, founded.flat
    assert flat is not None
    try:
        metrics = await foundation.evaluate(policy, flat)
        model = models.put(flat, layout.document(), {"round": "0", MAKER: algorithm_name(policy)})
    finally:
        with suppress(FileNotFoundError):
            flat.unlink()
    version = VersionAdded(0, None, model, layout.digest, "initial", None, dict(metrics), "first weights")
    facts: dict[str, Fact] = {
        "version": 0,
        "model": model,
        "layout": layout.digest,
        "policy": policy.digest,
        "algorithm": algorithm_name(policy),
    }
    if why := algorithm_why(policy):
        facts["why"] = why
    store.apply([version], [Entry("model.initial", facts)])
    return layout, store.restore()


async def _check_algorithm(
    policy: Policy, layout: Layout, maker: str | None, foundation: Foundation, folder: Path
) -> None:
    """Another algorithm may go on with the model only where both lay it out alike."""
    name = algorithm_name(policy)
    if maker is None or maker == name or (await foundation.found(policy, None)).layout.digest == layout.digest:
        return
    raise ConfigError(
        f"the model here is laid out for {maker}, and the policy's {name} lays it out otherwise",
        where=str(folder),
        remedy=f"go on with {maker}, or start {name} in a new state folder",
    )


def _without_lost_updates(saved: SavedState, store: Store, blobs: Blobs) -> SavedState:
    """The state, where an open round that counted what a power cut took is aborted: it cannot be merged as it was.

    Counted updates are proven here, before anything begins (docs/decisions/0008).
    """
    if saved.open_round is None:
        return saved
    opened, counted = saved.open_round.opened, saved.open_round.counted
    lost = [update.device for update in counted if blobs.path(update.blob_id) is None]
    if not lost:
        return saved
    reason = f"the machine lost counted updates, as in a power cut: of {', '.join(lost)}"
    log.warning("round %d aborted: %s", opened.round, reason)
    closed = RoundClosed(opened.round, "aborted", reason, None)
    store.apply([closed], [entries.round_aborted(closed, len(counted), opened.needed)])
    blobs.keep(())
    return store.restore()


def _shapes(tiers: Iterable[Tier | LayoutTier]) -> str:
    """Names, widths and blocks of tiers, for people."""
    return ", ".join(
        f"{tier.name} {tier.width!r}" + (f" of {tier.depth} blocks" if tier.depth else "") for tier in tiers
    )


def _upload_budget(policy: Policy) -> int:
    """Bytes of updates that may be half received: every place's largest, and as much again for resumes."""
    return 2 * policy.limits.concurrent_uploads * policy.limits.update_bytes


@dataclass(frozen=True, slots=True)
class DeviceSetup:
    """Where a device lives and which federation it wants to join."""

    folder: Path
    device: str
    federation: str
    task: str
    root: str = DEFAULT_ROOT
    keepalive_s: int = 60
    labels: tuple[str, ...] = ()
    site: SiteFile = field(default_factory=SiteFile)  # the plant's own rules for this device


async def run_device(
    setup: DeviceSetup,
    transport: Transport,
    make_trainer: Callable[[Path], Trainer],
    *,
    clock: Clock,
    luck: random.Random,
    started: Callable[[DeviceHost], None] = lambda _host: None,
    parts: Parts = PARTS,
) -> str:
    """Run a device until it is stopped; returns why it ended. `make_trainer` gets a scratch folder on its disk."""
    if setup.device.startswith(CLIENT_ID):
        raise ConfigError(f"a device may not be called {setup.device!r}", remedy="that name is an aggregator's")
    topics = Topics(setup.federation, setup.root)
    with DeviceStore(setup.folder, DEVICE_BUDGET, clock.monotonic, parts.files) as store:
        scratch = setup.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        for left in scratch.iterdir():
            left.unlink()
        facts = parts.facts(setup.labels)
        stages = replace(setup.site.stages, allowed=frozenset())  # this release cannot run any, and must not seem to
        site = SiteRules(setup.site, lambda: clock.now().timestamp(), partial(_on_battery, facts))
        own = None if setup.site == SiteFile() else site
        machine = parts.device(setup.device, setup.task, AGENT, store.load(), luck, stages, own)
        host = DeviceHost(
            device=setup.device,
            topics=topics,
            machine=machine,
            transport=transport,
            store=store,
            trainer=make_trainer(scratch),
            agent=AGENT,
            luck=luck,
            keepalive_s=setup.keepalive_s,
            facts=facts,
        )
        started(host)
        return await host.run()


def _on_battery(facts: Facts | None) -> bool | None:
    """Whether the machine runs on its battery; None: it does not say."""
    said = None if facts is None else facts.read().numbers.get("on_battery")
    return None if said is None else bool(said)
