"""Events in any order: reordered, repeated and replayed messages, kills, cuts, rollbacks, bad updates, a moody gate.

The pair asserts at every effect what must always hold. When the trouble ends, a new version must come, and everybody
must run it: no order of events leaves a machine stuck.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mhfl_mq.protocol.effects import FetchUpdate
from mhfl_mq.protocol.events import Connected, Disconnected, Heard, RollbackAsked, Started, UpdateBad, UpdateStored
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.states import RoundState, WorkState
from mhfl_mq.testing.machines import Everybody
from mhfl_mq.testing.pair import AGGREGATOR, Pair

DEVICES = ("ada", "bob", "cyd")
EVERYBODY = st.sampled_from((AGGREGATOR, *DEVICES))


class AnyOrder(RuleBasedStateMachine):
    """The pair, with a hand that mixes its queue."""

    @initialize(seed=st.integers(0, 3), needed=st.integers(1, 3), warm=st.booleans())
    def begin(self, seed: int, needed: int, warm: bool) -> None:
        self.decider = Everybody(needed)
        self.pair = Pair(DEVICES, decider=self.decider, seed=seed)
        self.fate: UpdateBad | None = None
        self.heard: list[tuple[str, Heard]] = []
        self.pair.jobs[FetchUpdate] = self.fetch
        self.versions = 0
        if warm:
            self.pair.run(lambda: self.pair.machine.round is not None)

    def fetch(self, _: str, effect: object) -> UpdateStored | UpdateBad:
        assert isinstance(effect, FetchUpdate)
        if self.fate is None:
            return UpdateStored(effect.round, effect.device, effect.manifest.blob_id)
        bad, self.fate = self.fate, None
        return UpdateBad(effect.round, effect.device, bad.reason, bad.retry)

    def remember(self) -> None:
        self.heard = [(to, event) for to, event in self.pair.queue if isinstance(event, Heard)][:8] or self.heard

    @rule(steps=st.integers(1, 12))
    def go_on(self, steps: int) -> None:
        self.remember()
        for _ in range(steps):
            self.pair.step()

    @rule(data=st.data())
    @precondition(lambda self: self.pair.queue)
    def out_of_turn(self, data: st.DataObject) -> None:
        """A message overtakes others; what a process makes of itself stays in order."""
        first: set[str] = set()
        free = []
        for index, (to, event) in enumerate(self.pair.queue):
            own = not isinstance(event, Heard)
            begun = not any(
                name == to and isinstance(one, Started | Connected | Disconnected) for name, one in self.pair.queue
            )
            if (own and to not in first) or (not own and begun):
                free.append(index)
            if own:
                first.add(to)
        self.remember()
        self.pair.deliver(data.draw(st.sampled_from(free)))

    @rule(index=st.integers(0, 7))
    @precondition(lambda self: self.heard)
    def comes_again(self, index: int) -> None:
        """A message of now, or of long ago, is delivered again."""
        to, event = self.heard[index % len(self.heard)]
        self.pair.queue.append((to, Heard(event.sender, event.message, event.token)))

    @rule(victim=EVERYBODY, fuse=st.integers(0, 12))
    def will_be_killed(self, victim: str, fuse: int) -> None:
        self.pair.side_of(victim).fuse = fuse

    @rule(device=st.sampled_from(DEVICES))
    def loses_or_finds_its_connection(self, device: str) -> None:
        if self.pair.devices[device].online:
            self.pair.cut(device)
        else:
            self.pair.connect(device)

    @rule()
    def time_passes(self) -> None:
        if self.pair.queue:
            self.pair.step()
        else:
            self.pair.tick()

    @rule(retry=st.booleans())
    def the_next_update_is_bad(self, retry: bool) -> None:
        self.fate = UpdateBad(0, "", "holds NaN", retry)

    @rule()
    def the_gate_changes_its_mind(self) -> None:
        self.decider.open_gate = not self.decider.open_gate

    @rule()
    @precondition(lambda self: len(self.pair.disk.versions) > 1)
    def an_operator_rolls_back(self) -> None:
        first = self.pair.disk.versions[0]
        self.pair.queue.append((AGGREGATOR, RollbackAsked(0, first.model, {}, "worse in the field", "eve")))

    @invariant()
    def versions_only_grow(self) -> None:
        if hasattr(self, "pair"):
            assert len(self.pair.disk.versions) >= self.versions
            self.versions = len(self.pair.disk.versions)

    @invariant()
    def the_machine_and_the_disk_agree(self) -> None:
        """As far as they can: a machine that is about to be killed may be ahead."""
        if not hasattr(self, "pair") or self.pair.side.fuse >= 0:
            return
        machine: FederationMachine = self.pair.machine
        current = machine.round
        assert machine.head == self.pair.disk.head
        if current is not None:
            assert current.state in (RoundState.COLLECTING, RoundState.MERGING)
            assert current.counted == self.pair.disk.counted_in(current.number)
        for device in self.pair.devices.values():
            if device.fuse < 0:
                assert device.life.saved == device.saved
                assert (device.saved.offer is None) == (
                    device.life.work is WorkState.IDLE
                ) or device.life.standing.name == "NEW"

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        self.pair.side.fuse = -1
        self.decider.open_gate, self.fate = True, None
        for name, device in self.pair.devices.items():
            device.fuse = -1
            if not device.online:
                self.pair.connect(name)
        self.pair.run_to_version(self.pair.disk.head.version + 1)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
