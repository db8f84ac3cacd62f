"""Blobs: the manifest proves itself and its chunks, whatever the pieces it was made from."""

import io
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse, PacketTooLarge, PeerFault
from mhfl_mq.wire.blobs import (
    CHUNK_HEADER,
    DEFAULT_CHUNK,
    PACKET_ROOM,
    PROFILES,
    blob_id_of,
    build_manifest,
    check_inline,
    check_manifest,
    chunk_header,
    chunk_matches,
    chunk_payload,
    chunk_span,
    clamp_chunk,
    fault_in_manifest,
    parse_chunk,
    proven_bitmap,
)
from mhfl_mq.wire.bounds import MAX_CHUNK, MAX_CHUNKS, MIN_CHUNK
from mhfl_mq.wire.messages import Manifest

BLOB = bytes(range(200))
MANIFEST = build_manifest(BLOB, 64)


@given(st.binary(max_size=1000), st.integers(MIN_CHUNK, 400), st.data())
def test_a_manifest_is_the_same_whatever_the_pieces(blob: bytes, chunk: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(blob)), max_size=8)))
    edges = [0, *cuts, len(blob)]
    pieces = [blob[start:stop] for start, stop in pairwise(edges)]
    whole = build_manifest(blob, chunk)
    assert build_manifest(pieces, chunk) == whole
    assert build_manifest(map(bytearray, pieces), chunk) == whole
    assert build_manifest(map(memoryview, pieces), chunk) == whole
    assert whole.size == len(blob)
    check_manifest(whole)
    check_inline(whole, blob)


@given(st.binary(max_size=1000), st.integers(MIN_CHUNK, 400))
def test_chunks_partition_the_blob_and_each_is_proved(blob: bytes, chunk: int) -> None:
    manifest = build_manifest(blob, chunk)
    spans = [chunk_span(manifest, index) for index in range(manifest.chunks)]
    assert b"".join(blob[start:stop] for start, stop in spans) == blob
    assert all(start < stop for start, stop in spans)
    assert all(chunk_matches(manifest, index, blob[a:b]) for index, (a, b) in enumerate(spans))


def test_a_chunk_of_wrong_bytes_length_or_number_does_not_match() -> None:
    assert chunk_matches(MANIFEST, 3, BLOB[192:])
    assert not chunk_matches(MANIFEST, 2, BLOB[192:])
    assert not chunk_matches(MANIFEST, 0, b"!" + BLOB[1:64])
    assert not chunk_matches(MANIFEST, 0, BLOB[:63])
    assert not chunk_matches(MANIFEST, 4, b"")
    assert not chunk_matches(MANIFEST, -1, BLOB[192:])


def test_the_blob_id_speaks_of_size_chunk_and_every_digest() -> None:
    ids = {
        blob_id_of(size, chunk, digests)
        for size in (64, 65)
        for chunk in (64, 65)
        for digests in (bytes(16), bytes(15) + b"\1")
    }
    assert len(ids) == 8
    assert all(len(one) == 64 for one in ids)


def test_the_blob_id_of_a_known_blob_never_changes() -> None:
    assert MANIFEST.blob_id == "e53ba04bd4b4a46aa8534333c8e5890c456c390ea2625222ba4578abb8d78dc9"


@pytest.mark.parametrize("chunk", [0, MIN_CHUNK - 1, MAX_CHUNK + 1, -64])
def test_a_chunk_size_out_of_bounds_is_refused(chunk: int) -> None:
    with pytest.raises(LocalMisuse, match="a chunk of"):
        build_manifest(b"x", chunk)


def test_a_blob_of_too_many_chunks_says_which_chunk_would_do() -> None:
    with pytest.raises(LocalMisuse, match=r"327681 bytes has 5121 chunks, a manifest holds 5120; .* at least 65 bytes"):
        build_manifest([bytes(64)] * MAX_CHUNKS + [b"!"], 64)


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (Manifest(MANIFEST.blob_id, 200, 63, MANIFEST.digests), "chunk size 63 is not"),
        (Manifest(MANIFEST.blob_id, 200, MAX_CHUNK + 1, MANIFEST.digests), "chunk size"),
        (Manifest(MANIFEST.blob_id, -1, 64, b""), "do not have 0 digests"),
        (Manifest(MANIFEST.blob_id, 193 - 1, 64, MANIFEST.digests), "192 bytes in chunks of 64 do not have 4"),
        (Manifest(MANIFEST.blob_id, 200, 64, MANIFEST.digests[1:]), "do not have 3"),
        (Manifest(MANIFEST.blob_id, 201, 64, MANIFEST.digests), "the blob id is not"),
        (Manifest("0" * 64, 64 * 5121, 64, bytes(16 * 5121)), "5121 chunks are more than 5120"),
    ],
)
def test_a_manifest_that_does_not_prove_itself_is_a_fault(manifest: Manifest, says: str) -> None:
    assert says in fault_in_manifest(manifest)
    with pytest.raises(PeerFault, match=says):
        check_manifest(manifest)


