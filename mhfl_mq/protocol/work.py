"""A device's work in a round: take the offer, fetch, train, and send the update until it is receipted.

What must survive a kill is saved first: the offer before it is accepted, the finished update before it is announced.
So a device that comes back trains an unfinished offer again and sends a finished update again, never the reverse.
"""

from dataclasses import dataclass
from typing import Final

from mhfl_mq.protocol.effects import (
    Alarm,
    CancelTimer,
    DeviceEffect,
    FetchSegments,
    ForgetUpdate,
    Say,
    SetTimer,
    StopTraining,
    Train,
)
from mhfl_mq.protocol.events import Trained
from mhfl_mq.protocol.memory import Memory
from mhfl_mq.protocol.pauses import Luck, Pauses, Timer
from mhfl_mq.protocol.site import Site
from mhfl_mq.protocol.states import WORK, WorkState, WorkStep
from mhfl_mq.protocol.words import plain
from mhfl_mq.wire.messages import Accept, Decline, Offer, Receipt, UpdateReady, Verdict

__all__ = ["StageRules", "Work"]

_RESEND_FIRST_S: Final = 5.0  # a small update is counted within one; a big one is being pulled meanwhile
_RESEND_MOST_S: Final = 60.0  # 1,000 devices that wait are 17 small messages a second
_FRAME_ROOM: Final = 8192  # bytes of an `UpdateReady` besides its inline blob: 64 metrics, a short manifest, topic


@dataclass(frozen=True, slots=True)
class StageRules:
    """What the plant itself says about privacy stages, whatever the policy asks: which may run, which must."""

    allowed: frozenset[str] | None = None  # None: every stage
    denied: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()

    def objection(self, stages: tuple[str, ...]) -> str:
        """Why these stages cannot be run here, in one sentence; empty when they can."""
        wanted = set(stages)
        banned = (wanted & self.denied) | (set() if self.allowed is None else wanted - self.allowed)
        if banned:
            return f"this device does not run the stage {', '.join(sorted(banned))}"
        missing = self.required - wanted
        return f"this device demands the stage {', '.join(sorted(missing))}" if missing else ""


