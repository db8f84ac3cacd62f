"""The laws of frames: what is encoded comes back, each message has one form, and garbage is only ever `PeerFault`."""

import math
import time
import tracemalloc
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse, PeerFault, VersionSkew
from mhfl_mq.wire.blobs import build_manifest
from mhfl_mq.wire.bounds import (
    FRAME_LIMIT,
    INLINE_LIMIT,
    MAX_CHUNKS,
    Count,
    Floats,
    Ints,
    Items,
    MaybeName,
    OneOf,
    Pattern,
    SegmentIndices,
    Words,
)
from mhfl_mq.wire.codec import (
    PLAIN_DEPTH,
    TAG_BYTES,
    _tag,
    decode,
    encode,
    frame_limit,
    pack,
    unpack,
)
from mhfl_mq.wire.messages import (
    Accept,
    Assign,
    Capability,
    Decline,
    Head,
    Hello,
    Manifest,
    ManifestNote,
    Message,
    Numbers,
    Offer,
    Presence,
    ProbeResult,
    Pull,
    Refuse,
    Survey,
    TierSpec,
    UpdateReady,
)
from mhfl_mq.wire.schema import Shape, Wrong, shape_of

DIGEST = "0123456789abcdef" * 4
KINDS: tuple[type[Message], ...] = get_args(Message)
BLOBS = st.binary(max_size=700)
MANIFESTS = st.builds(build_manifest, BLOBS, st.integers(64, 300))


SEGMENTS = st.lists(st.integers(0, 31), unique=True, max_size=5).map(sorted).map(tuple)


# ---- any message, made from the same annotations that the codec reads --------------------------------------------


def of_hint(hint: Any) -> st.SearchStrategy[Any]:
    if hint is bool:
        return st.booleans()
    if hint is Manifest:
        return MANIFESTS
    if is_dataclass(hint) and isinstance(hint, type):
        return of_class(hint)
    if get_origin(hint) is tuple:
        return st.tuples(*map(of_hint, get_args(hint)))
    assert get_origin(hint) is Annotated
    inner, bound = get_args(hint)
    match bound:
        case Ints(low, high):
            return st.integers(low, high)
        case Floats(low, above):
            low_or_none = None if low == -math.inf else low
            return st.floats(low_or_none, allow_nan=False, allow_infinity=False, exclude_min=above)
        case Pattern(regex):
            return st.from_regex(regex, fullmatch=True, alphabet=st.characters(max_codepoint=127))
        case Words(limit):
            return st.text(max_size=limit).filter(str.isprintable)
        case OneOf(values):
            return st.sampled_from(values)
        case Items(low, high) if get_origin(inner) is dict:
            key, item = get_args(inner)
            return st.dictionaries(of_hint(key), of_hint(item), min_size=low, max_size=min(high, 6))
        case Items(low, high):
            return st.lists(of_hint(get_args(inner)[0]), min_size=low, max_size=min(high, 4)).map(tuple)
        case _:
            raise NotImplementedError(bound)


def of_class(cls: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls, include_extras=True)
    parts = {one.name: of_hint(hints[one.name]) for one in fields(cls) if one.name != "inline"}
    if cls is TierSpec:
        parts["segments"] = SEGMENTS
    empties: dict[str, Any] = {"options": {}, "segments": (), "holds": (), "use": ()}
    for name in getattr(cls, "added", ()):
        parts[name] = st.just(empties.get(name, "")) | parts[name]
    return st.fixed_dictionaries(parts).map(lambda found: cls(**found))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    cls = draw(st.sampled_from(KINDS))
    if cls is Pull:
        bounds = sorted(draw(st.sets(st.integers(0, 5120), max_size=20)))
        return Pull(DIGEST, tuple(zip(bounds[::2], bounds[1::2], strict=False)))
    message: Message = draw(of_class(cls))
    if isinstance(message, UpdateReady | ManifestNote) and draw(st.booleans()):
        blob = draw(BLOBS)
        return replace(message, manifest=build_manifest(blob, 64), inline=blob)
    if isinstance(message, Offer):
        tier = draw(st.integers(0, 5))
        holds = draw(SEGMENTS)
        return replace(message, tier=tier, segments=(DIGEST,) * (len(holds) or tier + 1), holds=holds)
    return message


