"""The device machine: joins a federation, takes part in rounds, follows the head. No clock, no luck, no I/O.

`handle(event)` returns the effects in the order in which they must be performed. The token of a message is
acknowledged once, as the last effect of its event: after everything that the message caused is durable.
"""

from dataclasses import replace
from typing import Final, assert_never

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.protocol.effects import (
    Ack,
    Alarm,
    CancelTimer,
    DeviceEffect,
    Follow,
    Probe,
    SavedDevice,
    Say,
    SetTimer,
    Stop,
    StopTraining,
)
from mhfl_mq.protocol.events import (
    Connected,
    DeviceEvent,
    Disconnected,
    FactsRead,
    Faulted,
    Fetched,
    FetchFailed,
    Heard,
    Installed,
    InstallFailed,
    LinkMeasured,
    Probed,
    ProbeFailed,
    Started,
    StopAsked,
    TimerFired,
    Trained,
    TrainFailed,
    TrainingStopped,
)
from mhfl_mq.protocol.following import Following
from mhfl_mq.protocol.link_speed import LinkSpeed
from mhfl_mq.protocol.memory import Memory
from mhfl_mq.protocol.pauses import HERD_S, Luck, Pauses, Quiet, Timer
from mhfl_mq.protocol.saying import Saying
from mhfl_mq.protocol.site import Anything, Site
from mhfl_mq.protocol.states import STANDING, Standing, StandingStep, WorkState
from mhfl_mq.protocol.step_drift import StepDrift
from mhfl_mq.protocol.work import StageRules, Work
from mhfl_mq.wire.messages import (
    Assign,
    Capability,
    Close,
    Head,
    Hello,
    ManifestNote,
    Message,
    Offer,
    Presence,
    Pull,
    Receipt,
    Refuse,
    Survey,
    Withdraw,
)

__all__ = ["DeviceMachine"]

_HELLO_FIRST_S: Final = 2.0
_HELLO_MOST_S: Final = 60.0  # a device is back within a minute of an aggregator whose birth it missed
_RETRY_FIRST_S: Final = 30.0
_RETRY_MOST_S: Final = 3600.0  # what refuses a device (another layout, too weak) changes when a person changes it


