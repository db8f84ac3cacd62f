"""A plant's own rules about a device: asked before an offer is taken, and told what was done; durable with the rest."""

from dataclasses import replace
from random import Random

from mhfl_mq.protocol.device import DeviceMachine
from mhfl_mq.protocol.effects import DeviceEffect, SavedDevice, SaveState, Say
from mhfl_mq.protocol.events import Connected, DeviceEvent, Fetched, Heard, Started, Trained
from mhfl_mq.protocol.site import Spent
from mhfl_mq.testing.machines import LAYOUT, digest, manifest_of
from mhfl_mq.wire.messages import Accept, Assign, Decline, Offer, Survey, TierSpec

SURVEY = Survey(0, "wind", LAYOUT, (TierSpec("small", 0.5, 0, 10), TierSpec("large", 1.0, 0, 20)), 8, "heterofl", {})
SAVED = SavedDevice(epoch=4, tier=1, layout=LAYOUT, survey=SURVEY)
OFFER = Offer(7, 3, 1, LAYOUT, (digest("s0"), digest("s1")), "heterofl", {}, (), digest("policy"), 60.0)


class OwnRules:
    """A plant's rules that a test sets; they count."""

    def __init__(self, says: str = "") -> None:
        self.says = says
        self.asked: list[tuple[int, Spent]] = []

    def objection(self, offer: Offer, length: int, spent: Spent) -> str:
        """As it is set."""
        self.asked.append((length, spent))
        return self.says

    def taken(self, spent: Spent) -> Spent:
        """One more."""
        return replace(spent, turned_at=spent.turned_at + 1.0)

    def sent(self, spent: Spent, size: int, seconds: float) -> Spent:
        """So much more."""
        return replace(spent, size=spent.size + size, seconds=spent.seconds + seconds)


def ready(own: OwnRules, saved: SavedDevice = SAVED) -> DeviceMachine:
    machine = DeviceMachine("ada", "wind", "test", saved, Random(0), site=own)
    after(machine, Started(), Connected(1, 0), Heard("aggregator", Assign(4, 1, "fits")))
    return machine


def after(machine: DeviceMachine, *events: DeviceEvent) -> list[DeviceEffect]:
    return [effect for event in events for effect in machine.handle(event)]


def test_an_offer_that_the_plants_own_rules_forbid_is_declined_with_their_reason_and_may_be_taken_later() -> None:
    own = OwnRules("not at noon")
    machine = ready(own)
    assert after(machine, Heard("aggregator", OFFER)) == [Say(Decline(7, "site", "not at noon"))]
    own.says = ""
    effects = after(machine, Heard("aggregator", OFFER))
    assert Say(Accept(7)) in effects
    assert own.asked == [(20, Spent())] * 2


def test_what_is_done_is_saved_before_it_is_said() -> None:
    own = OwnRules()
    machine = ready(own)
    effects = after(machine, Heard("aggregator", OFFER))
    assert isinstance(effects[0], SaveState)
    assert effects[0].state.spent == Spent(turned_at=1.0)
    trained = Trained(7, manifest_of("update", 80), 5.0, {"seconds": 2.5})
    saves = [one for one in after(machine, Fetched(7), trained) if isinstance(one, SaveState)]
    assert saves[-1].state.spent == Spent(turned_at=1.0, size=80, seconds=2.5)


def test_a_restarted_device_asks_with_what_its_last_life_did() -> None:
    own = OwnRules("enough")
    spent = Spent(day=5.0, size=80, turned_at=7.0)
    after(ready(own, replace(SAVED, spent=spent)), Heard("aggregator", OFFER))
    assert own.asked == [(20, spent)]
