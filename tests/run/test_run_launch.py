"""Whole processes put together by `launch`, over a broker in memory: they begin, do their rounds, and recover."""

import asyncio
import datetime
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import Policy
from mhfl_mq.protocol.events import RollbackAsked
from mhfl_mq.run.aggregator import AggregatorHost
from mhfl_mq.run.device import DeviceHost
from mhfl_mq.run.launch import AggregatorSetup, DeviceSetup, run_aggregator, run_device
from mhfl_mq.run.status import StatusBoard, read_board
from mhfl_mq.store.ledger import read
from mhfl_mq.store.view import LEDGER, open_view, verify_folder
from mhfl_mq.testing.light import EXAMPLES, FEDERATION, TASK, LightFoundation, LightTrainer, light_policy
from mhfl_mq.testing.lossy import LossyBroker
from mhfl_mq.testing.sim_time import SimClock
from mhfl_mq.transport.memory import MemoryTransport
from mhfl_mq.wire.codec import decode
from mhfl_mq.wire.messages import Head, Presence, UpdateReady
from mhfl_mq.wire.topics import Topics

LENGTHS = (40, 100)
TOPICS = Topics(FEDERATION)


class Federation:
    """An aggregator and two devices of different strength."""

    def __init__(
        self, folder: Path, policy: Policy | None = None, max_rounds: int | None = None, wait_for: int = 0
    ) -> None:
        self.broker = LossyBroker()
        self.folder = folder
        self.policy = policy or light_policy(LENGTHS, quorum=2, interval_s=1.0)
        self.clock = SimClock(asyncio.get_running_loop())
        self.hosts: dict[str, AggregatorHost | DeviceHost] = {}
        self.aggregator: AggregatorHost | None = None
        self.max_rounds = max_rounds
        self.wait_for = wait_for
        self.train_s = dict.fromkeys(("ada", "bob"), 1.0)
        self.tasks: dict[str, asyncio.Task[str]] = {}

    def start(self) -> "Federation":
        self.start_aggregator()
        for strength, name in enumerate(("ada", "bob")):
            self.start_device(name, strength)
        return self

    def start_device(self, name: str, strength: int) -> None:
        self.tasks[name] = asyncio.create_task(self._device(name, strength))

    def rounds(self) -> list[int]:
        """How many each round invited, the oldest round first."""
        with open_view(self.folder / "state") as view:
            invited = {one.opened.round: len(one.opened.cohort) for one in view.rounds(100)}
            return [invited[number] for number in sorted(invited)]

    def start_aggregator(self) -> None:
        self.tasks["aggregator"] = asyncio.create_task(self._aggregator())

    async def _aggregator(self) -> str:
        return await run_aggregator(
            AggregatorSetup(
                self.folder / "state", FEDERATION, TASK, max_rounds=self.max_rounds, wait_for=self.wait_for
            ),
            self.policy,
            MemoryTransport(self.broker),
            LightFoundation(LENGTHS),
            clock=self.clock,
            luck=random.Random(1),
            started=self._aggregator_started,
        )

    def _aggregator_started(self, host: AggregatorHost) -> None:
        self.aggregator = self.hosts["aggregator"] = host

    async def _device(self, name: str, strength: int) -> str:
        return await run_device(
            DeviceSetup(self.folder / name, name, FEDERATION, TASK),
            MemoryTransport(self.broker),
            lambda scratch: LightTrainer(name, strength, scratch, self.train_s[name]),
            clock=self.clock,
            luck=random.Random(name),
            started=lambda host: self.hosts.__setitem__(name, host),
        )

    def retained(self, topic: str) -> object:
        payload = self.broker.retained.get(topic)
        return None if payload is None else decode(payload)

    async def stop(self) -> None:
        for host in self.hosts.values():
            host.stop()
        await asyncio.wait(list(self.tasks.values()))


@contextmanager
def lasting(seconds: float) -> Iterator[None]:
    start = asyncio.get_running_loop().time()
    yield
    assert asyncio.get_running_loop().time() - start < seconds


def test_a_federation_does_its_rounds_and_ends(virtual: asyncio.Runner, tmp_path: Path) -> None:
    async def main() -> None:
        federation = Federation(tmp_path, max_rounds=3).start()
        with lasting(60):
            assert await federation.tasks["aggregator"] == "3 rounds are done"
        await asyncio.sleep(5)
        head = federation.retained(TOPICS.head)
        assert isinstance(head, Head)
        assert head.version == 3
        presence = federation.retained(TOPICS.state)
        assert isinstance(presence, Presence)
        assert not presence.online
        del federation.hosts["aggregator"]
        await federation.stop()
        assert federation.tasks["ada"].result() == "asked to stop"
        with open_view(tmp_path / "state") as view:
            assert [one.counted for one in view.rounds()] == [2, 2, 2]
        verify_folder(tmp_path / "state")

    virtual.run(main())


