"""The ledger: an append-only record of what happened, one JSON line per entry, each chained to the one before.

A line is `{"at", "facts", "hash", "kind", "prev", "seq"}` in canonical JSON (sorted keys, no spaces, UTF-8): `seq`
counts from 1, `at` is UTC, `prev` is the hash of the line before (64 zeros for the first), `hash` is the SHA-256 of
the line without `hash`. So a line that was changed, deleted, moved or put in is found from the file alone. A tail
that was cut off is not: for that a verifier needs the head (number and hash of the last line) from elsewhere, and
the database of the same state folder has it.

The database decides: entries are committed there first and appended here next (`mhfl_mq.store.state`). What a crash
left out, or half-written, is appended when the store is opened again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from mhfl_mq.errors import LedgerBroken, LocalMisuse
from mhfl_mq.protocol.records import Entry, Fact
from mhfl_mq.store.files import Files, explained

__all__ = ["GENESIS", "Head", "LedgerFile", "Line", "Record", "chain", "query", "read", "verify"]

LINE_LIMIT: Final = 1024 * 1024
"""Bytes of one line: a `round.open` that names 10,000 devices has 300 KB; more is not ours (and must fit in memory)."""
ZEROS: Final = 64 * 1024
"""Bytes that are looked at together when zeros at the end of the file are sought."""
FIELDS: Final = {"at": str, "facts": dict, "hash": str, "kind": str, "prev": str, "seq": int}


@dataclass(frozen=True, slots=True)
class Head:
    """Where a ledger ends: the number and the hash of its last line."""

    seq: int
    hash: str


GENESIS: Final = Head(0, "0" * 64)
"""The head of an empty ledger."""


@dataclass(frozen=True, slots=True)
class Line:
    """One entry as it stands in the file: `data` is the line with its newline."""

    seq: int
    hash: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One entry as it is read back."""

    seq: int
    at: str
    kind: str
    facts: Mapping[str, Fact]
    prev: str
    hash: str


# ---- making lines ---------------------------------------------------------------------------------------------


def chain(head: Head, at: str, entries: Sequence[Entry]) -> tuple[Line, ...]:
    """The lines that come after `head`; raises `LocalMisuse` for facts that JSON does not hold exactly."""
    lines = []
    for entry in entries:
        body = {
            "at": at,
            "facts": dict(entry.facts),
            "kind": entry.kind,
            "prev": head.hash,
            "seq": head.seq + 1,
        }
        try:
            digest = _digest(body)
            data = _canonical({**body, "hash": digest}) + b"\n"
            exact = json.loads(data)["facts"] == body["facts"]
        except (TypeError, ValueError) as error:
            raise LocalMisuse(f"facts that JSON cannot hold: {error}", where=f"ledger entry {entry.kind}") from None
        if not exact:
            raise LocalMisuse("facts that JSON does not give back as they were", where=f"ledger entry {entry.kind}")
        if len(data) > LINE_LIMIT:
            raise LocalMisuse(f"{len(data)} bytes are more than {LINE_LIMIT}", where=f"ledger entry {entry.kind}")
        head = Head(head.seq + 1, digest)
        lines.append(Line(head.seq, head.hash, data))
    return tuple(lines)


