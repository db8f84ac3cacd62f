"""What must hold in every run, and the ground truth that it is held against.

The simulator knows what each device really trained, so it knows what each model must be. It looks at every batch that
becomes durable (`durable`), and at every effect of both machines in the order in which they are performed
(`AggregatorWatch`, `DeviceWatch`): nothing may be said, announced or acknowledged before it is durable.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mhfl_mq.protocol.effects import (
    Ack,
    AggregatorEffect,
    Announce,
    DeviceEffect,
    Persist,
    SavedDevice,
    SaveState,
    Say,
    Tell,
)
from mhfl_mq.protocol.records import (
    Change,
    DeviceSaved,
    Entry,
    EpochStarted,
    RoundClosed,
    RoundOpened,
    UpdateCounted,
    VersionAdded,
)
from mhfl_mq.segments import Layout, Vector
from mhfl_mq.store.ledger import Record, read
from mhfl_mq.store.models import Models
from mhfl_mq.store.view import BLOBS, LEDGER, MODELS, open_view, verify_folder
from mhfl_mq.wire.messages import Accept, Assign, Close, Head, Offer, Receipt, UpdateReady, Verdict

__all__ = ["AggregatorWatch", "DeviceWatch", "Trained", "Truth", "Violation"]


class Violation(AssertionError):
    """Something that must always hold does not."""


def require(holds: bool, what: str) -> None:
    """Raise `Violation` unless it holds."""
    if not holds:
        raise Violation(what)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a device really made in a round."""

    base: int
    tier: int
    delta: Vector
    examples: float


@dataclass(slots=True)
class _Round:
    opened: RoundOpened
    at: float  # when that became durable
    counted: dict[str, Trained] = field(default_factory=dict)
    closed: RoundClosed | None = None