def test_the_board_is_written_when_a_round_ends_and_when_the_aggregator_ends(
    virtual: asyncio.Runner, tmp_path: Path
) -> None:
    """The rounds end between two of the board's seconds, and the last one ends the process."""

    async def main() -> None:
        federation = Federation(tmp_path, light_policy(LENGTHS, quorum=2, interval_s=0.05), max_rounds=2)
        federation.train_s = dict.fromkeys(federation.train_s, 0.1)
        ends: list[tuple[int, int]] = []
        write = StatusBoard.write

        def noted(board: StatusBoard) -> None:
            write(board)
            shown = read_board(tmp_path / "state")
            ends.append((shown["trainings"], shown["version"]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StatusBoard, "write", noted)
            federation.start()
            assert await federation.tasks["aggregator"] == "2 rounds are done"
        assert {(2, 1), (4, 2)} <= set(ends)
        last = read_board(tmp_path / "state")
        assert (last["state"], last["round"], last["present"]) == ("stopped", None, None)
        assert (last["trainings"], last["version"]) == (4, 2)
        del federation.hosts["aggregator"]
        await federation.stop()

    virtual.run(main())


def test_the_first_round_waits_for_as_many_devices_as_it_was_told_and_later_ones_do_not(
    virtual: asyncio.Runner, tmp_path: Path
) -> None:
    async def main() -> None:
        policy = light_policy(LENGTHS, quorum=1, interval_s=1.0)
        federation = Federation(tmp_path, policy, max_rounds=20, wait_for=2)
        federation.start_aggregator()
        federation.start_device("ada", 0)
        await asyncio.sleep(120)
        assert federation.rounds() == []
        federation.start_device("bob", 1)
        await asyncio.sleep(10)
        federation.hosts.pop("bob").stop()
        await federation.tasks["aggregator"]
        assert federation.rounds()[0] == 2
        assert federation.rounds()[-1] == 1
        del federation.hosts["aggregator"]
        await federation.stop()

    virtual.run(main())


@pytest.mark.parametrize(("weighting", "weight"), [("uniform", 1.0), ("samples", float(EXAMPLES))])
def test_what_updates_count_follows_the_policys_weighting(
    virtual: asyncio.Runner, tmp_path: Path, weighting: str, weight: float
) -> None:
    async def main() -> None:
        policy = light_policy(LENGTHS, quorum=2, interval_s=1.0)
        policy = replace(policy, algorithm=replace(policy.algorithm, weighting=weighting))
        federation = Federation(tmp_path, policy, max_rounds=2).start()
        await federation.tasks["aggregator"]
        del federation.hosts["aggregator"]
        await federation.stop()
        weights = [one.facts["weight"] for one in read(tmp_path / "state" / LEDGER) if one.kind == "update.count"]
        assert weights == [weight] * 4

    virtual.run(main())


@pytest.mark.parametrize(("chunk", "most", "found"), [(64, 5120, 64), (64, 2, 256 * 1024), (2**20, 5120, 256 * 1024)])
def test_an_update_is_cut_as_the_policy_cuts_segments_unless_that_is_too_small_or_too_large(
    virtual: asyncio.Runner, tmp_path: Path, chunk: int, most: int, found: int
) -> None:
    async def main() -> None:
        policy = light_policy(LENGTHS, quorum=2, interval_s=1.0)
        federation = Federation(
            tmp_path, replace(policy, limits=replace(policy.limits, chunk_bytes=chunk)), max_rounds=1
        )
        listener = await federation.broker.client("listener")
        await listener.subscribe([(TOPICS.event(name), 1) for name in ("ada", "bob")])
        federation.start()
        cut = set[int]()

        async def listen() -> None:
            async for inbound in listener.inbox():
                message = decode(inbound.payload)
                if isinstance(message, UpdateReady):
                    cut.add(message.manifest.chunk)
                listener.ack(inbound.token)

        listening = asyncio.create_task(listen())
        await federation.tasks["aggregator"]
        del federation.hosts["aggregator"]
        await federation.stop()
        await listener.close()
        await listening
        assert cut == {found}

    with mock.patch("mhfl_mq.run.device.MAX_CHUNKS", most):
        virtual.run(main())


def test_a_broker_that_lost_everything_has_it_again_at_once(virtual: asyncio.Runner, tmp_path: Path) -> None:
    async def main() -> None:
        federation = Federation(tmp_path, max_rounds=2)
        federation.policy = light_policy(LENGTHS, quorum=2, interval_s=3600.0)
        federation.start()
        await asyncio.sleep(60)
        before = federation.broker.retained
        assert isinstance(federation.retained(TOPICS.head), Head)
        federation.broker.stop()
        federation.broker.start(keep_retained=False, keep_sessions=False)
        await asyncio.sleep(30)  # long before the next round
        assert federation.broker.retained == before
        await federation.stop()

    virtual.run(main())


def test_a_restart_goes_on_with_the_folder(virtual: asyncio.Runner, tmp_path: Path) -> None:
    async def main() -> None:
        federation = Federation(tmp_path, max_rounds=2).start()
        await federation.tasks["aggregator"]
        federation.max_rounds = 4
        federation.start_aggregator()
        assert await federation.tasks["aggregator"] == "4 rounds are done"
        with open_view(tmp_path / "state") as view:
            assert [one.opened.round for one in view.rounds()] == [1, 2, 3, 4]
        del federation.hosts["aggregator"]
        await federation.stop()

    virtual.run(main())


@pytest.mark.parametrize("lost", [True, False], ids=["damaged", "whole"])
def test_a_round_that_counted_what_a_power_cut_took_is_aborted_and_the_next_one_follows(
    virtual: asyncio.Runner, tmp_path: Path, lost: bool
) -> None:
    async def main() -> None:
        federation = Federation(tmp_path)
        federation.policy = light_policy(LENGTHS, quorum=2, deadline_s=100.0, interval_s=1.0)
        federation.train_s["bob"] = 60.0
        federation.start()
        await asyncio.sleep(30)
        federation.tasks["aggregator"].cancel()
        await asyncio.wait([federation.tasks["aggregator"]])
        with open_view(tmp_path / "state") as view:
            (first,) = view.rounds()
            assert (first.counted, first.closed) == (1, None)
        (blob,) = (tmp_path / "state" / "blobs").glob("*.blob")
        if lost:
            blob.write_bytes(bytes(blob.stat().st_size))
        federation.start_aggregator()
        await asyncio.sleep(200)
        await federation.stop()
        with open_view(tmp_path / "state") as view:
            first, second, *_ = view.rounds()
        assert first.closed is not None
        assert second.closed is not None
        assert second.closed.outcome == "committed"
        if lost:
            assert first.closed.outcome == "aborted"
            assert first.closed.reason == "the machine lost counted updates, as in a power cut: of ada"
            assert '"kind":"round.abort"' in (tmp_path / "state" / "ledger.jsonl").read_text()
        else:
            assert first.closed.outcome == "committed"
            assert first.counted == 2
        verify_folder(tmp_path / "state")

    virtual.run(main())


def test_a_restart_does_not_put_a_round_s_deadline_off(virtual: asyncio.Runner, tmp_path: Path) -> None:
    async def main() -> None:
        federation = Federation(tmp_path)
        federation.policy = light_policy(LENGTHS, quorum=2, deadline_s=100.0, interval_s=1.0)
        federation.train_s["bob"] = 3600.0
        federation.start()
        await asyncio.sleep(70)
        federation.tasks["aggregator"].cancel()
        await asyncio.wait([federation.tasks["aggregator"]])
        federation.start_aggregator()
        await asyncio.sleep(50)
        await federation.stop()
        with open_view(tmp_path / "state") as view:
            first = view.rounds()[0]
        assert first.closed is not None
        assert first.closed_at is not None
        opened, closed = (datetime.datetime.fromisoformat(at) for at in (first.opened_at, first.closed_at))
        assert 100.0 <= (closed - opened).total_seconds() < 105.0
        assert first.closed.reason == "quorum missed: 1 of 2 needed at the deadline"

    virtual.run(main())


def test_a_rollback_from_outside_is_followed_by_the_devices(virtual: asyncio.Runner, tmp_path: Path) -> None:
    async def main() -> None:
        federation = Federation(tmp_path)
        federation.policy = light_policy(LENGTHS, quorum=2, interval_s=3600.0)
        federation.start()
        await asyncio.sleep(60)
        first = federation.retained(TOPICS.head)
        assert isinstance(first, Head)
        with open_view(tmp_path / "state") as view:
            initial = view.version(0).model
        assert federation.aggregator is not None
        federation.aggregator.post(RollbackAsked(0, initial, {}, "drill", "operator"))
        await asyncio.sleep(30)
        head = federation.retained(TOPICS.head)
        assert isinstance(head, Head)
        assert head.version == first.version + 1
        for name, tier in (("ada", 0), ("bob", 1)):
            kept = {one.name for one in (tmp_path / name / "blobs").iterdir() if one.suffix == ".blob"}
            assert {f"{one}.blob" for one in head.segments[: tier + 1]} <= kept
        await federation.stop()

    virtual.run(main())


def test_another_policys_tiers_are_refused_with_what_to_do(virtual: asyncio.Runner, tmp_path: Path) -> None:
    async def main() -> None:
        federation = Federation(tmp_path, max_rounds=1).start()
        await federation.tasks["aggregator"]
        federation.policy = light_policy((10, 40, 100), quorum=2)
        federation.start_aggregator()
        with pytest.raises(ConfigError, match="use the policy that this folder was started with"):
            await federation.tasks["aggregator"]
        del federation.hosts["aggregator"]
        await federation.stop()

    virtual.run(main())


def test_a_simulated_clock_knows_utc(virtual: asyncio.Runner) -> None:
    async def main() -> None:
        clock = SimClock(asyncio.get_running_loop())
        before = clock.now()
        await asyncio.sleep(3600)
        assert clock.now() - before == datetime.timedelta(hours=1)

    virtual.run(main())