class DeviceMachine:
    """One device. `saved` is what the last life saved; `luck` jitters its pauses; `stages` and `site` are the plant's
    own rules, which win over whatever the aggregator asks."""

    def __init__(
        self,
        device_id: str,
        task: str,
        agent: str,
        saved: SavedDevice,
        luck: Luck,
        stages: StageRules | None = None,
        site: Site | None = None,
    ) -> None:
        self.device_id = device_id
        self.standing = STANDING.start
        self.capability: Capability | None = None
        self._task = task
        self._agent = agent
        self._luck = luck
        self._memory = Memory(saved)
        own = Anything() if site is None else site
        self._work = Work(self._memory, StageRules() if stages is None else stages, luck, own)
        self._following = Following(self._memory, luck)
        self._link = LinkSpeed(self._memory)
        self._drift = StepDrift(self._memory)
        self._hellos = Pauses(_HELLO_FIRST_S, _HELLO_MOST_S, luck)
        self._retries = Pauses(_RETRY_FIRST_S, _RETRY_MOST_S, luck)
        self._saying = Saying()
        self._quiet = Quiet()
        self._session = 0
        self._survey: Survey | None = None  # the newest one
        self._probing: Survey | None = None  # the one being measured
        self._measured: Survey | None = None  # the one that `capability` answers
        self._answered: int | None = None  # epoch of the aggregator that answered last
        self._missed = 0  # the last round whose deadline passed before we were done
        self._gone = False  # the aggregator's last will was heard, and nothing of it since

    @property
    def saved(self) -> SavedDevice:
        """What the device would go on with after a restart."""
        return self._memory.saved

    @property
    def work(self) -> WorkState:
        """What it does in the round that it is in."""
        return self._work.state

    @property
    def head(self) -> Head | None:
        """The head that was heard last."""
        return self._following.head

    @property
    def installed(self) -> int | None:
        """The version that it runs, as far as it installed one in this life."""
        return self._following.installed

    def handle(self, event: DeviceEvent) -> list[DeviceEffect]:
        """What to do about this event. Raises `LocalMisuse` before `Started` and after `Stop`."""
        if (self.standing is Standing.NEW) != isinstance(event, Started) or self.standing is Standing.STOPPED:
            raise LocalMisuse(
                f"{type(event).__name__} in state {self.standing.value!r}",
                where="device machine",
                remedy="the first event is Started, the last is StopAsked",
            )
        effects = [*self._dispatch(event), *self._news()]
        return _acked(effects, event.token) if isinstance(event, Heard | Faulted) else effects

    def _dispatch(self, event: DeviceEvent) -> list[DeviceEffect]:
        match event:
            case Started():
                return self._started()
            case Connected(session, max_packet):
                return self._connected(session, max_packet)
            case Disconnected():
                return self._disconnected()
            case Heard(_, message, _):
                return self._heard(message)
            case Faulted(sender, what, _):
                return list(self._quiet.alarm(f"{sender} sent what does not decode: {what}"))
            case TimerFired(name):
                return self._timer(name)
            case StopAsked():
                return self._stop()
            case FactsRead():
                return list(self._saying.read(event, ready=self.standing is Standing.READY))
            case Probed(capability):
                return self._probed(capability)
            case ProbeFailed(reason):
                return self._unfit(reason)
            case Fetched(round):
                return self._work.fetched(round)
            case FetchFailed(round, reason):
                return self._work.failed(round, "fetch", f"the base model cannot be had: {reason}")
            case Trained():
                self._drift.trained(event.metrics)
                return self._work.trained(event, online=self.standing is not Standing.OFFLINE)
            case TrainFailed(round, reason):
                return self._work.failed(round, "train", f"training failed: {reason}")
            case TrainingStopped(number, step_s):
                self._drift.stopped(step_s, missed=number == self._missed)
                return []
            case Installed(version):
                self._following.done(version)
                return []
            case InstallFailed(version, reason):
                return self._following.failed(version, reason)
            case LinkMeasured(bytes_s):
                return self._link.measured(bytes_s)
            case _:
                assert_never(event)

    # ---- life and connection ----

    def _started(self) -> list[DeviceEffect]:
        self._step(StandingStep.START)
        follow: list[DeviceEffect] = [] if self.saved.tier is None else [Follow(self.saved.segments)]
        return [*follow, *self._work.resume()]

    def _connected(self, session: int, max_packet: int) -> list[DeviceEffect]:
        self._step(StandingStep.CONNECT)
        self._session = session
        self._work.max_packet = max_packet
        self._gone = False  # if it is, the retained will tells us again
        return [*self._new_hello(), *self._work.welcome()]

    def _disconnected(self) -> list[DeviceEffect]:
        """Work goes on; nothing is said again until there is a connection (the transport keeps what was said)."""
        self._step(StandingStep.DISCONNECT)
        return [
            CancelTimer(Timer.HELLO),
            CancelTimer(Timer.CAPABILITY),
            CancelTimer(Timer.RETRY),
            CancelTimer(Timer.RESEND),
        ]

    def _stop(self) -> list[DeviceEffect]:
        """End in good order: what is saved stays, so the next life goes on with it."""
        self._step(StandingStep.STOP)
        offer = self.saved.offer
        ends: list[DeviceEffect] = [] if offer is None else [StopTraining(offer.round)]
        return [*ends, Stop("asked to stop")]

    # ---- messages ----

    def _heard(self, message: Message) -> list[DeviceEffect]:
        alive = self._alive() if isinstance(message, Offer | Receipt | Withdraw | Close) else []
        return [*alive, *self._take(message)]

    def _alive(self) -> list[DeviceEffect]:
        """The aggregator said what nobody retains, so it is not gone: its birth was lost on the way."""
        if not self._gone:
            return []
        self._gone = False
        return self._greet(HERD_S * self._luck.random())

    def _take(self, message: Message) -> list[DeviceEffect]:
        match message:
            case Presence():
                return self._presence(message)
            case Survey():
                return self._surveyed(message)
            case Assign():
                return self._assigned(message)
            case Refuse(code, reason):
                return self._refused(f"{reason} ({code})")
            case Offer():
                return self._work.offered(message)
            case Receipt():
                return self._work.receipt(message)
            case Withdraw(round, _):
                return self._work.withdrawn(round)
            case Close(round, outcome, _):
                return self._work.closed(round, outcome)
            case Head():
                return self._following.heard(message)
            case Pull() | ManifestNote():
                return []  # the blobs' own machines see to them
            case _:
                return list(self._quiet.alarm(f"the aggregator sent {message.kind}, which only devices send"))

    def _presence(self, presence: Presence) -> list[DeviceEffect]:
        """The aggregator went, or came: say hello to a new one (`session` is its epoch) and to one that is back."""
        if not presence.online:
            late = self._answered is not None and presence.session < self._answered  # the end of an earlier life
            return [] if late or self.standing is Standing.OFFLINE else self._hush()
        known = presence.session == self._answered and not self._gone
        self._gone = False
        return [] if known else self._greet(HERD_S * self._luck.random())

    def _hush(self) -> list[DeviceEffect]:
        """The aggregator is gone: what is said to it waits in its queue, so it is said rarely."""
        self._gone = True
        timer = {Standing.JOINING: Timer.HELLO, Standing.REPORTING: Timer.CAPABILITY}.get(self.standing)
        again = [] if timer is None else [SetTimer(timer, self._hellos.next_s(gone=True))]
        return [*again, *self._work.hush()]

    def _surveyed(self, survey: Survey) -> list[DeviceEffect]:
        if not STANDING.may(self.standing, StandingStep.SURVEY):
            return []
        self._answered, self._gone = survey.epoch, False
        self._hellos.reset()
        if survey.task != self._task:
            return self._refused(f"the federation runs the task {survey.task}, this device has {self._task}")
        self._step(StandingStep.SURVEY)
        self._survey = replace(survey, epoch=0)  # a restarted aggregator that asks the same needs no new measurement
        return [CancelTimer(Timer.HELLO), CancelTimer(Timer.RETRY), *self._measure()]

    def _assigned(self, assign: Assign) -> list[DeviceEffect]:
        layout = self.saved.layout if self.capability is None else self.capability.layout
        if not layout:
            return []  # meant for an earlier life, whose folder is lost: our hello will bring a survey
        answers_report = self.standing is Standing.REPORTING
        self._step(StandingStep.ASSIGN)
        self._answered, self._gone = assign.epoch, False
        self._hellos.reset()
        self._retries.reset()
        effects: list[DeviceEffect] = [
            CancelTimer(Timer.HELLO),
            CancelTimer(Timer.CAPABILITY),
            CancelTimer(Timer.RETRY),
        ]
        before = self.saved
        survey = before.survey if self._survey is None else self._survey
        told = self._link.said if answers_report else before.link_told
        step = before.step_told
        if answers_report and survey is not None and assign.tier < len(survey.tiers):
            step = self._drift.answered(survey.tiers[assign.tier].name)
        save = self._memory.save(
            epoch=assign.epoch, tier=assign.tier, layout=layout, survey=survey, link_told=told, step_told=step
        )
        if self.saved != before:
            effects.append(save)
        now = self.saved
        if (before.tier, before.layout, before.segments) != (now.tier, now.layout, now.segments):
            effects += [Follow(self.saved.segments), *self._work.retiered(assign.tier), *self._following.install()]
        return effects + ([] if self.standing is Standing.OFFLINE else self._work.welcome())

    def _refused(self, why: str) -> list[DeviceEffect]:
        """Show it, keep everything, ask again rarely."""
        if not STANDING.may(self.standing, StandingStep.REFUSE):
            return []
        self._step(StandingStep.REFUSE)
        if self._drift.refused():
            self._measured = None  # in no round it could ever show that it is well again: the next answer is a probe
        return [
            CancelTimer(Timer.HELLO),
            CancelTimer(Timer.CAPABILITY),
            Alarm(f"the aggregator refuses this device: {why}"),
            SetTimer(Timer.RETRY, self._retries.next_s()),
        ]

    # ---- hello, probe, capability ----

    def _greet(self, after_s: float) -> list[DeviceEffect]:
        """Say hello once more, a little later; a probe is finished first, and its result is the hello."""
        if not STANDING.may(self.standing, StandingStep.GREET):
            return []
        self._step(StandingStep.GREET)
        if self.standing is Standing.PROBING:
            return []
        self._hellos.reset()
        return [CancelTimer(Timer.CAPABILITY), CancelTimer(Timer.RETRY), SetTimer(Timer.HELLO, after_s)]

    def _new_hello(self) -> list[DeviceEffect]:
        self._hellos.reset()
        return [CancelTimer(Timer.CAPABILITY), CancelTimer(Timer.RETRY), *self._hello()]

    def _hello(self) -> list[DeviceEffect]:
        saved = self.saved
        last = saved.last_round if saved.offer is None else max(saved.last_round, saved.offer.round)
        layout = "" if self._wants_survey else saved.layout
        hello = Hello(self._session, self._task, self._agent, layout, last)
        return [Say(hello), *self._saying.again(), SetTimer(Timer.HELLO, self._hellos.next_s(gone=self._gone))]

    def _measure(self) -> list[DeviceEffect]:
        """Answer the newest survey from what was measured, or measure; one probe at a time."""
        if self._probing is not None:
            return []
        if self._measured == self._survey:
            self._step(StandingStep.PROBED)
            self._hellos.reset()
            return self._report()
        assert self._survey is not None
        self._probing = self._survey
        return [Probe(self._survey, self._session)]

    def _probed(self, capability: Capability) -> list[DeviceEffect]:
        self._measured, self._probing = self._probing, None
        self.capability = capability
        if self.standing is Standing.PROBING:
            return self._measure()
        self._step(StandingStep.PROBED)
        return []

    def _unfit(self, reason: str) -> list[DeviceEffect]:
        """The probe failed: as if refused, by ourselves."""
        self._probing = None
        was_asked = self.standing is Standing.PROBING
        self._step(StandingStep.UNFIT)
        alarm = Alarm(f"this device cannot measure the task: {reason}")
        return [alarm, SetTimer(Timer.RETRY, self._retries.next_s())] if was_asked else [alarm]

    def _report(self) -> list[DeviceEffect]:
        """Say what the device can carry, until there is an answer."""
        assert self.capability is not None
        saved = self.saved
        ours = None if saved.tier is None or saved.survey is None else saved.survey.tiers[saved.tier].name
        capability = self._drift.say(self.capability, ours)
        say = Say(replace(capability, session=self._session, link_bytes_s=self._link.say()))
        return [say, SetTimer(Timer.CAPABILITY, self._hellos.next_s(gone=self._gone))]

    @property
    def _wants_survey(self) -> bool:
        """Whether our tier should be decided again: not while we are in a round, which the answer could spoil."""
        return (self._link.is_news or self._drift.is_news) and self._work.state is WorkState.IDLE

    def _news(self) -> list[DeviceEffect]:
        """Our tier was assigned from another link or other steps: say what we can carry again, once in no round.

        Said at once: on a slow link, a survey waits behind the next broadcast, and the answer would spoil a round.
        """
        if self.standing is not Standing.READY or self._gone or not self._wants_survey:
            return []
        if self.capability is None:  # measured in an earlier life: we must be surveyed
            return self._greet(HERD_S * self._luck.random())
        self._step(StandingStep.SURVEY)
        return self._measure()

    # ---- timers ----

    def _timer(self, name: str) -> list[DeviceEffect]:
        """A timer that fires in another state than it was set for was overtaken by events: nothing."""
        match name, self.standing:
            case Timer.HELLO, Standing.JOINING:
                return self._hello()
            case Timer.CAPABILITY, Standing.REPORTING:
                return self._report()
            case Timer.RETRY, Standing.REFUSED:
                self._step(StandingStep.GREET)
                return self._new_hello()
            case Timer.DEADLINE, _:
                self._missed = 0 if self._work.offer is None else self._work.offer.round
                return self._work.out_of_time()
            case Timer.RESEND, _:
                return self._work.announce(whole=False, gone=self._gone)
            case Timer.INSTALL, _:
                return self._following.again()
            case Timer.QUIET, _:
                return list(self._quiet.over())
        return []

    def _step(self, step: StandingStep) -> None:
        self.standing = STANDING.step(self.standing, step)


def _acked(effects: list[DeviceEffect], token: int) -> list[DeviceEffect]:
    return [*effects, Ack(token)] if token else effects
