"""The topic tree: what is built is read back, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse, PeerFault
from mhfl_mq.wire.bounds import MAX_SEGMENTS
from mhfl_mq.wire.topics import Place, Topics, What, is_id

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True, alphabet=st.characters(max_codepoint=127))
T = Topics("plant1", "acme/tokyo")


def every_topic(topics: Topics, device: str, segment: int) -> dict[str, Place]:
    return {
        topics.state: Place(What.STATE),
        topics.head: Place(What.HEAD),
        topics.round: Place(What.ROUND),
        topics.manifest(segment): Place(What.MANIFEST, segment=segment),
        topics.carousel(segment): Place(What.CAROUSEL, segment=segment),
        topics.status(device): Place(What.STATUS, device=device),
        topics.command(device): Place(What.COMMAND, device=device),
        topics.repair(device): Place(What.REPAIR, device=device),
        topics.event(device): Place(What.EVENT, device=device),
        topics.pull(device): Place(What.PULL, device=device),
        topics.upload(device): Place(What.UPLOAD, device=device),
    }


@given(st.lists(IDS, min_size=1, max_size=2), IDS, IDS, st.integers(0, MAX_SEGMENTS - 1))
def test_every_topic_is_read_back_and_has_at_most_seven_slashes(
    root: list[str], federation: str, device: str, segment: int
) -> None:
    topics = Topics(federation, "/".join(root))
    found = every_topic(topics, device, segment)
    assert {place.what for place in found.values()} == set(What)
    for topic, place in found.items():
        assert topics.parse(topic) == place
        assert topic.count("/") <= 7


def test_the_tree_is_the_documented_one() -> None:
    assert list(every_topic(Topics("f"), "dev-1", 2)) == [
        "mhfl/v1/f/srv/state",
        "mhfl/v1/f/srv/head",
        "mhfl/v1/f/srv/round",
        "mhfl/v1/f/seg/2/man",
        "mhfl/v1/f/seg/2/c",
        "mhfl/v1/f/d/dev-1/status",
        "mhfl/v1/f/d/dev-1/in/cmd",
        "mhfl/v1/f/d/dev-1/in/chunk",
        "mhfl/v1/f/d/dev-1/out/evt",
        "mhfl/v1/f/d/dev-1/out/pull",
        "mhfl/v1/f/d/dev-1/out/chunk",
    ]
    assert repr(T) == "Topics('plant1', 'acme/tokyo')"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "mhfl",
        "$SYS/broker/uptime",
        "mhfl/v1/plant1/srv/state",
        "acme/tokyo/v2/plant1/srv/state",
        "acme/tokyo/v1/plant2/srv/state",
        "acme/tokyo/v1/plant1",
        "acme/tokyo/v1/plant1/",
        "acme/tokyo/v1/plant1/srv",
        "acme/tokyo/v1/plant1/srv/",
        "acme/tokyo/v1/plant1/srv/other",
        "acme/tokyo/v1/plant1/srv/state/more",
        "acme/tokyo/v1/plant1/seg/32/c",
        "acme/tokyo/v1/plant1/seg/01/c",
        "acme/tokyo/v1/plant1/seg/-1/c",
        "acme/tokyo/v1/plant1/seg/²/c",
        "acme/tokyo/v1/plant1/seg/1/x",
        "acme/tokyo/v1/plant1/seg//c",
        "acme/tokyo/v1/plant1/seg/+/c",
        "acme/tokyo/v1/plant1/d//status",
        "acme/tokyo/v1/plant1/d/+/status",
        "acme/tokyo/v1/plant1/d/a b/status",
        "acme/tokyo/v1/plant1/d/a/in",
        "acme/tokyo/v1/plant1/d/a/in/cmd/x",
        "acme/tokyo/v1/plant1/d/a/status\n",
        "acme/tokyo/v1/plant1/d/" + "a" * 65 + "/status",
        "acme/tokyo/v1/plant1/" + "a/" * 400,
    ],
)
def test_a_topic_that_is_not_ours_is_a_fault(topic: str) -> None:
    with pytest.raises(PeerFault, match="not a topic of acme/tokyo/v1/plant1/"):
        T.parse(topic)


@given(st.text(max_size=80), st.booleans())
def test_any_text_is_a_place_or_a_fault(text: str, ours: bool) -> None:
    topic = T.prefix + text if ours else text
    try:
        place = T.parse(topic)
    except PeerFault:
        return
    assert every_topic(T, place.device or "x", max(place.segment, 0))[topic] == place


@pytest.mark.parametrize("root", ["", "/", "a/", "/a", "a/b/c", "a b", "a+", "#", "$SYS", "tōkyō"])
def test_a_root_that_cannot_be_a_topic_is_refused(root: str) -> None:
    with pytest.raises(LocalMisuse, match="root"):
        Topics("f", root)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a.b", "a\n", "x" * 65])
def test_a_name_that_cannot_be_a_level_is_refused(name: str) -> None:
    assert not is_id(name)
    with pytest.raises(LocalMisuse, match="is not an id; use 1 to 64"):
        Topics(name)
    with pytest.raises(LocalMisuse, match=r"device: .* is not an id"):
        T.command(name)
    with pytest.raises(LocalMisuse, match="is not an id"):
        T.acl_lines(name)


@pytest.mark.parametrize("segment", [-1, MAX_SEGMENTS])
def test_a_segment_out_of_bounds_is_refused(segment: int) -> None:
    with pytest.raises(LocalMisuse, match=f"segment {segment}"):
        T.carousel(segment)


def covers(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter matches a topic."""
    wanted, found = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted, found = wanted[:-1], found[: len(wanted) - 1]
    return len(wanted) == len(found) and all(w in ("+", f) for w, f in zip(wanted, found, strict=True))


def test_the_aggregator_hears_what_devices_send_and_nothing_else() -> None:
    heard = {
        place.what
        for topic, place in every_topic(T, "dev", 1).items()
        if any(covers(pattern, topic) for pattern, _ in T.aggregator_filters())
    }
    assert heard == {What.STATUS, What.EVENT, What.PULL, What.UPLOAD}


def test_a_device_hears_its_own_topics_and_the_segments_of_its_tier() -> None:
    filters = T.device_filters("dev") + T.tier_filters((1, 4))
    names = [name for name, _ in filters]
    assert not any("+" in name or "#" in name for name in names)
    heard = {T.parse(name) for name in names}
    own = {What.STATE, What.HEAD, What.ROUND, What.COMMAND, What.REPAIR}
    assert {place.what for place in heard} == own | {What.MANIFEST, What.CAROUSEL}
    assert {place.segment for place in heard} == {-1, 1, 4}
    assert {place.device for place in heard} == {"", "dev"}
    assert {T.parse(name).what for name, qos in filters if qos == 0} == {What.CAROUSEL}


def test_the_acl_lets_each_side_do_its_part_and_no_more() -> None:
    lines = T.acl_lines("agg")
    assert lines[:2] == ["user agg", "topic readwrite acme/tokyo/v1/plant1/#"]
    rules = [line.split()[1:] for line in lines if line.startswith("pattern")]

    def may(access: str, topic: str) -> bool:
        return any(kind == access and covers(rule.replace("%u", "dev"), topic) for kind, rule in rules)

    for topic in every_topic(T, "dev", 0):
        down = "/srv/" in topic or "/seg/" in topic or "/in/" in topic
        assert may("read", topic) == down
        assert may("write", topic) != down
    for topic, place in every_topic(T, "other", 0).items():
        if place.device:
            assert not may("read", topic)
        assert not may("write", topic)