class Truth:
    """What really happened in one federation, over all lives of its processes. `note` counts interesting things.

    `now` is the simulated time in seconds; `by_examples`: the policy weighs updates by their examples, not one each.
    """

    def __init__(
        self,
        layout: Layout,
        folder: Path,
        note: Callable[[str], None],
        now: Callable[[], float],
        *,
        by_examples: bool,
    ) -> None:
        self.layout = layout
        self.now = now
        self._by_examples = by_examples
        self.epoch = 0
        self.models: dict[int, Vector] = {}  # version -> full model
        self.rounds: dict[int, _Round] = {}
        self.head: VersionAdded | None = None
        self.tiers: dict[str, int | None] = {}  # what each device was durably assigned
        self.entries: list[Entry] = []
        self.note = note
        self._folder = folder
        self._trained: dict[tuple[int, str, str], Trained] = {}  # round, device, SHA-256 of the update
        self._files: dict[str, Vector] = {}  # model digest -> full model

    @property
    def last_round(self) -> int:
        """The highest round number that was ever durable."""
        return max(self.rounds, default=0)

    @property
    def open_round(self) -> int | None:
        """The round that is durably open."""
        return next((number for number, one in self.rounds.items() if one.closed is None), None)

    # ---- what the simulated devices tell ----

    def trained(self, number: int, device: str, base: int, tier: int, delta: Vector, examples: float) -> None:
        """A device finished a training; it may never get to send it, or train again after a crash."""
        digest = hashlib.sha256(delta.tobytes()).hexdigest()
        self._trained[number, device, digest] = Trained(base, tier, delta, examples)

    def base_is(self, version: int, tier: int, flat: Vector) -> None:
        """A device starts from these weights: they must be its tier's of that version."""
        require(version in self.models, f"a device trains from version {version}, which is not durable")
        own = self.layout.take(self.models[version], tier)
        require(np.array_equal(flat, own), f"a device of tier {tier} has other weights than version {version}")

    # ---- what becomes durable ----

    def durable(self, changes: Sequence[Change], entries: Sequence[Entry]) -> None:
        """A batch was committed, whatever became of the process then."""
        self.entries += entries
        for entry in entries:
            self.note(f"ledger.{entry.kind}")
        for change in changes:
            match change:
                case EpochStarted(epoch):
                    require(epoch > self.epoch, f"epoch {epoch} after epoch {self.epoch}")
                    self.epoch = epoch
                case DeviceSaved():
                    self.tiers[change.device] = change.tier
                case RoundOpened():
                    self._opened(change)
                case UpdateCounted():
                    self._counted(change)
                case RoundClosed():
                    self._closed(change)
                case VersionAdded():
                    self._added(change)

    def _opened(self, opened: RoundOpened) -> None:
        number = opened.round
        require(number > self.last_round, f"round {number} was used before: the last one was {self.last_round}")
        require(self.open_round is None, f"round {number} opens while round {self.open_round} is open")
        require(self.head is not None and opened.base == self.head.version, f"round {number} starts from {opened.base}")
        self.rounds[number] = _Round(opened, self.now())

    def _counted(self, counted: UpdateCounted) -> None:
        number, device = counted.round, counted.device
        where = f"round {number} counts {device}"
        one = self.rounds.get(number)
        require(one is not None and one.closed is None, f"{where}, and it is not open")
        assert one is not None
        require(device not in one.counted, f"{where} twice")
        require((device, counted.tier) in one.opened.cohort, f"{where}, who was not invited at tier {counted.tier}")
        path = self._folder / BLOBS / f"{counted.blob_id}.blob"
        require(path.is_file(), f"{where} before the update is on the disk")
        real = self._trained.get((number, device, hashlib.sha256(path.read_bytes()).hexdigest()))
        require(real is not None, f"{where} with an update that it did not train in this round")
        assert real is not None
        require(real.base == one.opened.base, f"{where}: trained from {real.base}, the round's base is other")
        weight = self._weight(real)
        require(weight == counted.weight, f"{where} with weight {counted.weight} instead of {weight}")
        one.counted[device] = real
        if any(np.array_equal(real.delta, other.delta) for name, other in one.counted.items() if name != device):
            self.note("update.twin")

    def _closed(self, closed: RoundClosed) -> None:
        one = self.rounds.get(closed.round)
        require(one is not None and one.closed is None, f"round {closed.round} is closed, and it is not open")
        assert one is not None
        # Only a power cut may take what was counted, and the simulator cuts no power (docs/decisions/0008).
        lost = closed.reason.startswith("the machine lost counted updates")
        require(not lost, f"round {closed.round} is aborted because a counted update is gone, and no power was cut")
        one.closed = closed
        self.note(f"round.{closed.outcome}")
        if closed.outcome == "aborted":
            self.note(f"aborted.{' '.join(closed.reason.partition(':')[0].split()[:4])}")
        if closed.outcome == "committed":
            few = f"round {closed.round} commits {len(one.counted)} of {one.opened.needed} needed"
            require(len(one.counted) >= one.opened.needed, few)
            known = self.head is not None and self.head.version == closed.version and self.head.round == closed.round
            require(known, f"round {closed.round} commits version {closed.version}, which is not the head")

    def _added(self, added: VersionAdded) -> None:
        before = -1 if self.head is None else self.head.version
        require(added.version > before, f"version {added.version} after version {before}")
        model = Models(self._folder / MODELS).open(added.model)
        flat = model.read(0, model.length)
        match added.origin:
            case "round":
                require(added.parent == before, f"version {added.version} has parent {added.parent}, not {before}")
                assert added.round is not None
                self._check_sum(added.round, flat)
            case "rollback":
                require(added.model in self._files, f"version {added.version} rolls back to weights of no version")
                require(np.array_equal(flat, self._files[added.model]), "the old weights were changed")
        self.head = added
        self.models[added.version] = self._files[added.model] = flat

    def _check_sum(self, number: int, flat: Vector) -> None:
        """The new model is the base plus the weighted mean of what was counted, exactly, segment by segment."""
        one = self.rounds[number]
        base = self.models[one.opened.base]
        expected = base.copy()
        for k, (start, stop) in enumerate(self.layout.segment_bounds):
            holders = [each for each in one.counted.values() if k in self.layout.holds[each.tier]]
            if holders:
                parts = [self._part(each, k).astype(np.float64) * self._weight(each) for each in holders]
                total = sum(parts, start=0.0)
                mean = np.asarray(total) / sum(map(self._weight, holders))
                expected[start:stop] = mean + base[start:stop]
            else:
                self.note("segment.untouched")
        wrong = np.flatnonzero(expected != flat)
        if wrong.size:
            at = int(wrong[0])
            raise Violation(
                f"the model of round {number} is not the mean of what was counted ({sorted(one.counted)}): "
                f"{wrong.size} coordinates differ, coordinate {at} is {flat[at]} instead of {expected[at]}"
            )

    def _part(self, trained: Trained, segment: int) -> Vector:
        """What an update says of a segment: it holds those of its tier, one after the other."""
        at = 0
        for k in self.layout.holds[trained.tier]:
            start, stop = self.layout.segment_bounds[k]
            if k == segment:
                return trained.delta[at : at + stop - start]
            at += stop - start
        raise AssertionError(f"tier {trained.tier} does not hold segment {segment}")

    def _weight(self, trained: Trained) -> float:
        return trained.examples if self._by_examples else 1.0

    # ---- at the end ----

    def ledger_is_whole(self) -> None:
        """The chain verifies, ends where the database says, and tells what the database tells."""
        verify_folder(self._folder)
        records = list(read(self._folder / LEDGER))
        require(
            [(one.kind, dict(one.facts)) for one in records] == [(one.kind, dict(one.facts)) for one in self.entries],
            "the ledger does not tell what was made durable",
        )
        with open_view(self._folder) as view:
            opened = _facts(records, "round.open", "round")
            require(opened == list(self.rounds), f"the ledger opens rounds {opened}")
            for saved in view.rounds(len(self.rounds)):
                number = saved.opened.round
                counted = [
                    str(one.facts["device"])
                    for one in records
                    if one.kind == "update.count" and one.facts["round"] == number
                ]
                require(counted == [one.device for one in view.updates(number)], f"round {number}: ledger {counted}")
                require(counted == list(self.rounds[number].counted), f"round {number} counted {counted}")
            committed = _facts(records, "round.commit", "version")
            made = [one.added.version for one in view.versions() if one.added.origin == "round"]
            require(made == committed, f"the ledger commits {committed}, the database has {made}")