@given(messages())
def test_what_is_encoded_comes_back_and_has_one_form(message: Message) -> None:
    frame = encode(message)
    assert decode(frame) == message
    assert decode(memoryview(frame)) == message
    assert encode(decode(frame)) == frame
    assert len(frame) <= frame_limit(message.kind)


@given(messages(), st.data())
def test_a_frame_cut_anywhere_is_refused(message: Message, data: st.DataObject) -> None:
    frame = encode(message)
    with pytest.raises(PeerFault):
        decode(frame[: data.draw(st.integers(0, len(frame) - 1))])


@pytest.mark.parametrize(
    "message",
    [
        Accept(3),
        Offer(3, 2, 0, DIGEST, (DIGEST,), "fedavg", {"rate": 0.1}, ("dp",), "default", 60.0),
        UpdateReady(1, 0, 2.5, build_manifest(b"abc" * 60, 64), {"loss": 0.5}, b"abc" * 60),
    ],
    ids=lambda message: message.kind,
)
def test_every_single_flipped_bit_is_refused(message: Message) -> None:
    frame = encode(message)
    for position in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[position >> 3] ^= 1 << (position & 7)
        with pytest.raises(PeerFault, match="the tag does not match"):
            decode(bytes(flipped))


@given(st.binary(max_size=300))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(PeerFault):
        decode(garbage)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.sampled_from(["round"]), inner),
    ),
    st.sampled_from([cls.kind for cls in KINDS]),
)
def test_any_body_under_a_true_tag_is_a_message_or_a_fault(body: object, kind: str) -> None:
    rest = msgpack.packb([1, kind, body])
    try:
        message = decode(_tag(rest, b"") + rest)
    except PeerFault:
        return
    assert encode(message)[TAG_BYTES:] == rest


@settings(max_examples=300)
@given(messages(), st.data())
def test_a_hostile_change_under_a_true_tag_is_a_message_or_a_fault(message: Message, data: st.DataObject) -> None:
    rest = bytearray(encode(message)[TAG_BYTES:])
    for _ in range(data.draw(st.integers(1, 4))):
        rest[data.draw(st.integers(0, len(rest) - 1))] = data.draw(st.integers(0, 255))
    frame = _tag(bytes(rest), b"") + bytes(rest)
    try:
        found = decode(frame)
    except PeerFault:
        return
    assert encode(found) == frame


@pytest.mark.parametrize(
    "rest",
    [b"\xdd\x00\x00\xff\xff" * 19000, b"\xdc\x00\x40" * 32000, b"\x91" * 98000, b"\xde\x00\x40\xa0" * 24000],
    ids=["wide lies", "wide bombs", "deep bomb", "map bombs"],
)
def test_a_bomb_costs_little_time_and_memory(rest: bytes) -> None:
    frame = _tag(rest, b"") + rest
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(PeerFault):
            decode(frame)
        took = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024
    assert took < 0.5


# ---- keys and versions -------------------------------------------------------------------------------------------


def test_a_keyed_tag_is_only_read_with_its_key() -> None:
    frame = encode(Accept(1), key=b"k" * 32)
    assert decode(frame, key=b"k" * 32) == Accept(1)
    for key in (b"", b"another"):
        with pytest.raises(PeerFault, match="another key"):
            decode(frame, key=key)


def test_another_version_says_so_whatever_its_frame_looks_like() -> None:
    rest = msgpack.packb([2, "accept", {"round": 1, "new": True}])
    with pytest.raises(VersionSkew, match="protocol version 2, this side speaks 1; run releases"):
        decode(_tag(rest, b"") + rest)


# ---- our own mistakes --------------------------------------------------------------------------------------------