class Work:
    """One device's work; what it saves, it saves through the device's memory."""

    def __init__(self, memory: Memory, stages: StageRules, luck: Luck, site: Site) -> None:
        self.state = WORK.start
        self._memory = memory
        self._stages = stages
        self._site = site
        self.max_packet = 0  # bytes; 0: not known yet
        self._pauses = Pauses(_RESEND_FIRST_S, _RESEND_MOST_S, luck)
        self._inline = b""

    @property
    def offer(self) -> Offer | None:
        """Of the round that the device is in."""
        return self._memory.saved.offer

    # ---- beginning ----

    def resume(self) -> list[DeviceEffect]:
        """After a restart: send the finished update, or train the unfinished offer again."""
        offer = self.offer
        if offer is None:
            return []
        if self._memory.saved.update is not None:
            self._step(WorkStep.RESUME)
            return []
        self._step(WorkStep.TAKE)
        # Without a clock the time that passed is unknown: the deadline starts anew, and the aggregator knows better.
        return [SetTimer(Timer.DEADLINE, offer.deadline_s), FetchSegments(offer)]

    def offered(self, offer: Offer) -> list[DeviceEffect]:
        """Take the offer, say again that it is taken, or decline it with the reason."""
        if self.offer is not None and offer.round == self.offer.round:
            return self._offered_again(self.offer)
        objection = self._objection(offer)
        if objection is not None:
            return [Say(Decline(offer.round, *objection))]
        dropped = self._dropped()
        spent = self._site.taken(self._memory.saved.spent)
        saved = self._memory.save(offer=offer, update=None, weight=0.0, metrics={}, spent=spent)
        self._step(WorkStep.TAKE)
        self._inline = b""
        return [
            saved,
            *dropped,
            Say(Accept(offer.round)),
            SetTimer(Timer.DEADLINE, offer.deadline_s),
            FetchSegments(offer),
        ]

    def _offered_again(self, offer: Offer) -> list[DeviceEffect]:
        """The aggregator restarted, or saw us return: it wants to hear that we are at it.

        Our deadline starts anew, as after a restart of ours: that of the aggregator, which does not, decides.
        """
        if self.state is WorkState.SENDING:
            return self.announce()
        return [Say(Accept(offer.round)), SetTimer(Timer.DEADLINE, offer.deadline_s)]

    def _objection(self, offer: Offer) -> tuple[str, str] | None:
        """Code and reason for which this offer is not taken."""
        saved = self._memory.saved
        done = saved.last_round if saved.offer is None else max(saved.last_round, saved.offer.round)
        if offer.round <= done:
            return "over", f"this device is past round {offer.round}: it is in round {done} or done with it"
        if saved.tier is None:
            return "no_tier", "this device has no tier yet"
        if offer.layout != saved.layout:
            return "layout", f"the offer has layout {offer.layout}, this device has {saved.layout}"
        if offer.tier != saved.tier:
            return "tier", f"the offer is for tier {offer.tier}, this device carries tier {saved.tier}"
        if (offer.holds or tuple(range(offer.tier + 1))) != saved.segments:
            return "segments", f"the offer is not of the segments {saved.segments}, which this device's tier holds"
        objection = self._stages.objection(offer.stages)
        if objection:
            return "stages", plain(objection)
        length = 0 if saved.survey is None else saved.survey.tiers[offer.tier].length
        objection = self._site.objection(offer, length, saved.spent)
        return ("site", plain(objection)) if objection else None

    # ---- going on ----

    def fetched(self, number: int) -> list[DeviceEffect]:
        """The base model is here: train."""
        offer = self._in(number, WorkState.FETCHING)
        if offer is None:
            return []
        self._step(WorkStep.FETCHED)
        return [Train(offer)]

    def trained(self, event: Trained, online: bool) -> list[DeviceEffect]:
        """Make the update ours to send, and say so when there is a connection (else it is said on the next one)."""
        offer = self._in(event.round, WorkState.TRAINING)
        if offer is None:
            return [] if self._busy_with(event.round) else [ForgetUpdate(event.round)]
        self._step(WorkStep.TRAINED)
        self._inline = event.inline
        self._pauses.reset()
        spent = self._site.sent(self._memory.saved.spent, event.manifest.size, event.metrics.get("seconds", 0.0))
        saved = self._memory.save(update=event.manifest, weight=event.weight, metrics=dict(event.metrics), spent=spent)
        return [saved, CancelTimer(Timer.DEADLINE), *(self.announce() if online else [])]

    def announce(self, *, whole: bool = True, gone: bool = False) -> list[DeviceEffect]:
        """Say that the update is ready; `whole`: with the blob itself, when that is small enough for one packet.

        It is said again without the blob: a broker that keeps our messages for an aggregator that is gone for hours
        should not have to keep the update a hundred times.
        """
        saved = self._memory.saved
        if self.state is not WorkState.SENDING or saved.offer is None or saved.update is None:
            return []
        fits = not self.max_packet or len(self._inline) + _FRAME_ROOM <= self.max_packet
        ready = UpdateReady(
            round=saved.offer.round,
            base=saved.offer.base,
            weight=saved.weight,
            manifest=saved.update,
            metrics=dict(saved.metrics),
            inline=self._inline if whole and fits else b"",
        )
        return [Say(ready), SetTimer(Timer.RESEND, self._pauses.next_s(gone=gone))]

    def hush(self) -> list[DeviceEffect]:
        """The aggregator is gone: the next attempt is far off, unless it comes back before."""
        return [SetTimer(Timer.RESEND, self._pauses.next_s(gone=True))] if self.state is WorkState.SENDING else []

    def welcome(self) -> list[DeviceEffect]:
        """The aggregator knows us (again): what waits for it is said at once."""
        self._pauses.reset()
        return self.announce()

    # ---- ending ----

    def receipt(self, receipt: Receipt) -> list[DeviceEffect]:
        """The aggregator answered for the update: only now is it forgotten."""
        if not self._busy_with(receipt.round):
            return []
        used = receipt.verdict in (Verdict.COUNTED, Verdict.DUPLICATE)
        ended = self._end(done=True, used=used)
        if receipt.verdict == Verdict.REFUSED:
            ended.append(Alarm(f"the update of round {receipt.round} was refused: {receipt.reason}"))
        return ended

    def withdrawn(self, number: int) -> list[DeviceEffect]:
        """The aggregator took this round back."""
        return self._end(done=True) if self._busy_with(number) else []

    def closed(self, number: int, outcome: str) -> list[DeviceEffect]:
        """A round ended, and with it every older one; an update that it had counted may have come to nothing."""
        ended: list[DeviceEffect] = []
        if outcome == "aborted" and self._memory.saved.counted == number:
            ended.append(self._memory.save(counted=0))
        return [*ended, *(self._end(done=True) if self.offer is not None and self.offer.round <= number else [])]

    def failed(self, number: int, code: str, reason: str) -> list[DeviceEffect]:
        """Fetching or training came to nothing: out of this round, unless it is offered again."""
        if not self._busy_with(number) or self.state is WorkState.SENDING:
            return []
        return [*self._end(done=False), Say(Decline(number, code, plain(reason))), Alarm(f"round {number}: {reason}")]

    def out_of_time(self) -> list[DeviceEffect]:
        """The deadline passed. A finished update is kept: only the aggregator knows whether it still counts."""
        offer = self.offer
        if offer is None:
            return []
        return self.failed(offer.round, "deadline", f"not trained within {offer.deadline_s:g} s")

    def retiered(self, tier: int) -> list[DeviceEffect]:
        """The device carries another tier now: an offer for the old one is of no use."""
        offer = self.offer
        if offer is None or offer.tier == tier:
            return []
        reason = f"this device carries tier {tier} now, the offer was for tier {offer.tier}"
        return [*self._end(done=True), Say(Decline(offer.round, "tier", reason))]

    def _end(self, *, done: bool, used: bool = False) -> list[DeviceEffect]:
        """Back to idle; `done`: this round is never taken again; `used`: its update was counted."""
        saved = self._memory.saved
        assert saved.offer is not None
        last = max(saved.last_round, saved.offer.round) if done else saved.last_round
        counted = saved.offer.round if used else saved.counted
        dropped = self._dropped()
        change = self._memory.save(offer=None, update=None, weight=0.0, metrics={}, last_round=last, counted=counted)
        self._step(WorkStep.END)
        self._inline = b""
        self._pauses.reset()
        return [change, *dropped]

    def _dropped(self) -> list[DeviceEffect]:
        """What frees the present work, to be done after the saved state no longer speaks of it."""
        offer = self.offer
        if offer is None:
            return []
        if self.state is WorkState.SENDING:
            return [CancelTimer(Timer.RESEND), ForgetUpdate(offer.round)]
        return [CancelTimer(Timer.DEADLINE), StopTraining(offer.round), ForgetUpdate(offer.round)]

    def _in(self, number: int, state: WorkState) -> Offer | None:
        offer = self.offer
        return offer if offer is not None and offer.round == number and self.state is state else None

    def _busy_with(self, number: int) -> bool:
        return self.offer is not None and self.offer.round == number

    def _step(self, step: WorkStep) -> None:
        self.state = WORK.step(self.state, step)
