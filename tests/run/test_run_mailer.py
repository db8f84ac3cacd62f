"""The mailer: in order, without waiting, and what fails is told."""

import asyncio

import pytest

from mhfl_mq.run.mailer import ASKED_AGAIN_S, Mailer
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.testing.lossy import LossyBroker
from mhfl_mq.wire.blobs import build_manifest
from mhfl_mq.wire.codec import decode, encode
from mhfl_mq.wire.messages import (
    Accept,
    Assign,
    Decline,
    ManifestNote,
    Message,
    Offer,
    Presence,
    Pull,
    Receipt,
    Verdict,
)


def test_messages_leave_in_the_order_of_the_calls_and_are_counted_by_kind(virtual: asyncio.Runner) -> None:
    async def main() -> None:
        broker, traffic = LossyBroker(), Traffic()
        here, there = await broker.client("here"), await broker.client("there")
        await there.subscribe([("x", 1)])
        mailer = Mailer(here, traffic, lambda text: None)
        sent: list[Message] = [Accept(1), Decline(2, "why", "not"), Accept(3)]
        for message in sent:
            mailer.send("x", message)
        await mailer.flush(10)
        inbox = there.inbox()
        assert [decode((await anext(inbox)).payload) for _ in sent] == sent
        assert traffic.sent == {
            "accept": len(encode(sent[0])) + len(encode(sent[2])),
            "decline": len(encode(sent[1])),
        }
        await here.close()
        await there.close()

    virtual.run(main())


def test_a_retained_message_stays_with_the_broker(virtual: asyncio.Runner) -> None:
    async def main() -> None:
        broker = LossyBroker()
        here = await broker.client("here")
        mailer = Mailer(here, Traffic(), lambda text: None)
        birth = Presence(1, True, "test")
        mailer.send("status", birth, retain=True)
        mailer.send("other", birth)
        await mailer.flush(10)
        assert broker.retained == {"status": encode(birth)}
        await here.close()

    virtual.run(main())


def test_what_the_broker_does_not_take_is_told_and_the_rest_goes_on(virtual: asyncio.Runner) -> None:
    async def main() -> list[str]:
        broker, troubles = LossyBroker(max_packet=200), list[str]()
        here = await broker.client("here")
        mailer = Mailer(here, Traffic(), troubles.append)
        mailer.send("x", Assign(1, 0, "long " * 60))
        mailer.send("y", Presence(1, True, "test"), retain=True)
        await mailer.flush(10)
        assert set(broker.retained) == {"y"}
        await here.close()
        return troubles

    (trouble,) = virtual.run(main())
    assert trouble.startswith("not sent to x: ")


def test_flush_waits_no_longer_than_it_is_told_and_close_forgets(virtual: asyncio.Runner) -> None:
    async def main() -> float:
        broker, loop = LossyBroker(), asyncio.get_running_loop()
        here = await broker.client("here")
        mailer = Mailer(here, Traffic(), lambda text: None)
        await mailer.flush(10)  # nothing under way: at once
        broker.stop()
        await asyncio.sleep(1)
        mailer.send("x", Accept(1), retain=True)
        start = loop.time()
        await mailer.flush(3)
        waited = loop.time() - start
        mailer.close()
        broker.start()
        await asyncio.sleep(60)
        assert broker.retained == {}
        await here.close()
        return waited

    assert virtual.run(main()) == pytest.approx(3)


def test_what_is_of_no_use_later_expires_and_receipts_do_not(virtual: asyncio.Runner) -> None:
    manifest = build_manifest(b"x" * 100)
    offer = Offer(1, 0, 0, "a" * 64, ("b" * 64,), "heterofl", {}, (), "p", 99.5)
    kept: list[Message] = [Receipt(1, Verdict.LATE, "over"), Assign(1, 0, "fits")]
    gone: list[Message] = [offer, Pull(manifest.blob_id, ()), ManifestNote(0, manifest)]

    async def main() -> None:
        broker = LossyBroker()
        here, away = await broker.client("here"), await broker.client("away")
        await away.subscribe([("x", 1)])
        await away.close()
        mailer = Mailer(here, Traffic(), lambda text: None)
        mailer.send("retained", ManifestNote(0, manifest), retain=True)
        for message in (*gone, *kept):
            mailer.send("x", message)
        await asyncio.sleep(99)
        assert broker.waiting["away"] == 5
        await asyncio.sleep(ASKED_AGAIN_S)
        back = await broker.client("away")
        box = back.inbox()
        assert [decode((await anext(box)).payload) for _ in kept] == kept
        assert set(broker.retained) == {"retained"}
        await here.close()
        await back.close()

    virtual.run(main())


@pytest.mark.parametrize(("deadline_s", "left"), [(99.5, False), (101.0, True), (0.001, False), (1e300, True)])
def test_an_offer_lives_as_long_as_its_round(virtual: asyncio.Runner, deadline_s: float, left: bool) -> None:
    async def main() -> None:
        broker = LossyBroker()
        here, away = await broker.client("here"), await broker.client("away")
        await away.subscribe([("x", 1)])
        await away.close()
        mailer = Mailer(here, Traffic(), lambda text: None)
        mailer.send("x", Offer(1, 0, 0, "a" * 64, ("b" * 64,), "heterofl", {}, (), "p", deadline_s))
        await asyncio.sleep(100.1)
        back = await broker.client("away")
        mailer.send("x", Accept(1))
        first = decode((await anext(back.inbox())).payload)
        assert isinstance(first, Offer if left else Accept)
        await here.close()
        await back.close()

    virtual.run(main())