def wrong(message: object) -> Any:
    """The message, hidden from the type checker: what a bug on our side would hand over."""
    return message


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (Accept(-1), "accept.round: is not within"),
        (wrong(Accept(wrong("1"))), "accept.round: is str, not int"),
        (Assign(1, 99, ""), "assign.tier: is not within 0 to 31"),
        (wrong(Refuse("a", wrong(None))), "refuse.reason: is NoneType"),
        (wrong(Presence(1, wrong("yes"), "")), "presence.online: is str, not bool"),
        (Hello(1, "two words", ""), "hello.task: is 'two words'"),
        (Hello(1, "x" * 65, ""), r"is 'x{36}\.\.\., not"),
        (Head(1, 1, "short", (DIGEST,)), "head.layout: is 'short'"),
        (Head(1, 1, DIGEST, ()), "head.segments: has 0 items"),
        (wrong(Head(1, 1, DIGEST, wrong([DIGEST]))), "head.segments: is list, not a tuple"),
        (wrong(Pull(DIGEST, wrong(((1, 2, 3),)))), r"pull.ranges\[0\]: is not a tuple of two"),
        (wrong(Pull(DIGEST, wrong(([1, 2],)))), r"pull.ranges\[0\]: is not a tuple of two"),
        (Pull(DIGEST, ((2, 2),)), "pull: range 2..2 is empty"),
        (Pull(DIGEST, tuple((i, i + 1) for i in range(0, 200, 2))), "pull.ranges: has 100 items"),
        (wrong(Capability(1, DIGEST, 1, 1.0, wrong((Accept(1),)))), r"capability.probes\[0\]: is Accept"),
        (Capability(1, DIGEST, 1, math.inf, ()), "capability.link_bytes_s: is not finite"),
        (wrong(Capability(1, DIGEST, 1, wrong("fast"), ())), "capability.link_bytes_s: is str"),
        (wrong(Capability(1, DIGEST, 1, 2**60, ())), "capability.link_bytes_s: is int"),
        (wrong(Capability(1, DIGEST, 1, wrong(True), ())), "capability.link_bytes_s: is bool"),
        (UpdateReady(1, 0, 1.0, Manifest("0" * 64, 0, 64, b"")), "update_ready.manifest: the blob id is not"),
        (UpdateReady(1, 0, 1.0, build_manifest(b"a"), {}, b"b"), "update_ready: inline chunk 0"),
        (UpdateReady(1, 0, 1.0, build_manifest(b"a"), {"ä": 1.0}), "update_ready.metrics: key is"),
        (UpdateReady(1, 0, 1.0, build_manifest(b"a"), {"\ud800": 1.0}), "update_ready.metrics: key is"),
        (wrong(UpdateReady(1, 0, 1.0, build_manifest(b"a"), {wrong(1): 1.0})), "not a dict with str keys"),
        (wrong(UpdateReady(1, 0, 1.0, build_manifest(b"a"), wrong([]))), "not a dict with str keys"),
        (
            UpdateReady(1, 0, 1.0, build_manifest(b"a"), {f"k{i}": 1.0 for i in range(65)}),
            "update_ready.metrics: has 65 items",
        ),
        (wrong(UpdateReady(1, 0, 1.0, build_manifest(b"a"), {}, wrong("x"))), "inline: is str, not bytes"),
        (Offer(1, 0, 0, DIGEST, (DIGEST,) * 2, "a", {}, (), "", 1.0), "has 2 segments, tier 0 needs 1"),
        (Offer(1, 0, 0, DIGEST, (DIGEST,), "a", {}, (), "", 1.0, (0, 3)), "has 1 segments, tier 0 needs 2"),
        (Offer(1, 0, 0, DIGEST, (DIGEST,) * 2, "a", {}, (), "", 1.0, (3, 0)), "is not ascending"),
        (Survey(1, "t", DIGEST, (TierSpec("s", 1.0, 0, 1, "", (1, 1)),), 1), "are not ascending"),
        (wrong({"round": 1}), "dict is not a message"),
        (wrong(Manifest("0" * 64, 0, 64, b"")), "Manifest is not a message"),
    ],
)
def test_our_own_mistake_is_local_misuse_with_the_field(message: Any, says: str) -> None:
    with pytest.raises(LocalMisuse, match=says):
        encode(message)


