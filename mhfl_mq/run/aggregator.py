"""An aggregator's process, wired: the machine, its driver, the store, the bench, the broker."""

import asyncio
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mhfl_mq.errors import ConfigError, MhflError, PeerFault, StoreError
from mhfl_mq.protocol.effects import (
    Ack,
    Adopt,
    AggregatorEffect,
    Alarm,
    Announce,
    DropFetch,
    FetchUpdate,
    Fold,
    Merge,
    OpenFold,
    Persist,
    Release,
    ShareModel,
    Tell,
)
from mhfl_mq.protocol.entries import policy_refused
from mhfl_mq.protocol.events import (
    AggregatorEvent,
    Faulted,
    Heard,
    Merged,
    MergeFailed,
    PolicyAsked,
    RollbackAsked,
    Started,
    StopAsked,
)
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.records import RoundClosed
from mhfl_mq.run.applying import Applying, Planned
from mhfl_mq.run.bench import Bench
from mhfl_mq.run.collecting import Collecting
from mhfl_mq.run.driver import Driver
from mhfl_mq.run.jobs import Jobs
from mhfl_mq.run.kpi import KpiWatch
from mhfl_mq.run.mailer import Mailer
from mhfl_mq.run.sharing import MODELS_HELD, Sharing
from mhfl_mq.run.status import StatusBoard
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.policies import keep_policy
from mhfl_mq.store.requests import PolicyRequest, answer_policy, drop_request, pending_requests
from mhfl_mq.store.state import Store
from mhfl_mq.store.versions import find_rollback, plan_rollback
from mhfl_mq.transport.base import Inbound, Session, Transport, Will
from mhfl_mq.wire.blobs import clamp_chunk, parse_chunk
from mhfl_mq.wire.codec import decode, encode
from mhfl_mq.wire.messages import Close, Head, Message, Offer, Presence, Pull
from mhfl_mq.wire.topics import Topics, What

__all__ = ["CLIENT_ID", "AggregatorHost"]

log = logging.getLogger(__name__)

CLIENT_ID = "_aggregator_"
"""Begins the client id of an aggregator; no device may be called so (NATS takes no dot in a client id)."""
NOBODY = "?"
"""Who sends to topics that are none of ours: such a topic is the sender's choice, and may be 64 KiB long."""
LOOK_EVERY_S = 1.0
"""Seconds between two looks for an operator's requests, and between two boards."""
ASK_AGAIN_AFTER = 10
"""Looks after which the machine is asked again for what it has not done: it may have been busy, or had it already."""
FAREWELL_S = 3.0
"""Seconds that a process that ends gives its last messages."""


