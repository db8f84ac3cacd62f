"""Any bytes, under any tag, either parse to a message that encodes to the same bytes, or raise `PeerFault`.

Run by pytest over the vectors and seeded mutations of them (test_fuzz_decode.py). By hand and for hours, with
atheris installed (`pip install atheris`):

    python tests/fuzz/fuzz_decode.py            # add libFuzzer's options, or a folder that keeps the corpus
"""

import hashlib
import importlib
import sys

from mhfl_mq.errors import PeerFault
from mhfl_mq.wire.blobs import chunk_payload, parse_chunk
from mhfl_mq.wire.codec import decode, encode, pack, unpack
from mhfl_mq.wire.topics import Topics

TOPICS = Topics("fuzz")


def true_tag(rest: bytes) -> bytes:
    """The tag that a peer would put in front, so that a fuzzer gets behind it."""
    return hashlib.blake2b(rest, digest_size=8, person=b"mhfl-mq frame").digest()


def check_frame(frame: bytes) -> bool:
    """The invariant of frames, for this frame; true when it was a message."""
    try:
        message = decode(frame)
    except PeerFault:
        return False
    assert encode(message) == frame
    return True


def check_bytes(data: bytes) -> bool:
    """The invariant of everything that reads bytes of a peer; true when something was made of them."""
    found = check_frame(data) | check_frame(true_tag(data) + data)
    try:
        chunk = parse_chunk(data)
        assert chunk_payload(chunk.blob + "0" * 32, chunk.index, chunk.data) == data
        found = True
    except PeerFault:
        pass
    try:
        value = unpack(data)
        assert unpack(pack(value)) == value
    except PeerFault:
        pass
    try:
        TOPICS.parse(TOPICS.prefix + data.decode("utf-8", "replace"))
        found = True
    except PeerFault:
        pass
    return found


def main() -> None:
    atheris = importlib.import_module("atheris")  # not a dependency: only who fuzzes by hand has it
    atheris.instrument_all()
    atheris.Setup(sys.argv, check_bytes)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