def test_a_blob_beyond_the_inline_limit_is_our_mistake() -> None:
    blob = bytes(INLINE_LIMIT + 1)
    with pytest.raises(LocalMisuse, match=r"update_ready\.inline: has 32769 bytes"):
        encode(UpdateReady(1, 0, 1.0, build_manifest(blob), {}, blob))


def test_a_whole_number_where_a_float_is_declared_becomes_the_float() -> None:
    sent = UpdateReady(1, 0, 3, build_manifest(b""), {"seconds": 12})
    frame = encode(sent)
    received = decode(frame)
    assert received == sent
    assert isinstance(received, UpdateReady)
    assert type(received.weight) is float
    assert type(received.metrics["seconds"]) is float


def test_free_text_is_made_printable_and_cut_so_that_a_reason_never_stops_its_message() -> None:
    received = decode(encode(Decline(1, "error", "Traceback:\n\tboom\ud800" + "x" * 600)))
    assert isinstance(received, Decline)
    assert received.reason.startswith("Traceback:  boom x")
    assert len(received.reason) == 512
    assert received.reason.endswith("…")


def test_a_message_field_without_a_bound_is_found_at_import() -> None:
    @dataclass(frozen=True)
    class Loose:
        count: int

    with pytest.raises(TypeError, match="has no bound"):
        shape_of(Loose)


@dataclass(frozen=True)
class Grown:
    """A message that got three fields later."""

    added: ClassVar[tuple[str, ...]] = ("text", "numbers", "tiers")
    count: Count
    text: MaybeName = ""
    numbers: Numbers = field(default_factory=dict)
    tiers: SegmentIndices = ()


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (Grown(1), {"count": 1}),
        (Grown(1, "a"), {"count": 1, "text": "a"}),
        (Grown(1, numbers={"x": 1}), {"count": 1, "numbers": {"x": 1.0}}),
        (Grown(1, "", {}, (2,)), {"count": 1, "tiers": [2]}),
    ],
)
def test_a_field_that_was_added_is_in_the_frame_exactly_when_it_says_something(
    message: Grown, body: dict[str, object]
) -> None:
    shape = shape_of(Grown)
    assert shape.dump(message) == body
    assert shape.load(body) == message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"count": 1, "text": ""}, "has its default"),
        ({"count": 1, "numbers": {}}, "has its default"),
        ({"count": 1, "tiers": []}, "has its default"),
        ({"text": "a", "count": 1}, "in another order"),
        ({"count": 1, "tiers": [2], "text": "a"}, "in another order"),
        ({"text": "a"}, "lacks count"),
        ({"count": 1, "text": "a", "more": 1}, "unknown fields: 'more'"),
        ({"count": 1, "text": 1}, "is int, not str"),
    ],
)
def test_an_added_field_does_not_give_a_message_a_second_form(body: dict[str, object], says: str) -> None:
    with pytest.raises(Wrong, match=says):
        shape_of(Grown).load(body)


def test_an_added_field_without_a_default_is_found_at_import() -> None:
    @dataclass(frozen=True)
    class Careless:
        added: ClassVar[tuple[str, ...]] = ("count",)
        count: Count

    with pytest.raises(TypeError, match="'count' has no default"):
        shape_of(Careless)


