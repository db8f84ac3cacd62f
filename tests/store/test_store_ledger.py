"""The chain: what verifies, what does not and at which line, and what is mended after a crash."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LedgerBroken, LocalMisuse
from mhfl_mq.protocol.records import Entry, Fact
from mhfl_mq.store.files import RealFiles
from mhfl_mq.store.ledger import GENESIS, LINE_LIMIT, Head, LedgerFile, Line, chain, query, read, verify

ENTRIES = (
    Entry("round.open", {"round": 1, "devices": ["gw-1", "gw-2"]}),
    Entry("update.counted", {"round": 1, "device": "gw-1", "weight": 0.1}),
    Entry("update.refused", {"round": 1, "device": "gw-2", "reason": "精度"}),
    Entry("round.commit", {"round": 1, "more": {"none": None, "yes": True}}),
    Entry("round.open", {"round": 2}),
)
Facts = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8"), max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
        ),
        max_leaves=5,
    ),
    max_size=4,
)


def at(number: int) -> str:
    return f"2026-11-23T0{number}:00:00.000Z"


def lines_of(entries: tuple[Entry, ...] = ENTRIES) -> tuple[Line, ...]:
    head, lines = GENESIS, []
    for number, entry in enumerate(entries):
        (line,) = chain(head, at(number), [entry])
        head = Head(line.seq, line.hash)
        lines.append(line)
    return tuple(lines)


LINES = lines_of()
TEXT = [line.data for line in LINES]
HEAD = Head(LINES[-1].seq, LINES[-1].hash)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def forged(line: bytes, **changes: Any) -> bytes:
    """A line changed by somebody who makes its hash anew."""
    value = {**json.loads(line), **changes}
    del value["hash"]
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    value["hash"] = hashlib.sha256(plain).hexdigest()
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


# ---- lines ----------------------------------------------------------------------------------------------------


def test_a_line_is_what_the_format_says() -> None:
    (line,) = chain(GENESIS, at(0), [Entry("round.open", {"round": 1})])
    plain = (
        b'{"at":"2026-11-23T00:00:00.000Z","facts":{"round":1},"kind":"round.open","prev":"' + b"0" * 64 + b'","seq":1}'
    )
    digest = hashlib.sha256(plain).hexdigest()
    assert line == Line(1, digest, plain.replace(b',"kind"', f',"hash":"{digest}","kind"'.encode()) + b"\n")


@given(st.lists(Facts, max_size=4))
def test_whatever_json_holds_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, many: list[dict[str, Fact]]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    lines = chain(GENESIS, at(0), [Entry("kind", facts) for facts in many])
    path.write_bytes(b"".join(line.data for line in lines))
    assert [record.facts for record in read(path)] == many


@pytest.mark.parametrize(
    "facts",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": (1, 2)},
        {1: "x"},
        {"x": b"x"},
        {"x": "\ud800"},
        {"x": "x" * LINE_LIMIT},
    ],
    ids=["nan", "infinity", "tuple", "number as key", "bytes", "lone surrogate", "too long"],
)
def test_facts_that_json_does_not_hold_exactly_are_our_own_mistake(facts: dict[str, Any]) -> None:
    with pytest.raises(LocalMisuse, match=r"ledger entry round\.open"):
        chain(GENESIS, at(0), [Entry("round.open", facts)])


# ---- verdicts -------------------------------------------------------------------------------------------------


def test_an_untouched_ledger_verifies_and_gives_its_head(path: Path) -> None:
    path.write_bytes(b"".join(TEXT))
    assert verify(path) == HEAD
    assert verify(path, HEAD) == HEAD


def test_an_empty_ledger_verifies(path: Path) -> None:
    path.touch()
    assert verify(path, GENESIS) == GENESIS


Vector = tuple[Callable[[list[bytes]], list[bytes]], int, str]
TAMPERED: dict[str, Vector] = {
    "changed byte": (lambda t: [t[0], t[1].replace(b"gw-1", b"gw-9"), *t[2:]], 2, "was changed"),
    "changed time": (lambda t: [*t[:3], t[3].replace(b"T03", b"T04"), t[4]], 4, "was changed"),
    "changed last line": (lambda t: [*t[:4], t[4].replace(b":2}", b":3}")], 5, "was changed"),
    "changed, hash made anew": (lambda t: [t[0], forged(t[1], kind="other"), *t[2:]], 3, "does not follow"),
    "deleted first line": (lambda t: t[1:], 1, "has number 2"),
    "deleted line": (lambda t: t[:2] + t[3:], 3, "has number 4"),
    "deleted line, numbered anew": (lambda t: [*t[:2], forged(t[3], seq=3), *t[4:]], 3, "does not follow"),
    "swapped lines": (lambda t: [t[0], t[2], t[1], *t[3:]], 2, "has number 3"),
    "inserted copy": (lambda t: [t[0], t[0], *t[1:]], 2, "has number 1"),
    "inserted forgery": (lambda t: [t[0], forged(t[1], prev=LINES[0].hash, kind="x"), *t[1:]], 3, "has number 2"),
    "empty line": (lambda t: [t[0], b"\n", *t[1:]], 2, "is not JSON"),
    "garbage": (lambda t: [*t[:4], b"\x00\xff\n"], 5, "is not JSON"),
    "deep garbage": (lambda t: [*t[:4], b"[" * 100_000 + b"\n"], 5, "is not JSON"),
    "not a number": (lambda t: [*t[:4], t[4].replace(b":2}", b":NaN}")], 5, "is not JSON"),
    "a list": (lambda t: [*t[:4], b"[]\n"], 5, "canonical form"),
    "spaces": (lambda t: [t[0].replace(b",", b", "), *t[1:]], 1, "canonical form"),
    "another field": (lambda t: [t[0].replace(b"}\n", b',"z":1}\n'), *t[1:]], 1, "canonical form"),
    "number as kind": (lambda t: [forged(t[0], kind=7), *t[1:]], 1, "canonical form"),
    "torn": (lambda t: [*t[:4], t[4][:-10]], 5, "is torn"),
    "cut tail": (lambda t: t[:3], 4, "tail was cut off"),
    "emptied": (lambda _: [], 1, "tail was cut off"),
    "line too many": (lambda t: [*t, chain(HEAD, at(9), [Entry("x")])[0].data], 6, "is too many"),
    "written anew": (lambda t: [line.data for line in lines_of((Entry("x"), *ENTRIES[1:]))], 5, "was rewritten"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_hand_in_the_ledger_is_found_at_its_line(path: Path, name: str) -> None:
    tamper, line, verdict = TAMPERED[name]
    path.write_bytes(b"".join(tamper(list(TEXT))))
    with pytest.raises(LedgerBroken, match=verdict) as caught:
        verify(path, HEAD)
    assert caught.value.where == f"{path}:{line}"


@given(st.integers(0, len(b"".join(TEXT)) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, place: int, change: int) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    data = bytearray(b"".join(TEXT))
    data[place] ^= change
    path.write_bytes(data)
    with pytest.raises(LedgerBroken):
        verify(path, HEAD)


def test_a_cut_tail_is_not_seen_without_a_known_head(path: Path) -> None:
    path.write_bytes(b"".join(TEXT[:3]))
    assert verify(path) == Head(3, LINES[2].hash)


def test_only_the_given_bytes_are_verified_while_somebody_appends(path: Path) -> None:
    path.write_bytes(b"".join(TEXT))
    assert verify(path, Head(2, LINES[1].hash), size=len(TEXT[0] + TEXT[1])).seq == 2


# ---- questions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"kind": "round.open"}, [1, 5]),
        ({"kind": "update.*"}, [2, 3]),
        ({"in_round": 2}, [5]),
        ({"since": "2026-11-23T03"}, [4, 5]),
        ({"since": "2027"}, []),
        ({"kind": "round.*", "in_round": 1, "since": "2026-11-23T01"}, [4]),
        ({"size": len(TEXT[0])}, [1]),
    ],
)
def test_records_are_found_by_kind_round_and_time(path: Path, question: dict[str, Any], answer: list[int]) -> None:
    path.write_bytes(b"".join(TEXT))
    assert [record.seq for record in query(path, **question)] == answer


# ---- mending --------------------------------------------------------------------------------------------------


def complete(path: Path) -> int:
    """Open the ledger as a store does whose database has all of `LINES`."""

    def line_before(size: int) -> tuple[bytes, int]:
        stop, found = 0, (b"", 0)
        for data in TEXT:
            stop += len(data)
            if stop <= size:
                found = (data, stop)
        return found

    file = LedgerFile(path, RealFiles())
    try:
        return file.complete(len(b"".join(TEXT)), line_before, lambda start: b"".join(TEXT)[start:])
    finally:
        file.close()


@given(st.integers(0, len(b"".join(TEXT))), st.sampled_from([0, 1, 200_000]))
def test_a_ledger_that_was_cut_anywhere_is_completed_once(
    tmp_path_factory: pytest.TempPathFactory, kept: int, zeros: int
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    whole = b"".join(TEXT)
    path.write_bytes((whole[:kept] + bytes(zeros))[: max(kept, len(whole))])
    assert complete(path) == len(whole) - kept
    assert path.read_bytes() == whole
    assert complete(path) == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "data",
    [
        b"".join(TEXT) + b"x",
        b"".join(TEXT[:3]) + b"x",
        b"".join(TEXT[:4]) + TEXT[4].replace(b"round.open", b"round.shut"),
        TEXT[0] + TEXT[1][:20] + b"\n",
    ],
    ids=["longer", "other torn line", "other last line", "line cut short"],
)
def test_an_end_that_no_crash_leaves_is_refused_and_left_as_it_is(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(LedgerBroken):
        complete(path)
    assert path.read_bytes() == data