class AggregatorHost:
    """Runs one federation until it is stopped or has done its rounds."""

    def __init__(
        self,
        *,
        topics: Topics,
        machine: FederationMachine,
        transport: Transport,
        store: Store,
        blobs: Blobs,
        bench: Bench,
        board: StatusBoard,
        agent: str,
        chunk: int,
        uploads: int,
        now: Callable[[], float],  # the wall clock, in seconds since 1970
        broadcast_bytes_s: float | None = None,
        keepalive_s: int = 60,
        look_every_s: float = LOOK_EVERY_S,
        applying: Applying | None = None,
        kpis: KpiWatch | None = None,
    ) -> None:
        self.traffic = Traffic()
        self._topics = topics
        self._transport = transport
        self._store = store
        self._blobs = blobs
        self._bench = bench
        self._board = board
        self._agent = agent
        self._wanted_chunk = chunk
        self._keepalive_s = keepalive_s
        self._look_every_s = look_every_s
        self._applying = applying
        self._kpis = kpis
        self._asked: tuple[PolicyRequest, Planned] | None = None  # a policy that the machine has not written down yet
        self._epoch = machine.epoch
        self._models: dict[int, str] = {}  # version -> model
        self._head: Head | None = None  # as it was announced last
        self._mailer = Mailer(transport, self.traffic, log.warning)
        self._sharing = Sharing(transport, topics, self._mailer, self.traffic, broadcast_bytes_s=broadcast_bytes_s)
        self._driver: Driver[AggregatorEvent, AggregatorEffect] = Driver(
            lambda event: machine.handle(event, now()), self._perform
        )
        self._collecting = Collecting(blobs, bench, self._pull, self.post, places=uploads)
        self._jobs = Jobs()
        board.watch(self.traffic, lambda: transport.connected)

    @property
    def transfers(self) -> int:
        """Updates that are coming in and chunks that are going out."""
        return self._collecting.running + self._sharing.running

    @property
    def uploads(self) -> int:
        """Updates that are being pulled at this moment."""
        return self._collecting.pulling

    def post(self, event: AggregatorEvent) -> None:
        """Hand the machine an event from outside (a rollback, a stop)."""
        self._driver.post(event)

    def stop(self) -> None:
        """Ask the aggregator to end in good order."""
        self.post(StopAsked())

    async def run(self) -> str:
        """Connect and run rounds; returns why it ended. Raises what the driver, the store or the broker raises."""
        presence = partial(Presence, self._epoch, agent=self._agent)
        will = Will(self._topics.state, encode(presence(online=False)))
        try:
            await self._transport.connect(Session(self._client_id(), will, keepalive_s=self._keepalive_s))
            await self._transport.subscribe(self._topics.aggregator_filters())
            self.post(Started())  # not before: a broker may be waited for longer than a round
            self._jobs.start("connections", self._watch(presence(online=True)))
            self._jobs.start("inbox", self._listen())
            self._jobs.start("board", self._board.keep(self._look_every_s))
            self._jobs.start("requests", self._take_requests())
            reason = await self._jobs.guard(self._driver.run())
            self._mailer.send(self._topics.state, presence(online=False), retain=True)
            await self._mailer.flush(FAREWELL_S)
            return reason
        finally:
            await self._jobs.close()
            self._collecting.close()
            self._sharing.close()
            self._mailer.close()
            try:
                await self._transport.close()
            finally:
                self._board.end()

    def _client_id(self) -> str:
        """Stable over restarts and unlike any device's, also where two federations share a broker."""
        return f"{CLIENT_ID}{self._topics.federation}"

    # ---- what comes in ----

    async def _watch(self, birth: Presence) -> None:
        async for limits in self._transport.connections():
            if limits is None:
                self._collecting.disconnected()
                continue
            self._mailer.send(self._topics.state, birth, retain=True)
            if not limits.session_present:
                self._announce_again()
            self._collecting.connected(limits.session_present)

    async def _listen(self) -> None:
        async for inbound in self._transport.inbox():
            self.traffic.into("all", len(inbound.payload))
            device = ""
            try:
                place = self._topics.parse(inbound.topic)
                device = place.device
                self._take(device, place.what, inbound)
            except PeerFault as fault:
                self.post(Faulted(device or NOBODY, str(fault), inbound.token))

    def _take(self, device: str, what: What, inbound: Inbound) -> None:
        """Chunks and pulls are the wiring's own; everything else is the machine's."""
        if what is What.UPLOAD:
            self._collecting.chunk(device, parse_chunk(inbound.payload))
            self._acknowledge(inbound)
        elif what is What.STATUS and not inbound.payload:
            self._acknowledge(inbound)  # a retained presence that somebody cleared
        else:
            message = decode(inbound.payload)
            if isinstance(message, Pull):
                self._sharing.pull(device, message)
                self._acknowledge(inbound)
            else:
                self.post(Heard(device, message, inbound.token))

    def _acknowledge(self, inbound: Inbound) -> None:
        if inbound.token:
            self._transport.ack(inbound.token)

    async def _take_requests(self) -> None:
        """Take up what operators asked for; a request goes when it is durable, or can never be done.

        Rounds go on meanwhile: that it was done shows in the versions, not in the head.
        """
        view = self._store.view
        asked: Counter[Path] = Counter()
        while True:
            for one in pending_requests(self._store.folder):
                if isinstance(one, PolicyRequest):
                    self._ask_policy(one)
                    continue
                try:
                    if find_rollback(view, one.version, one.reason, one.head) is not None:
                        drop_request(one)
                        continue
                    added, _ = plan_rollback(view, one.version, one.reason, one.who)
                except ConfigError as error:  # the head is that version, or it can never be
                    log.info("request %s: %s", one.path.name, error)
                    drop_request(one)
                    continue
                if asked[one.path] % ASK_AGAIN_AFTER == 0:
                    metrics = dict(added.metrics)
                    self.post(RollbackAsked(one.version, added.model, metrics, one.reason, one.who))
                asked[one.path] += 1
            await asyncio.sleep(self._look_every_s)

    def _ask_policy(self, request: PolicyRequest) -> None:
        """Hand the machine a policy that may be applied, or say why it may not: the running one stays."""
        if self._asked is not None:
            return  # one after the other
        try:
            if self._applying is None:
                raise ConfigError("this aggregator takes no policies while it runs")
            planned = self._applying.plan(request)
        except (ConfigError, UnicodeEncodeError) as error:
            log.warning("policy %s is not applied: %s", request.file, error)
            what = error.what if isinstance(error, ConfigError) else "not a text"
            self._store.apply((), (policy_refused(request.file, what, request.who),))
            answer_policy(request, str(error))
            return
        self._asked = request, planned
        self.post(PolicyAsked(planned.rules, planned.decider, planned.facts))

    def _adopt(self) -> None:
        """The ledger has the policy: keep it for the next start, and tell who asked."""
        if self._asked is None or self._applying is None:
            return
        (request, planned), self._asked = self._asked, None
        self._applying.took(planned)
        keep_policy(self._store.folder, request.text, request.signatures)
        log.info("policy %s (%s) is applied", planned.policy.name, planned.policy.digest[:12])
        answer_policy(request, "")

    # ---- what goes out ----

    async def _perform(self, effect: AggregatorEffect) -> None:
        self._board.saw(effect)
        match effect:
            case Persist(changes, entries):
                self._store.apply(changes, entries)
                if self._kpis is not None:
                    self._kpis.saw(changes)
                if any(isinstance(change, RoundClosed) for change in changes):
                    self._board.round_ended()
            case Tell(device, message):
                self._tell(device, message)
            case Announce(message):
                self._announce(message)
            case ShareModel(version, model, broadcast):
                await self._share(version, model, broadcast)
            case FetchUpdate():
                self._collecting.fetch(effect)
            case DropFetch(_, device):
                self._collecting.drop(device)
            case OpenFold(number, base_model, members):
                self._bench.open_fold(number, base_model, members)
            case Fold(number, _, tier, blob_id, weight):
                await self._bench.fold(number, tier, blob_id, weight)
            case Merge(number):
                self._jobs.start("merge", self._merge(number))
            case Release(number):
                self._bench.release(number)
            case Ack(token):
                self._transport.ack(token)
            case Adopt():
                self._adopt()
            case Alarm(text):
                log.warning(text)
            case _:
                raise AssertionError(f"no hand for {effect!r}")

    def _tell(self, device: str, message: Message) -> None:
        if isinstance(message, Offer):
            segments = self._segments(message.base)
            held = message.holds or range(message.tier + 1)
            message = dataclasses.replace(message, segments=tuple(segments[k] for k in held))
        self._mailer.send(self._topics.command(device), message)

    async def _share(self, version: int, model: str, broadcast: bool) -> None:
        self._models[version] = model
        for old in sorted(self._models)[:-MODELS_HELD]:
            del self._models[old]
        source = None
        if not self._sharing.holds(model):
            chunk = clamp_chunk(self._transport.limits.max_packet, self._wanted_chunk)
            source = await self._bench.cut(model, chunk)
        self._sharing.share(model, source, broadcast=broadcast)

    def _segments(self, version: int) -> tuple[str, ...]:
        return self._sharing.segments(self._models[version])

    def _announce(self, message: Head | Close) -> None:
        if isinstance(message, Close):
            self._mailer.send(self._topics.round, message)
            return
        self._head = dataclasses.replace(message, segments=self._segments(message.version))
        self._mailer.send(self._topics.head, self._head, retain=True)

    def _announce_again(self) -> None:
        """A broker that lost our session may have lost what it retained as well."""
        self._sharing.announce_again()
        if self._head is not None:
            self._mailer.send(self._topics.head, self._head, retain=True)

    def _pull(self, device: str, pull: Pull) -> None:
        if self._transport.connected:  # else it would only be late: the receiver asks again
            self._mailer.send(self._topics.command(device), pull)

    async def _merge(self, number: int) -> None:
        try:
            merged = await self._bench.merge(number)
        except StoreError:  # the disk: what was counted stays, and the next life merges it
            raise
        except MhflError as error:
            self.post(MergeFailed(number, str(error)))
        else:
            self.post(Merged(number, merged.model, merged.metrics))
