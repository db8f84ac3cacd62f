"""Named frames and chunks with their verdicts: the promise of the wire. Vectors are added, never edited."""

import hashlib
import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from mhfl_mq.errors import PeerFault, VersionSkew
from mhfl_mq.wire.blobs import parse_chunk
from mhfl_mq.wire.codec import decode, encode
from mhfl_mq.wire.messages import Message

VECTORS = Path(__file__).parent.parent / "vectors"
FRAMES = sorted((VECTORS / "frames").glob("*.json"))
CHUNKS = sorted((VECTORS / "chunks").glob("*.json"))


def load(path: Path) -> tuple[str, str, bytes]:
    """A vector's verdict, what is said about it, and its bytes (pieces of hex, each so many times)."""
    vector = json.loads(path.read_text("utf-8"))
    return vector["verdict"], vector["says"], b"".join(bytes.fromhex(piece) * times for piece, times in vector["frame"])


def text(value: object) -> str:
    """A message's text: its `repr`, without the fields that came later and say nothing."""
    if isinstance(value, tuple):
        return f"({', '.join(map(text, value))}{',' * (len(value) == 1)})"
    if not is_dataclass(value):
        return repr(value)
    later = getattr(value, "added", ())
    shown = [(one.name, getattr(value, one.name)) for one in fields(value)]
    parts = [f"{name}={text(held)}" for name, held in shown if held or name not in later]
    return f"{type(value).__name__}({', '.join(parts)})"


def test_the_vectors_are_all_there() -> None:
    assert len(FRAMES) >= 135
    assert len(CHUNKS) >= 13


def test_every_kind_of_message_has_a_good_vector() -> None:
    kinds = {decode(frame).kind for verdict, _, frame in map(load, FRAMES) if verdict == "message"}
    assert kinds == {cls.kind for cls in Message.__args__}


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.stem)
def test_a_frame_gets_its_verdict(path: Path) -> None:
    verdict, says, frame = load(path)
    if verdict in ("message", "digest"):  # digest: of a message whose text is too long to stand in a file
        message = decode(frame)
        assert says in (text(message), hashlib.sha256(text(message).encode()).hexdigest())
        assert encode(message) == frame
        return
    with pytest.raises(PeerFault) as caught:
        decode(frame)
    assert re.search(says, str(caught.value))
    assert isinstance(caught.value, VersionSkew) == (verdict == "skew")


@pytest.mark.parametrize("path", CHUNKS, ids=lambda path: path.stem)
def test_a_chunk_gets_its_verdict(path: Path) -> None:
    verdict, says, payload = load(path)
    if verdict == "chunk":
        chunk = parse_chunk(payload)
        assert f"{chunk.blob} {chunk.index} {len(chunk.data)}" == says
        return
    with pytest.raises(PeerFault, match=re.escape(says)):
        parse_chunk(payload)
