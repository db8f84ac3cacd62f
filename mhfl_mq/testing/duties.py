"""What an aggregator owes, by its policy: judged from outside, event by event, over one life of its process.

`mhfl_mq.testing.invariants` says what may not be said or done; here stands what may not be left out, and what the
policy forbids. Nothing of the machine's own state is looked at: only what it heard, what it did, and what is durable.
"""

from collections.abc import Callable
from math import fsum
from typing import Final

from mhfl_mq.policy import Policy
from mhfl_mq.protocol.effects import AggregatorEffect, FetchUpdate, Merge, Persist, SetTimer, Tell
from mhfl_mq.protocol.events import AggregatorEvent, Heard, Started
from mhfl_mq.protocol.pauses import Timer
from mhfl_mq.protocol.records import Change, RoundOpened, VersionAdded
from mhfl_mq.protocol.rounds import RETURN_S
from mhfl_mq.testing.invariants import Truth, require
from mhfl_mq.testing.sim_world import may_begin
from mhfl_mq.wire.messages import Accept, Assign, Decline, Facts, Offer, Receipt, Verdict

__all__ = ["Duties"]

SLACK_S: Final = 0.01
"""Seconds: the database keeps milliseconds."""
STARTUP_S: Final = 5.0
"""Seconds that an aggregator may take from its clock's first look to its timer: it folds what was counted."""

Place = tuple[int, str]
"""A device in a round."""


class Duties:
    """The duties of one life. `uploads` tells how many updates are being pulled at this moment."""

    def __init__(self, truth: Truth, policy: Policy, uploads: Callable[[], int]) -> None:
        self._at = 0.0  # when the event came that is being handled
        self._truth = truth
        self._policy = policy
        self._uploads = uploads
        self._receipted: set[Place] = set()
        self._declined: set[Place] = set()
        self._refused: set[Place] = set()
        self._idle: dict[str, bool] = {}  # what devices said last in this life
        self._closed: set[int] = set()  # rounds that take nothing more
        self._assigned: set[str] = set()  # by the event that is being handled
        self._offered: set[Place] = set()  # by the event that is being handled

    def event(self, event: AggregatorEvent) -> None:
        """A new event: what the one before it made due must be done."""
        self._at = round(self._truth.now(), 3)  # timers and clocks differ by less
        if not isinstance(event, Started):  # before that, this life owes nothing
            self._paid()
        self._assigned.clear()
        self._offered.clear()
        match event:
            case Heard(device, Decline(number)):
                self._declined.add((number, device))
            case Heard(device, Facts(numbers)):
                self._idle[device] = numbers.get("idle") == 1.0
            case Heard(device, Accept(number)):
                self._declined.discard((number, device))

    def effect(self, effect: AggregatorEffect) -> None:
        """This is about to be performed."""
        self._places_suffice()
        match effect:
            case Persist(changes):
                for change in changes:
                    self._change(change)
            case SetTimer(Timer.DEADLINE, after_s):
                self._deadline(after_s)
            case FetchUpdate(number, device):
                self._declined.discard((number, device))
            case Tell(device, Receipt(number, Verdict.COUNTED)):
                self._receipted.add((number, device))
            case Tell(device, Receipt(number, Verdict.REFUSED)):
                self._refused.add((number, device))
            case Tell(device, Assign()):
                self._assigned.add(device)
            case Tell(device, Offer(number)):
                self._offered.add((number, device))
            case Merge(number):
                self._closes(number)

    # ---- what must have been done ----

    def _paid(self) -> None:
        """Whoever is counted has its receipt from this life; whoever came back has the offer that waits for it."""
        self._places_suffice()
        truth, number = self._truth, self._truth.open_round
        if number is None:
            return
        for device in truth.rounds[number].counted:
            due = f"round {number} counts {device}, and this life of the aggregator gave it no receipt"
            require((number, device) in self._receipted, due)
        for device in sorted(self._assigned & set(self._waiting(number))):
            due = f"{device} came back, round {number} waits for it, and it did not hear the offer again"
            require(number in self._closed or (number, device) in self._offered, due)

    def _waiting(self, number: int) -> list[str]:
        """Who is invited and may still send an update."""
        one = self._truth.rounds[number]
        out = {device for where, device in self._declined | self._refused if where == number}
        return [device for device, _ in one.opened.cohort if device not in out and device not in one.counted]

    # ---- what the policy forbids ----

    def _closes(self, number: int) -> None:
        """Before its deadline a round closes only when its target is reached, or nobody is waited for."""
        self._closed.add(number)
        one, part = self._truth.rounds[number], self._policy.participation
        if self._truth.now() >= one.at + part.deadline_s - SLACK_S:
            return
        invited, counted, waiting = len(one.opened.cohort), len(one.counted), self._waiting(number)
        target = invited if part.cohort is None else max(one.opened.needed, min(part.cohort, invited))
        early = f"round {number} closes early with {counted} of {target} updates, and waits for {waiting}"
        require(not waiting or counted >= target, early)

    def _deadline(self, after_s: float) -> None:
        """A round's deadline is that of its opening, however often it is resumed; a moment is left for who returns."""
        truth, number = self._truth, self._truth.open_round
        require(number is not None, "a deadline is set for a round that is not durably open")
        assert number is not None
        whole_s = self._policy.participation.deadline_s
        left = max(truth.rounds[number].at + whole_s - truth.now(), min(whole_s, RETURN_S))
        late = after_s - left
        require(late <= STARTUP_S, f"the deadline of round {number} is put off by {late:.1f} s")

    def _change(self, change: Change) -> None:
        """No round begins where the schedule forbids one, and no model that is too much worse becomes the head."""
        if isinstance(change, RoundOpened):
            day_s = self._at % 86400.0  # a simulation begins at midnight
            allowed = may_begin(self._policy.schedule, day_s)
            require(allowed, f"round {change.round} begins at second {day_s:.1f}, where the schedule allows none")
            self._used_once(day_s)
            self._may_be_invited(change)
        head, most = self._truth.head, self._policy.gate.max_drop
        if not isinstance(change, VersionAdded) or change.origin != "round" or head is None or most is None:
            return
        common = [name for name in change.metrics if name in head.metrics]
        if common:
            drop = fsum(head.metrics[name] - change.metrics[name] for name in common) / len(common)
            require(
                drop <= most, f"round {change.round} commits a model that is {drop:g} worse, the gate allows {most:g}"
            )

    def _may_be_invited(self, opened: RoundOpened) -> None:
        """Who is invited said last that it is idle, where the policy asks for it, and rested since its last turn."""
        least_s = self._policy.schedule.per_device.min_interval_s
        for device, _ in opened.cohort:
            if self._policy.participation.require:
                require(
                    self._idle.get(device, False), f"{device} is invited and did not say in this life that it is idle"
                )
            turns = [one.at for one in self._truth.rounds.values() if one.closed and device in one.closed.turns]
            if least_s and turns:
                rested = self._at - turns[-1]
                require(rested >= least_s - SLACK_S, f"{device} is invited {rested:.1f} s after its last turn began")

    def _used_once(self, day_s: float) -> None:
        """A time of the cron line is used up by a round that made a version."""
        period = 120.0
        committed = [one for one in self._truth.rounds.values() if one.closed is not None and one.closed.version]
        if self._policy.schedule.cron and committed:
            last = committed[-1].at % 86400.0
            require(last // period < day_s // period, f"a second round begins at second {day_s:.1f} for the same time")

    def _places_suffice(self) -> None:
        running, places = self._uploads(), self._policy.limits.concurrent_uploads
        require(running <= places, f"{running} updates are being pulled, the policy has {places} places")