def _facts(records: Sequence[Record], kind: str, fact: str) -> list[object]:
    return [one.facts[fact] for one in records if one.kind == kind]


# ---- effects, in the order in which they are performed ----------------------------------------------------------


class AggregatorWatch:
    """Looks at the effects of one life of an aggregator, before each is performed."""

    def __init__(self, truth: Truth, note: Callable[[str], None]) -> None:
        self._truth = truth
        self.note = note
        self._acked = False

    def event(self) -> None:
        """A new event: its effects follow."""
        self._acked = False

    def effect(self, effect: AggregatorEffect) -> None:
        """This is about to be performed."""
        truth = self._truth
        match effect:
            case Persist():
                require(not self._acked, "a message is acknowledged before what it caused is durable")
            case Ack():
                self._acked = True
            case Tell(device, Offer() as offer):
                one = truth.rounds.get(offer.round)
                require(one is not None and one.closed is None, f"round {offer.round} is offered and not durably open")
                assert one is not None
                require((device, offer.tier) in one.opened.cohort, f"round {offer.round} is offered to {device}")
                require(offer.base == one.opened.base, f"round {offer.round} is offered with base {offer.base}")
            case Tell(device, Receipt(number, Verdict.COUNTED)):
                one = truth.rounds.get(number)
                durable = one is not None and device in one.counted
                require(durable, f"{device} gets a receipt for round {number} before its update is durable")
                self.note("receipt.counted")
            case Tell(_, Receipt(_, verdict)):
                self.note(f"receipt.{verdict}")
            case Tell(device, Assign(_, tier)):
                require(truth.tiers.get(device) == tier, f"{device} is told tier {tier}, which is not durable")
            case Announce(Head() as head):
                known = truth.head is not None and truth.head.version == head.version
                require(known, f"version {head.version} is announced, and it is not the durable head")
            case Announce(Close(number, outcome, _)):
                one = truth.rounds.get(number)
                closed = one.closed.outcome if one is not None and one.closed is not None else "open"
                require(closed == outcome, f"round {number} is announced as {outcome}, durably it is {closed}")


class DeviceWatch:
    """Looks at the effects of all lives of one device."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.saved = SavedDevice()
        self._asked: SavedDevice | None = None
        self._acked = False

    def starts(self, saved: SavedDevice) -> None:
        """A new life begins with this: what was saved last, or what was being saved when the last life ended."""
        require(saved in (self.saved, self._asked), f"{self._device} begins with another state than it saved")
        self.saved, self._asked = saved, None

    def event(self) -> None:
        """A new event: what was asked for before is done."""
        self.done()
        self._acked = False

    def done(self) -> None:
        """The effect before was performed."""
        if self._asked is not None:
            self.saved, self._asked = self._asked, None

    def effect(self, effect: DeviceEffect) -> None:
        """This is about to be performed."""
        self.done()
        name, saved = self._device, self.saved
        match effect:
            case SaveState(state):
                require(not self._acked, f"{name} acknowledges a message before what it caused is durable")
                require(state.last_round >= saved.last_round, f"{name} forgets that it was in round {saved.last_round}")
                self._asked = state
            case Ack():
                self._acked = True
            case Say(Accept(number)):
                known = saved.offer is not None and saved.offer.round == number
                require(known, f"{name} accepts round {number} before the offer is durable")
            case Say(UpdateReady() as ready):
                known = saved.update == ready.manifest and saved.offer is not None and saved.offer.round == ready.round
                require(known, f"{name} says that an update of round {ready.round} is ready before it is durable")
