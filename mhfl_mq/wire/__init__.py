"""The wire: typed messages, their frames, blobs in chunks, and the topic tree. See docs/wire.md."""

from mhfl_mq.wire.blobs import (
    DEFAULT_CHUNK,
    Chunk,
    build_manifest,
    chunk_payload,
    chunk_span,
    clamp_chunk,
    parse_chunk,
)
from mhfl_mq.wire.codec import decode, encode, pack, unpack
from mhfl_mq.wire.topics import Place, Topics, What

__all__ = [
    "DEFAULT_CHUNK",
    "Chunk",
    "Place",
    "Topics",
    "What",
    "build_manifest",
    "chunk_payload",
    "chunk_span",
    "clamp_chunk",
    "decode",
    "encode",
    "pack",
    "parse_chunk",
    "unpack",
]
