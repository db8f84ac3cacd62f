"""A blob through a link that loses, repeats, reorders and corrupts, with kills of either end and of the broker."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mhfl_mq.protocol.transfer import Action, Ask, Carousel, Complete, GaveUp, Receiver, Sender, Write
from mhfl_mq.wire.blobs import build_manifest, chunk_payload, parse_chunk, proven_bitmap
from mhfl_mq.wire.messages import Pull

CHUNK = 64
WINDOW = 4


class Transfer(RuleBasedStateMachine):
    """The real receiver, sender and carousel around a broker that keeps two queues (pulls up, chunks down)."""

    @initialize(
        chunks=st.integers(0, 6) | st.integers(0, 24), tail=st.integers(1, CHUNK), listen_s=st.sampled_from([0.0, 2.0])
    )
    def begin(self, chunks: int, tail: int, listen_s: float) -> None:
        self.blob = b"".join(index.to_bytes(4, "big") * 16 for index in range(chunks)) + bytes(tail)
        self.manifest = build_manifest(self.blob, CHUNK)
        self.listen_s = listen_s
        self.now = 0.0
        self.up: deque[Pull] = deque()
        self.down: deque[bytes] = deque()
        self.disk = bytearray(len(self.blob))
        self.saved = b""
        self.connected = True
        self.completed = 0
        self.lives = 0
        self.carousel = Carousel(in_flight=3)
        if listen_s:
            self.carousel.cast(0, self.manifest)
        self.sender_lives()
        self.receiver_lives()

    def sender_lives(self) -> None:
        self.sender = Sender(in_flight=3)
        self.sender.hold(self.manifest)

    def receiver_lives(self) -> None:
        self.lives += 1
        self.completed = 0
        there = proven_bitmap(self.manifest, self.saved, lambda offset, size: self.disk[offset : offset + size])
        self.receiver = Receiver(self.manifest, there, window=WINDOW, listen_s=self.listen_s, bad_limit=1000)
        if not self.connected:
            self.receiver.disconnected()
        self.perform(self.receiver.start(self.now))

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Ask(ranges):
                    assert self.connected, "asks a broker that is not there"
                    self.up.append(Pull(self.manifest.blob_id, ranges))
                case Write(offset, data):
                    assert self.blob[offset : offset + len(data)] == data
                    self.disk[offset : offset + len(data)] = data
                case Complete():
                    self.completed += 1
                case GaveUp(reason):
                    raise AssertionError(reason)

    def take(self, payload: bytes) -> None:
        self.perform(self.receiver.take(parse_chunk(payload), self.now))

    # ---- what goes right ----

    @rule()
    def pull_arrives(self) -> None:
        if self.up:
            self.sender.pull("dev", self.up.popleft())

    @rule()
    def chunk_is_sent(self) -> None:
        send = self.sender.next()
        if send is not None:
            self.down.append(chunk_payload(send.blob_id, send.index, self.blob[send.start : send.stop]))
            self.sender.sent(send)

    @rule()
    def chunk_is_broadcast(self) -> None:
        cast = self.carousel.next(self.now)
        if cast is not None:
            self.carousel.sent(cast)
            if self.connected:
                self.take(chunk_payload(cast.blob_id, cast.index, self.blob[cast.start : cast.stop]))

    @rule(count=st.integers(1, 6))
    def chunks_arrive(self, count: int = 1) -> None:
        for _ in range(min(count, len(self.down))):  # also when the broker is gone: what was in our inbox by then
            self.take(self.down.popleft())

    @rule(steps=st.integers(1, 8), last_first=st.booleans())
    @precondition(lambda self: self.connected)
    def things_flow(self, steps: int, last_first: bool) -> None:
        for _ in range(steps):
            self.pull_arrives()
            self.chunk_is_sent()
            self.chunk_is_sent()
            if last_first:
                self.down.reverse()
            self.chunks_arrive()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.receiver.tick(self.now))

    @rule()
    def bitmap_is_saved(self) -> None:
        self.saved = self.receiver.bitmap()

    # ---- what goes wrong ----

    @rule(place=st.integers(0, 20), up=st.booleans())
    def message_is_lost(self, place: int, up: bool) -> None:
        queue: deque[Pull] | deque[bytes] = self.up if up else self.down
        if place < len(queue):
            del queue[place]

    @rule(place=st.integers(0, 20), up=st.booleans())
    def message_comes_twice(self, place: int, up: bool) -> None:
        if up and place < len(self.up):
            self.up.append(self.up[place])
        elif not up and place < len(self.down):
            self.down.append(self.down[place])

    @rule(turn=st.integers(-3, 3))
    def chunks_change_their_order(self, turn: int) -> None:
        self.down.rotate(turn)

    @rule()
    def chunk_is_corrupted(self) -> None:
        if self.down:
            payload = self.down.pop()
            self.down.append(payload[:-1] + bytes([payload[-1] ^ 1]))

    @rule(session=st.booleans(), inbox=st.sampled_from([0, 2, 9]))
    @precondition(lambda self: self.connected)
    def broker_goes(self, session: bool, inbox: int) -> None:
        self.connected = False
        self.session = session
        self.receiver.disconnected()
        if not session:
            self.up.clear()
            self.down.clear()
        while self.up:
            self.pull_arrives()
        while self.sender.waiting:
            self.chunk_is_sent()
        self.chunks_arrive(inbox)

    @rule()
    @precondition(lambda self: not self.connected)
    def broker_returns(self) -> None:
        self.connected = True
        self.perform(self.receiver.connected(self.now, self.session))

    @rule()
    def receiver_is_killed(self) -> None:
        self.receiver_lives()

    @rule(torn=st.integers(0, 2000))
    def receiver_loses_power(self, torn: int) -> None:
        if torn < len(self.disk):
            self.disk[torn] ^= 255
        self.receiver_lives()

    @rule()
    def sender_is_killed(self) -> None:
        self.sender_lives()

    # ---- what always holds ----

    @invariant()
    def no_more_than_the_window_is_asked_for(self) -> None:
        assert self.receiver.outstanding <= WINDOW

    @invariant()
    def what_the_bitmap_says_is_on_the_disk(self) -> None:
        bits = int.from_bytes(self.receiver.bitmap(), "little")
        for index in range(self.manifest.chunks):
            if bits >> index & 1:
                part = slice(index * CHUNK, (index + 1) * CHUNK)
                assert self.disk[part] == self.blob[part]
        assert bits.bit_count() + self.receiver.missing == self.manifest.chunks

    @invariant()
    def it_is_complete_once_and_only_when_all_is_there(self) -> None:
        assert self.completed == (self.receiver.missing == 0)

    @invariant()
    def it_never_waits_for_nothing(self) -> None:
        assert self.receiver.due is not None or not self.connected or self.completed

    def teardown(self) -> None:
        """Once the faults stop, everything arrives, in few steps."""
        if not hasattr(self, "blob"):
            return
        if not self.connected:
            self.broker_returns()
        for _ in range(200):
            if self.completed:
                break
            self.chunk_is_broadcast()
            while self.up:
                self.pull_arrives()
            while self.sender.waiting:
                self.chunk_is_sent()
            while self.down:
                self.chunks_arrive()
            self.now = max(self.now, self.receiver.due or self.now)
            self.perform(self.receiver.tick(self.now))
        assert self.completed == 1
        assert self.disk == self.blob


TestTransfer = Transfer.TestCase
TestTransfer.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