@pytest.mark.parametrize(("inline", "says"), [(BLOB[1:], "199 bytes"), (BLOB[:-1] + b"!", "chunk 3")])
def test_an_inline_blob_of_another_content_is_a_fault(inline: bytes, says: str) -> None:
    with pytest.raises(PeerFault, match=says):
        check_inline(MANIFEST, inline)


def test_there_is_no_span_beyond_the_blob() -> None:
    for index in (-1, 4):
        with pytest.raises(LocalMisuse, match=f"chunk {index} of a blob of 4 chunks"):
            chunk_span(MANIFEST, index)


@given(st.binary(min_size=1, max_size=300), st.integers(0, MAX_CHUNKS - 1))
def test_a_chunk_comes_back_from_its_payload(data: bytes, index: int) -> None:
    payload = chunk_payload(MANIFEST.blob_id, index, memoryview(data))
    assert payload == chunk_header(MANIFEST.blob_id, index, len(data)) + data
    for form in (payload, memoryview(payload)):
        chunk = parse_chunk(form)
        assert (chunk.blob, chunk.index, bytes(chunk.data)) == (MANIFEST.blob_id[:32], index, data)


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda rest: b"mC\1\0" + rest))
def test_a_garbage_payload_is_a_chunk_or_a_fault(payload: bytes) -> None:
    try:
        chunk = parse_chunk(payload)
    except PeerFault:
        return
    assert chunk_payload(chunk.blob + "0" * 32, chunk.index, chunk.data) == payload


def test_a_chunk_longer_than_the_largest_is_refused() -> None:
    payload = struct.pack(">2sBBII16s", b"mC", 1, 0, 0, MAX_CHUNK + 1, bytes(16)) + bytes(MAX_CHUNK + 1)
    with pytest.raises(PeerFault, match="out of bounds"):
        parse_chunk(payload)
    assert len(parse_chunk(chunk_payload(MANIFEST.blob_id, 0, bytes(MAX_CHUNK))).data) == MAX_CHUNK


# ---- resume ------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=1000), st.integers(0, 2**20), st.integers(0, 1000), st.sets(st.integers(0, 999)))
def test_only_chunks_that_are_truly_on_the_disk_are_proved(
    blob: bytes, claimed: int, length: int, flipped: set[int]
) -> None:
    manifest = build_manifest(blob, 64)
    there = bytearray(blob[:length])
    for position in flipped:
        if position < len(there):
            there[position] ^= 1
    file = io.BytesIO(there)

    def read(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    proven = int.from_bytes(proven_bitmap(manifest, claimed.to_bytes(4, "little"), read), "little")
    for index in range(manifest.chunks):
        start, stop = chunk_span(manifest, index)
        assert (proven >> index & 1) == (claimed >> index & 1 and bytes(there[start:stop]) == blob[start:stop])


# ---- the broker's packet -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_packet", "chunk"),
    [
        (268_435_455, DEFAULT_CHUNK),  # mosquitto
        (2_000_000, DEFAULT_CHUNK),  # mosquitto 2.1
        (1_048_576, DEFAULT_CHUNK),  # NATS, EMQX
        (DEFAULT_CHUNK, 7 * 32 * 1024),
        (128 * 1024, PROFILES["small-packets"]),  # AWS IoT Core
        (64 * 1024, PROFILES["websockets"]),
        (32 * 1024, 16 * 1024),
        (4096, 2048),
        (PACKET_ROOM + MIN_CHUNK, MIN_CHUNK),
    ],
)
def test_the_chunk_is_clamped_to_the_brokers_packet(max_packet: int, chunk: int) -> None:
    assert clamp_chunk(max_packet) == chunk
    assert chunk + CHUNK_HEADER + 8 * 65 < max_packet


def test_a_wanted_chunk_is_never_exceeded_and_kept_within_bounds() -> None:
    assert clamp_chunk(2_000_000, PROFILES["small-packets"]) == 96 * 1024
    assert clamp_chunk(2_000_000, 100) == 64
    assert clamp_chunk(2**28, 2**27) == MAX_CHUNK


def test_a_broker_without_room_for_a_chunk_is_refused() -> None:
    with pytest.raises(PacketTooLarge, match="packets of at most 1087 bytes have no room"):
        clamp_chunk(PACKET_ROOM + MIN_CHUNK - 1)
