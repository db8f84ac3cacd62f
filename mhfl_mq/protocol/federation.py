"""The federation machine: members come and go, rounds follow each other, the head moves. No clock, no luck, no I/O.

`handle(event)` returns the effects in the order in which they must be performed. The token of a message is
acknowledged once, as the last effect of its event. The machine can be restored from what it persisted after any of
its effects: nothing is told to a device that a restart would not stand by.
"""

from typing import assert_never

from mhfl_mq.errors import ConfigError, LocalMisuse
from mhfl_mq.protocol import entries
from mhfl_mq.protocol.effects import (
    Ack,
    Adopt,
    AggregatorEffect,
    Announce,
    Persist,
    Release,
    ShareModel,
    Stop,
    Tell,
)
from mhfl_mq.protocol.eligibility import Eligibility
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
    TimerFired,
    UpdateBad,
    UpdateStored,
)
from mhfl_mq.protocol.joining import Joining
from mhfl_mq.protocol.members import Link, Members
from mhfl_mq.protocol.numbers import Numbers
from mhfl_mq.protocol.pace import Pace
from mhfl_mq.protocol.pauses import Once, Quiet, Timer
from mhfl_mq.protocol.records import Entry, EpochStarted, RoundOpened, SavedState, VersionAdded
from mhfl_mq.protocol.rounds import Round
from mhfl_mq.protocol.rules import Candidate, Decider, Rules
from mhfl_mq.protocol.states import FEDERATION, FederationState, FederationStep
from mhfl_mq.protocol.uploads import Uploads
from mhfl_mq.protocol.words import plain
from mhfl_mq.wire.messages import (
    Accept,
    Assign,
    Capability,
    Close,
    Decline,
    Facts,
    Head,
    Hello,
    ManifestNote,
    Message,
    Presence,
    Pull,
    Receipt,
    UpdateReady,
    Verdict,
)

__all__ = ["FederationMachine"]