NAME = "n" * 64
TEXT = "東" * 512
MOST = 2**63 - 1
NUMBERS = {f"{i:064}": 1.5 for i in range(64)}
LARGEST = [
    Offer(MOST, MOST, 31, DIGEST, (DIGEST,) * 32, NAME, NUMBERS, (NAME,) * 32, "p" * 128, 1.5, tuple(range(32))),
    Survey(
        MOST, NAME, DIGEST, (TierSpec(NAME, 1.5, MOST, MOST, NAME, tuple(range(32))),) * 32, MOST, NAME, NUMBERS, DIGEST
    ),
    Capability(MOST, DIGEST, MOST, 1.5, (ProbeResult(NAME, 1.5, MOST),) * 32),
    Pull(DIGEST, tuple((i, i + 1) for i in range(5120 - 128, 5120, 2))),
    Decline(MOST, NAME, TEXT),
    UpdateReady(MOST, MOST, 1.5, build_manifest([b"z" * 64] * MAX_CHUNKS, 64), NUMBERS),
    UpdateReady(MOST, MOST, 1.5, build_manifest(bytes(INLINE_LIMIT), 64), NUMBERS, bytes(INLINE_LIMIT)),
    ManifestNote(31, build_manifest([b"z" * 64] * MAX_CHUNKS, 64)),
]


@pytest.mark.parametrize("message", LARGEST, ids=lambda message: message.kind)
def test_the_largest_message_of_a_kind_is_below_its_limit(message: Message) -> None:
    frame = encode(message)
    assert decode(frame) == message
    assert len(frame) < (FRAME_LIMIT if isinstance(message, UpdateReady | ManifestNote) else 16 * 1024)


def test_a_shape_says_what_it_takes() -> None:
    shape = shape_of(Accept)
    assert isinstance(shape, Shape)
    assert shape.says == "`Accept`"


# ---- the plain door ----------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_what_is_packed_comes_back(value: object) -> None:
    assert unpack(pack(value)) == value
    assert unpack(memoryview(pack(value))) == value


def test_a_tuple_comes_back_as_a_list() -> None:
    assert unpack(pack((1, (2,)))) == [1, [2]]


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.nan, "not finite"),
        ({"a": [math.inf]}, "not finite"),
        (2**63, "more than 64 bits"),
        ({1: 2}, "a key that is not str"),
        ({1, 2}, "a set"),
        (object(), "a object"),
        ("\ud800", "surrogates not allowed"),
        (nested(PLAIN_DEPTH + 1), "nested deeper than 16"),
    ],
)
def test_what_cannot_be_packed_is_our_mistake(value: object, says: str) -> None:
    with pytest.raises(LocalMisuse, match=says):
        pack(value)


def test_the_deepest_nesting_that_is_allowed_is_packed() -> None:
    assert unpack(pack(nested(PLAIN_DEPTH))) == nested(PLAIN_DEPTH)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "incomplete input"),
        (b"\xc1", "is not what pack"),
        (b"\x91" * 600 + b"\xc0", "is not what pack"),
        (b"\x91" * 100 + b"\xc0", "nested deeper"),
        (b"\xd6\xff\x00\x00\x00\x00", "a Timestamp"),
        (b"\xd4\x05\x00", "a ExtType"),
        (b"\x81\x01\x02", "int is not allowed for map key"),
        (b"\x81\xc4\x01a\x02", "a key that is not str"),
        (b"\xcb\x7f\xf8" + bytes(6), "not finite"),
        (b"\xcf" + b"\xff" * 8, "more than 64 bits"),
        (b"\xc0\xc0", "extra data"),
        (b"\xdc\x10\x01" + bytes(4097), "exceeds max_array_len"),
    ],
)
def test_what_pack_did_not_write_is_a_fault(data: bytes, says: str) -> None:
    with pytest.raises(PeerFault, match=says):
        unpack(data)


def test_packed_data_over_the_callers_limits_is_refused() -> None:
    with pytest.raises(PeerFault, match="5 bytes, at most 4"):
        unpack(pack("abcd"), max_bytes=4)
    with pytest.raises(PeerFault, match="max_array_len"):
        unpack(pack([1, 2, 3]), max_items=2)


@given(st.binary(max_size=200))
def test_unpacking_garbage_gives_a_value_or_a_fault(data: bytes) -> None:
    try:
        value = unpack(data)
    except PeerFault:
        return
    assert unpack(pack(value)) == value
