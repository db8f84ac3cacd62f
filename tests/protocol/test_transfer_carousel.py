"""The carousel: every segment once, smallest first, at the pace of the broker and of the rate."""

import pytest

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.protocol.transfer_carousel import Carousel, Cast
from mhfl_mq.wire.blobs import build_manifest

SMALL = build_manifest(bytes(range(200)), 64)
LARGE = build_manifest(bytes(64 * 5), 64)
OTHER = build_manifest(b"other" * 40, 64)


def drain(carousel: Carousel, now: float = 0.0) -> list[tuple[int, int]]:
    found = []
    while cast := carousel.next(now):
        found.append((cast.segment, cast.index))
        carousel.sent(cast)
    return found


def test_every_segment_is_broadcast_once_and_the_smallest_first() -> None:
    carousel = Carousel()
    carousel.cast(1, LARGE)
    carousel.cast(0, SMALL)
    assert carousel.casting == [0, 1]
    assert drain(carousel) == [(0, index) for index in range(4)] + [(1, index) for index in range(5)]
    assert carousel.casting == []
    assert carousel.due is None


def test_a_cast_names_the_bytes() -> None:
    carousel = Carousel()
    carousel.cast(2, SMALL)
    casts = [carousel.next(0.0) for _ in range(4)]
    assert casts[0] == Cast(2, SMALL.blob_id, 0, 0, 64)
    assert casts[3] == Cast(2, SMALL.blob_id, 3, 192, 200)


def test_it_waits_for_the_broker() -> None:
    carousel = Carousel(in_flight=2)
    carousel.cast(0, LARGE)
    first = carousel.next(0.0)
    assert first is not None
    assert carousel.next(0.0) is not None
    assert carousel.next(99.0) is None
    assert carousel.due is None
    carousel.sent(first)
    assert carousel.next(99.0) is not None


def test_it_keeps_to_the_rate() -> None:
    carousel = Carousel(rate=64.0)
    carousel.cast(0, LARGE)
    assert carousel.next(10.0) is not None
    assert carousel.due == 11.0
    assert carousel.next(10.9) is None
    assert carousel.next(11.5) is not None
    assert carousel.due == 12.5  # a chunk that went late does not let the next one go early
    assert len(drain(carousel, 12.5)) == 1


def test_it_knows_which_chunks_the_rate_still_holds_back() -> None:
    carousel, unslowed = Carousel(rate=64.0), Carousel()
    for one in (carousel, unslowed):
        one.cast(0, LARGE)
        assert one.next(0.0) is not None
    assert carousel.coming(0, LARGE) == 1
    assert carousel.coming(0, OTHER) == OTHER.chunks
    assert carousel.coming(1, LARGE) == LARGE.chunks
    assert unslowed.coming(0, LARGE) == LARGE.chunks
    drain(carousel, 1e9)
    assert carousel.coming(0, LARGE) == 2


def test_the_same_blob_again_changes_nothing_and_another_one_takes_its_place() -> None:
    carousel = Carousel()
    carousel.cast(0, SMALL)
    assert carousel.next(0.0) is not None
    carousel.cast(0, SMALL)
    assert drain(carousel) == [(0, 1), (0, 2), (0, 3)]
    carousel.cast(0, SMALL)
    assert carousel.next(0.0) is not None
    carousel.cast(0, OTHER)
    cast = carousel.next(0.0)
    assert cast is not None
    assert (cast.blob_id, cast.index) == (OTHER.blob_id, 0)


def test_a_cancelled_or_empty_segment_is_not_broadcast() -> None:
    carousel = Carousel()
    carousel.cast(0, SMALL)
    carousel.cancel(0)
    carousel.cancel(7)
    carousel.cast(1, build_manifest(b""))
    assert drain(carousel) == []


@pytest.mark.parametrize(("in_flight", "rate"), [(0, None), (1, 0.0), (1, -5.0)])
def test_senseless_limits_are_refused(in_flight: int, rate: float | None) -> None:
    with pytest.raises(LocalMisuse, match="at least 1 and above 0"):
        Carousel(in_flight=in_flight, rate=rate)