class FederationMachine:
    """One federation. `saved` is what the last life persisted; its head must exist (version 0 is made before).

    `first_epoch` is the least epoch to begin with: a driver that gives the seconds of its clock keeps epochs growing
    even over a lost state folder.
    """

    def __init__(self, rules: Rules, decider: Decider, saved: SavedState, *, first_epoch: int = 1) -> None:
        self.state = FEDERATION.start
        self.epoch = max(saved.epoch + 1, first_epoch)
        self.round: Round | None = None  # the open one
        self.members = Members(saved.devices, saved.turns, rules.max_devices, saved.pasts)
        self._rules = rules
        self._decider = decider
        self._saved = saved
        self._head = saved.head
        self._asked: PolicyAsked | None = None  # what takes over when no round is open
        opened_at = 0.0 if saved.open_round is None else saved.open_round.opened_at
        self.pace = Pace(decider, saved.committed_at, opened_at)
        self._now = 0.0  # when the event came that is being handled
        self._numbers = Numbers(saved.last_round, saved.rounds_opened)
        self._once = Once()
        self._quiet = Quiet()
        self._uploads = Uploads(decider, self.members, saved.latest)
        self.eligibility = Eligibility(decider, self.members, self._uploads)
        self._used = _used(saved)
        self._joins = Joining(rules, decider, self.members, self._once)

    @property
    def last_round(self) -> int:
        """The last round number that is used up."""
        return self._numbers.last

    @property
    def rounds(self) -> int:
        """How many rounds this state folder has opened, and not left open."""
        return self._numbers.opened - (self.round is not None)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Who is here with a tier, whatever the policy's rules say, by name."""
        return self.members.candidates(self._rules.layout)

    @property
    def head(self) -> VersionAdded:
        """The version that devices follow; raises `LocalMisuse` when there is none."""
        if self._head is None:
            raise LocalMisuse(
                "there is no model yet", where="federation machine", remedy="store version 0 before Started"
            )
        return self._head

    @property
    def rules(self) -> Rules:
        """What it runs under."""
        return self._rules

    def handle(self, event: AggregatorEvent, now: float) -> list[AggregatorEffect]:
        """What to do about this event, at this time by the wall clock: seconds since 1970, UTC.

        Raises `LocalMisuse` before `Started` and after `Stop`.
        """
        self._now = now
        if (self.state is FederationState.NEW) != isinstance(event, Started) or self.state is FederationState.STOPPED:
            raise LocalMisuse(
                f"{type(event).__name__} in state {self.state.value!r}",
                where="federation machine",
                remedy="the first event is Started; after Stop there are none",
            )
        effects = self._dispatch(event)
        effects += self._onward()
        token = event.token if isinstance(event, Heard | Faulted) else 0
        return [*effects, Ack(token)] if token else effects

    def _dispatch(self, event: AggregatorEvent) -> list[AggregatorEffect]:
        match event:
            case Started():
                return self._started()
            case Heard(sender, message, _):
                return self._heard(sender, message)
            case Faulted(sender, what, _):
                return self._fault(sender, what)
            case TimerFired(name):
                return self._timer(name)
            case StopAsked():
                return self._stop("asked to stop")
            case RollbackAsked():
                return self._roll_back(event)
            case PolicyAsked():
                return self._policy_asked(event)
            case UpdateStored() | UpdateBad() | Merged() | MergeFailed():
                return self._worked(event)
            case _:
                assert_never(event)

    # ---- life ----

    def _started(self) -> list[AggregatorEffect]:
        head, open_round = self.head, self._saved.open_round
        if head.layout != self._rules.layout:
            raise ConfigError(
                f"the head, version {head.version}, has layout {head.layout}, the task has {self._rules.layout}",
                where="state folder",
                remedy="run the task and tiers that made this model, or begin with a new state folder",
            )
        number = None if open_round is None else open_round.opened.round
        entry = entries.aggregator_started(self.epoch, self._rules, head.version, number)
        effects: list[AggregatorEffect] = [
            Persist((EpochStarted(self.epoch),), (entry,)),
            ShareModel(head.version, head.model, broadcast=False),
            Announce(self._head_message()),
        ]
        if open_round is not None:
            self._step(FederationStep.RESUME)
            opened = open_round.opened
            uploads = self._uploads.of(opened.cohort)
            self.round = Round(self._rules, self._decider, self._once, opened, head.model, open_round.counted, uploads)
            if opened.policy != self._rules.policy:
                return effects + self.round.abort("the policy was changed while the round was open")
            return effects + self.round.resume(self._now - open_round.opened_at)
        self._step(FederationStep.START)
        closed = self._saved.last_closed
        if closed is not None:  # the last life may have died before it said how the round ended
            version = head.version if closed.version is None else closed.version
            effects.append(Announce(Close(closed.round, closed.outcome, version)))
        return effects + self._look()

    def _stop(self, reason: str) -> list[AggregatorEffect]:
        """End in good order. An open round stays open: the next life goes on with it."""
        self._step(FederationStep.STOP)
        return [Stop(reason)]

    def _onward(self) -> list[AggregatorEffect]:
        """What follows from the state that an event left: a round that ended, a round that can begin."""
        effects: list[AggregatorEffect] = []
        if self.round is not None and self.round.over:
            effects += self._ended(self.round)
        if self._asked is not None and self.round is None and self.state is not FederationState.STOPPED:
            effects += self._take_up(self._asked)
        if self.state is FederationState.WAITING:
            effects += self._open()
        return effects

    # ---- another policy ----

    def _policy_asked(self, asked: PolicyAsked) -> list[AggregatorEffect]:
        """Write it down; an open round goes on under the rules that it was opened with."""
        self._asked = asked
        begins = self.last_round + 1
        return [Persist(entries=(entries.policy_applied(asked.facts, begins),)), Adopt(asked.rules.policy)]

    def _take_up(self, asked: PolicyAsked) -> list[AggregatorEffect]:
        """From now on these rules count: tiers are given anew where a budget has changed, and the schedule is asked."""
        self._asked = None
        self._rules, self._decider = asked.rules, asked.decider
        self.pace.under(asked.decider)
        self._uploads.under(asked.decider)
        self.eligibility.under(asked.decider)
        self._joins.under(asked.rules, asked.decider)
        self._once.clear()
        effects: list[AggregatorEffect] = []
        for member in self.members.roll():
            there = member.link is Link.ONLINE and member.saved.layout == asked.rules.layout
            if there and asked.decider.assign(member.capability).tier != member.saved.tier:
                effects += self._joins.answer(member.saved.device, member.capability, self.epoch)
        return effects + self._look()

    def _timer(self, name: str) -> list[AggregatorEffect]:
        if name == Timer.DEADLINE and self.round is not None:
            return self.round.deadline()
        if name == Timer.INTERVAL:
            self.pace.fired()
            return self._look() if self.state in (FederationState.RESTING, FederationState.WAITING) else []
        if name == Timer.QUIET:
            return list(self._quiet.over())
        return []

    def _look(self) -> list[AggregatorEffect]:
        """See whether a round is due, or still is, and look again when that changes."""
        before, opening = self.pace.opening, self.pace.ask(self._now)
        effects: list[AggregatorEffect] = []
        if opening.yes and self.state is FederationState.RESTING:
            self._step(FederationStep.DUE)
        elif not opening.yes and self.state is FederationState.WAITING:
            self._step(FederationStep.LAPSE)
            out = self.eligibility.counts
            missed = entries.round_missed(len(self.candidates), self._rules.quorum_min, opening.why, out)
            effects.append(Persist(entries=(missed,)))
        if opening.changes_s is None and not opening.yes and opening.why != before.why:
            effects += self._quiet.alarm(opening.why)
        if opening.yes and opening.changes_s is None:
            return effects
        return [*effects, *self.pace.look_in(self._now, opening.changes_s)]

    # ---- rounds ----

    def _open(self) -> list[AggregatorEffect]:
        """Open a round, when enough devices are present."""
        if self._spent:
            return self._stop(f"{self._rules.max_rounds} rounds are done")
        candidates = self.candidates
        if len(candidates) < self._rules.quorum_min:
            return []
        allowed = self.eligibility.of(candidates, self.rounds, self._now)
        invited: tuple[str, ...] = ()
        if len(allowed) >= self._rules.quorum_min:
            for due in self._uploads.due(allowed, self.last_round + 1):
                invited = invited or self._decider.invite(due, len(candidates))
        if not invited:
            again_at = self.eligibility.again_at
            return [] if again_at is None else list(self.pace.look_in(self._now, again_at - self._now))
        tiers = {device: tier for device, tier, _ in candidates}
        opened = RoundOpened(
            round=self._numbers.take(),
            base=self.head.version,
            policy=self._rules.policy,
            needed=max(1, self._decider.needed(len(invited))),
            cohort=tuple((device, tiers[device]) for device in invited),
        )
        self._once.clear()
        self.pace.opened(self._now)
        self._step(FederationStep.OPEN)
        uploads = self._uploads.of(opened.cohort)
        out = self.eligibility.counts
        self.round = Round(self._rules, self._decider, self._once, opened, self.head.model, uploads=uploads, out=out)
        return self.round.open()

    def _worked(self, event: UpdateStored | UpdateBad | Merged | MergeFailed) -> list[AggregatorEffect]:
        """Something that a round asked for is done; a round that is over wants it no more."""
        current = self.round
        if current is None or event.round != current.number:
            return []
        match event:
            case UpdateStored():
                return current.stored(event)
            case UpdateBad():
                return current.bad(event)
            case Merged():
                return current.merged(event, self.head)
            case MergeFailed():
                return current.merge_failed(event.reason)
            case _:
                assert_never(event)

    def _ended(self, ended: Round) -> list[AggregatorEffect]:
        """A round is over: what it made goes out, and the next one is due after a pause."""
        effects: list[AggregatorEffect] = []
        if ended.version is not None:
            self._used = (ended.number, frozenset(ended.counted))
            self._head = ended.version
            effects = [
                ShareModel(self.head.version, self.head.model),
                Announce(self._head_message()),
                Announce(Close(ended.number, "committed", self.head.version)),
                Release(ended.number),
                *(one for text in ended.alarms for one in self._quiet.alarm(text)),
            ]
        self._rest(ended)
        if self._spent:
            return effects + self._stop(f"{self._rules.max_rounds} rounds are done")
        return effects + self._look()

    def _rest(self, ended: Round) -> None:
        """No round is open any more: who had its turn in it is known, and the pause begins."""
        self.round = None
        self.members.had_turns(ended.turns, ended.counted.values(), self.pace.opened_at, self._now)
        self._uploads.counted(ended.counted.values())
        self.eligibility.forget()
        self._step(FederationStep.REST)
        self.pace.ended(self._now, committed=ended.version is not None, last_round=self.last_round)

    @property
    def _spent(self) -> bool:
        return self._numbers.spent(self._rules.max_rounds)

    def _roll_back(self, asked: RollbackAsked) -> list[AggregatorEffect]:
        """A newer version with older weights; what an open round trains from is no longer the head."""
        if asked.model == self.head.model:
            return []  # asked twice
        effects: list[AggregatorEffect] = []
        if self.round is not None:
            effects += self.round.abort(f"rolled back to version {asked.version}: {asked.reason}")
            self._rest(self.round)
            effects += self._look()
        added = VersionAdded(
            version=self.head.version + 1,
            parent=self.head.version,
            model=asked.model,
            layout=self.head.layout,
            origin="rollback",
            round=None,
            metrics=entries.finite(asked.metrics),
            reason=asked.reason,
        )
        self._head = added
        return [
            *effects,
            Persist((added,), (entries.version_rolled_back(added, asked.version, asked.who),)),
            ShareModel(added.version, added.model),
            Announce(self._head_message()),
        ]

    def _head_message(self) -> Head:
        head = self.head
        use = self._decider.best(head.metrics)
        return Head(self.epoch, head.version, head.layout, (), use)  # the driver knows the blobs

    # ---- messages ----

    def _heard(self, device: str, message: Message) -> list[AggregatorEffect]:
        self.eligibility.forget(device)
        match message:
            case Presence():
                self.members.presence(device, message)
                return []
            case Hello() | Capability():
                return self._joined(device, message)
            case UpdateReady():
                return self._update_ready(device, message)
            case Accept(number):
                return self.round.accept(device) if self.round and self.round.number == number else []
            case Decline(number):
                return self.round.decline(device, message) if self.round and self.round.number == number else []
            case Facts():
                self.members.says(device, message, self._now)
                return []
            case Pull() | ManifestNote():
                return []  # the blobs' own machines see to them
            case _:
                return self._fault(device, f"sent {message.kind}, which only the aggregator sends")

    def _joined(self, device: str, message: Hello | Capability) -> list[AggregatorEffect]:
        """Assign, survey or refuse; who has a tier (again) hears the offer that still waits for it (again)."""
        lies = [] if isinstance(message, Capability) else self._claim(device, message.last_round)
        answer = self._joins.answer(device, message, self.epoch)
        if not any(isinstance(one, Tell) and isinstance(one.message, Assign) for one in answer):
            return lies + answer
        offers = [] if self.round is None else self.round.offer_again(device)
        return [*lies, *self._skip(device), *answer, *offers]

    def _claim(self, device: str, heard: int) -> list[AggregatorEffect]:
        if self._numbers.claim(device, heard):
            return []
        last = self.last_round
        return self._fault(device, f"claims to have been in round {heard}, {heard - last} after our last one")

    def _skip(self, device: str) -> list[AggregatorEffect]:
        """A device of ours that was in a later round shows that we lost our state: its numbers are used up."""
        known = self._numbers.skip(device)
        if known is None:
            return []
        heard = self.last_round
        alarm = f"{device} was in round {heard}, this state folder ends at round {known}: rounds go on after {heard}"
        noted = self._note(device, "skip", entries.rounds_skipped(device, known, heard))
        return [*noted, *self._quiet.alarm(alarm)]

    def _update_ready(self, device: str, ready: UpdateReady) -> list[AggregatorEffect]:
        if self.round is not None and ready.round == self.round.number:
            return self.round.update_ready(device, ready)
        if ready.round > self.last_round:
            reason = f"round {ready.round} was never offered"
            noted = self._note(device, "refuse", entries.update_refused(ready.round, device, reason))
            return [*noted, Tell(device, Receipt(ready.round, Verdict.REFUSED, reason))]
        used, members = self._used
        if ready.round == used and device in members:  # its receipt was lost: it must know that it counted
            return [Tell(device, Receipt(ready.round, Verdict.DUPLICATE, ""))]
        noted = self._note(device, "late", entries.update_late(ready.round, device))
        return [*noted, Tell(device, Receipt(ready.round, Verdict.LATE, f"round {ready.round} is over"))]

    def _fault(self, device: str, what: str) -> list[AggregatorEffect]:
        """A peer broke the rules: the ledger has the first of each device and round, a person sees one a minute."""
        what = plain(what)
        noted = self._note(device, "fault", entries.peer_fault(device, what))
        return [*noted, *self._quiet.alarm(f"{device}: {what}")]

    def _note(self, device: str, kind: str, entry: Entry) -> list[AggregatorEffect]:
        return [Persist(entries=(entry,))] if self._once.first(device, kind) else []

    def _step(self, step: FederationStep) -> None:
        self.state = FEDERATION.step(self.state, step)


def _used(saved: SavedState) -> tuple[int, frozenset[str]]:
    """The last round that made a version, and who was counted in it."""
    closed = saved.last_closed
    if closed is None or closed.version is None:
        return 0, frozenset()
    return closed.round, frozenset(one.device for one in saved.latest if one.round == closed.round)