def _canonical(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


# ---- reading and verifying ------------------------------------------------------------------------------------


def verify(path: Path, expected: Head | None = None, *, size: int | None = None) -> Head:
    """Check every line of the ledger at `path` and return its head; raises `LedgerBroken` at the first wrong line.

    With `expected` (the head that the database or a witness knows) a cut tail and lines too many are found as
    well. `size` stops after so many bytes, for a file that another process is appending to.
    """
    head = GENESIS
    for record in _checked(path, size):
        head = Head(record.seq, record.hash)
        if expected is not None and head.seq == expected.seq and head != expected:
            raise _broken(path, head.seq, "is not the line that the known head names: the ledger was rewritten")
    if expected is not None and head.seq < expected.seq:
        raise _broken(path, head.seq + 1, f"is missing: the ledger has {expected.seq} lines, its tail was cut off")
    if expected is not None and head.seq > expected.seq:
        raise _broken(path, expected.seq + 1, f"is too many: the ledger has {expected.seq} lines")
    return head


def read(path: Path) -> Iterator[Record]:
    """The ledger's records in order, the chain checked on the way; raises `LedgerBroken`."""
    return _checked(path, None)


def query(
    path: Path, *, kind: str = "*", in_round: int | None = None, since: str = "", size: int | None = None
) -> Iterator[Record]:
    """The records of this kind (`round.*` for a family), of this round, and not older than `since`.

    `since` is the beginning of a UTC time as the ledger writes it: `2026-11-23`, or `2026-11-23T02:00`.
    """
    for record in _checked(path, size):
        if not fnmatchcase(record.kind, kind) or record.at < since:
            continue
        if in_round is None or record.facts.get("round") == in_round:
            yield record


def _checked(path: Path, size: int | None) -> Iterator[Record]:
    """Every record of the first `size` bytes, each proven by the one before."""
    head = GENESIS
    left = -1 if size is None else size
    with explained(path, "reading the ledger"), path.open("rb") as file:
        while left and (data := file.readline(LINE_LIMIT + 1 if left < 0 else min(left, LINE_LIMIT + 1))):
            left -= len(data) if left > 0 else 0
            record = _parse(path, head, data)
            head = Head(record.seq, record.hash)
            yield record


def _parse(path: Path, head: Head, data: bytes) -> Record:
    """The record of the line that follows `head`, or `LedgerBroken` with the first thing that is wrong with it."""
    number = head.seq + 1
    if not data.endswith(b"\n"):
        raise _broken(path, number, "is torn: it has no end")
    try:
        value = json.loads(data)
        canonical = _canonical(value) + b"\n" if isinstance(value, dict) else b""
    except (ValueError, RecursionError):
        raise _broken(path, number, "is not JSON") from None
    if canonical != data or {name: type(field) for name, field in value.items()} != FIELDS:
        raise _broken(path, number, "is not a ledger line in canonical form")
    digest = value.pop("hash")
    if digest != _digest(value):
        raise _broken(path, number, "does not have the hash of its content: it was changed")
    if value["seq"] != number:
        raise _broken(path, number, f"has number {value['seq']}: lines were deleted, put in or moved")
    if value["prev"] != head.hash:
        raise _broken(path, number, "does not follow from the line before")
    return Record(value["seq"], value["at"], value["kind"], value["facts"], value["prev"], digest)


def _broken(path: Path, line: int, what: str) -> LedgerBroken:
    return LedgerBroken(
        f"this line {what}",
        where=f"{path}:{line}",
        remedy="keep this file as evidence and compare it with your last copy; lines before this one are sound",
    )


# ---- the file that is being written ---------------------------------------------------------------------------


class LedgerFile:
    """The ledger of an open store: appended to, in step with the database."""

    def __init__(self, path: Path, files: Files) -> None:
        """Open the file, making it when it is missing."""
        self._path = path
        self._files = files
        with explained(path, "opening the ledger"):
            self._fd = files.open(path, os.O_RDWR | os.O_CREAT)
            self._size = os.fstat(self._fd).st_size

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep readers out between the database's commit and the append: they see both, or neither."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def append(self, lines: Sequence[Line]) -> None:
        """Add lines. They are durable in the database, so the file need not be: that would double the cost of
        every `apply` (an fsync is most of it), for what `complete` mends.
        """
        data = b"".join(line.data for line in lines)
        with explained(self._path, "appending to the ledger"):
            self._files.write(self._fd, data, self._size)
        self._size += len(data)

    def complete(
        self, end: int, line_before: Callable[[int], tuple[bytes, int]], missing: Callable[[int], bytes]
    ) -> int:
        """Append what a crash left out and return how many bytes that were.

        The database knows the ledger's length `end`, the last line that ends at or before a byte (with its end),
        and all text from a byte on. The file may lack lines at its end and its last line may be torn (zeros after a
        power cut included); whatever else it has must be what the database has, else a hand was there: `LedgerBroken`.
        """
        if self._size > end:
            raise LedgerBroken(
                f"{self._path.name} has {self._size - end} bytes that the database does not know",
                where=str(self._path),
                remedy="restore state.sqlite and ledger.jsonl from the same backup, or find out who wrote here",
            )
        with explained(self._path, "completing the ledger"):
            size = self._written()
            last, last_end = line_before(size)
            rest = missing(last_end)
            before = os.pread(self._fd, len(last), last_end - len(last))
            torn = os.pread(self._fd, size - last_end, last_end)
            if before != last or not rest.startswith(torn):
                raise LedgerBroken(
                    f"the last line of {self._path.name} is not the one that the database has",
                    where=str(self._path),
                    remedy="run `mhfl ledger verify` to find the first wrong line",
                )
            if rest:
                self._files.write(self._fd, rest[len(torn) :], size)
                self._files.sync(self._fd)
        self._size = end
        return len(rest) - len(torn)

    def _written(self) -> int:
        """The file's length without zeros at its end: a power cut can leave room that was never filled."""
        size = self._size
        while size:
            block = os.pread(self._fd, min(size, ZEROS), max(0, size - ZEROS))
            kept = len(block.rstrip(b"\0"))
            size -= len(block) - kept
            if kept:
                break
        return size

    def close(self) -> None:
        """Make the file durable and close it."""
        try:
            with explained(self._path, "closing the ledger"):
                self._files.sync(self._fd)
        finally:
            os.close(self._fd)
