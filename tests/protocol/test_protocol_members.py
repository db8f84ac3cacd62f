"""Who is there, who may join, and with which tier."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mhfl_mq.protocol.effects import AggregatorEffect, Persist, Tell
from mhfl_mq.protocol.joining import Joining
from mhfl_mq.protocol.members import Link, Members
from mhfl_mq.protocol.pauses import Once
from mhfl_mq.protocol.records import DAY_S, DeviceSaved, Entry, PastSaved, UpdateCounted, UploadSaved
from mhfl_mq.protocol.words import TEXT_LIMIT, plain
from mhfl_mq.testing.machines import LAYOUT, Everybody, digest, example_rules
from mhfl_mq.wire.codec import decode, encode
from mhfl_mq.wire.messages import Assign, Capability, Facts, Hello, Presence, ProbeResult, Refuse, Survey

PROBES = (ProbeResult("small", 0.1, 1000), ProbeResult("large", 0.2, 2000))
ADA = DeviceSaved("ada", 5, 1, "fits", LAYOUT, 100, 0.0, PROBES)
CAPABLE = Capability(6, LAYOUT, 100, 0.0, PROBES)
HELLO = Hello(6, "wind", "d", LAYOUT, 0)
RULES = example_rules(max_devices=2)
SURVEY = Survey(4, "wind", LAYOUT, RULES.tiers, 8, RULES.algorithm, dict(RULES.options))


class Desk:
    """Joining, in a test's hands."""

    def __init__(self, *saved: DeviceSaved) -> None:
        self.decider = Everybody()
        self.members = Members(saved, {}, RULES.max_devices)
        self.once = Once()
        self.joining = Joining(RULES, self.decider, self.members, self.once)

    def answer(self, device: str, message: Hello | Capability) -> list[AggregatorEffect]:
        return self.joining.answer(device, message, 4)


def links(members: Members) -> list[tuple[Link, int]]:
    return [(member.link, member.session) for member in members.roll()]


def kinds(effects: Sequence[AggregatorEffect]) -> list[str]:
    return [entry.kind for effect in effects if isinstance(effect, Persist) for entry in effect.entries]


# ---- presence -------------------------------------------------------------------------------------------------


def test_a_restored_device_is_unseen_until_its_birth_is_heard() -> None:
    members = Members([ADA], {"ada": 3}, 10)
    assert members.candidates(LAYOUT) == ()
    members.presence("ada", Presence(5, True, "d"))
    assert members.candidates(LAYOUT) == (("ada", 1, 3),)
    members.had_turns(("ada", "bob"), (), 50.0, 60.0)
    assert members.candidates(LAYOUT) == (("ada", 1, 4),)
    assert members.candidates(digest("other")) == ()


def update(device: str, size: int, seconds: float) -> UpdateCounted:
    return UpdateCounted(7, device, 1, digest(device), size, 1.0, {"seconds": seconds})


def test_a_turn_without_an_update_is_missed_and_one_with_an_update_ends_the_row() -> None:
    members = Members([ADA], {}, 10, {"ada": PastSaved(10.0, 2, (UploadSaved(11.0, 5, 1.0),))})
    members.had_turns(("ada", "bob"), (), 50.0, 60.0)
    assert members.past("ada") == PastSaved(50.0, 3, (UploadSaved(11.0, 5, 1.0),))
    assert members.past("bob") == PastSaved(50.0, 1)
    members.had_turns(("ada",), (update("ada", 80, 2.5),), 970.0, 990.0)
    first, second = UploadSaved(11.0, 5, 1.0), UploadSaved(900.0, 80, 2.5)
    assert members.past("ada") == PastSaved(970.0, 0, (first, second), 2.5)
    assert members.past("cyd") == PastSaved()


def test_uploads_within_a_quarter_of_an_hour_are_one_sum_so_that_a_day_has_a_hundred() -> None:
    members = Members([ADA], {}, 10)
    for second in range(0, 3 * 86_400, 300):
        members.had_turns(("ada",), (update("ada", 80, 2.5),), float(second), float(second))
    past = members.past("ada")
    assert len(past.uploads) == 26 * 4
    assert {(one.size, one.seconds, one.at % 900.0) for one in past.uploads} == {(240, 7.5, 0.0)}
    assert past.last_s == 2.5


def test_uploads_of_more_than_a_day_ago_are_forgotten() -> None:
    members = Members([ADA], {}, 10, {"ada": PastSaved(10.0, 0, (UploadSaved(10.0, 5, 1.0),))})
    members.had_turns(("ada",), (update("ada", 80, 2.5),), DAY_S, DAY_S + 11.0)
    assert members.past("ada").uploads == (UploadSaved(DAY_S, 80, 2.5),)


def test_what_a_device_says_of_itself_is_kept_with_its_time_and_strangers_do_not_fill_the_memory() -> None:
    members = Members([ADA], {}, 2)
    facts = Facts({"ram_gb": 2.0})
    members.says("eve", facts, 5.0)
    members.says("fay", facts, 6.0)
    members.says("gus", facts, 7.0)
    members.says("ada", facts, 8.0)
    assert [members.said(one) for one in ("eve", "fay", "gus")] == [(facts, 5.0), (facts, 6.0), None]
    assert members.said("ada") == (facts, 8.0)  # it is one of us
    members.says("eve", Facts(), 9.0)
    assert members.said("eve") == (Facts(), 9.0)


def test_a_last_will_of_an_older_session_is_not_heard() -> None:
    members = Members([ADA], {}, 10)
    members.presence("ada", Presence(7, True, "d"))
    members.presence("ada", Presence(6, False, "d"))
    assert links(members) == [(Link.ONLINE, 7)]
    members.presence("ada", Presence(7, False, "d"))
    assert links(members) == [(Link.GONE, 7)]
    members.presence("ada", Presence(7, True, "d"))
    assert links(members) == [(Link.ONLINE, 7)]


def test_who_was_never_measured_is_not_followed() -> None:
    members = Members([], {}, 10)
    members.presence("eve", Presence(1, True, "d"))
    assert members.get("eve") is None
    assert members.roll() == ()


def test_a_device_that_lost_its_folder_is_believed_by_its_hello() -> None:
    desk = Desk(ADA)
    assert desk.answer("ada", Hello(1, "wind", "d", "", 0)) == [Tell("ada", SURVEY)]
    assert links(desk.members) == [(Link.ONLINE, 1)]


# ---- joining --------------------------------------------------------------------------------------------------


def test_a_new_device_is_surveyed_then_assigned_and_durable_before_it_is_told() -> None:
    desk = Desk()
    assert desk.answer("ada", replace(HELLO, layout="")) == [Tell("ada", SURVEY)]
    saved = replace(ADA, session=6)
    facts = {"device": "ada", "tier": "large", "reason": "fits"}
    assert desk.answer("ada", CAPABLE) == [
        Persist((saved,), (Entry("device.assign", facts),)),
        Tell("ada", Assign(4, 1, "fits")),
    ]
    assert [member.saved for member in desk.members.roll()] == [saved]


def test_a_known_device_is_assigned_at_once_and_its_new_session_is_durable() -> None:
    desk = Desk(ADA)
    assign = Tell("ada", Assign(4, 1, "fits"))
    assert desk.answer("ada", HELLO) == [Persist((replace(ADA, session=6),), ()), assign]
    assert desk.answer("ada", HELLO) == [assign]


@pytest.mark.parametrize(
    ("saved", "hello"),
    [
        (ADA, replace(HELLO, layout="")),
        (ADA, replace(HELLO, layout=digest("other"))),
        (replace(ADA, layout=digest("other")), HELLO),
        (replace(ADA, tier=None), HELLO),
    ],
)
def test_a_device_that_is_known_otherwise_is_surveyed_again(saved: DeviceSaved, hello: Hello) -> None:
    assert Desk(saved).answer("ada", hello) == [Tell("ada", SURVEY)]


def test_a_changed_policy_gives_a_known_device_another_tier() -> None:
    desk = Desk(ADA)
    desk.decider.tier = 0
    effects = desk.answer("ada", HELLO)
    assert effects[0] == Persist(
        (replace(ADA, session=6, tier=0),),
        (Entry("device.assign", {"device": "ada", "tier": "small", "reason": "fits", "was": "large", "news": []}),),
    )
    assert effects[1] == Tell("ada", Assign(4, 0, "fits"))


def test_a_device_of_another_layout_is_refused_with_both_digests_and_kept_in_mind() -> None:
    desk = Desk()
    effects = desk.answer("ada", replace(CAPABLE, layout=digest("other")))
    assert isinstance(effects[-1], Tell)
    refuse = effects[-1].message
    assert isinstance(refuse, Refuse)
    assert refuse.code == "layout"
    assert LAYOUT in refuse.reason
    assert digest("other") in refuse.reason
    assert kinds(effects) == ["device.refuse"]
    assert desk.members.roll()[0].saved.tier is None


def test_a_device_that_no_tier_fits_is_refused_with_the_reasons_and_noted_once() -> None:
    desk = Desk()
    weak = replace(CAPABLE, probes=PROBES[:1])
    effects = desk.answer("ada", weak)
    assert effects[-1] == Tell("ada", Refuse("tier", "no tier fits; too slow"))
    assert kinds(effects) == ["device.refuse"]
    assert desk.answer("ada", weak) == effects[-1:]


def test_a_device_that_flutters_between_tiers_is_noted_once_for_each() -> None:
    desk = Desk()
    noted = []
    for turn in range(6):
        desk.decider.tier = turn % 2
        noted += kinds(desk.answer("ada", CAPABLE))
    assert noted == ["device.assign", "device.assign"]


def test_another_task_is_refused() -> None:
    effects = Desk().answer("ada", replace(HELLO, task="water"))
    reason = "the federation runs the task wind, this device has water"
    assert effects[-1] == Tell("ada", Refuse("task", reason))


@pytest.mark.parametrize("message", [HELLO, CAPABLE])
def test_a_full_federation_takes_nobody_new(message: Hello | Capability) -> None:
    desk = Desk(ADA, replace(ADA, device="bob"))
    refused = Tell("cyd", Refuse("full", "the federation has its 2 devices already"))
    assert desk.answer("cyd", message)[-1] == refused
    assert desk.answer("ada", message)[-1] == Tell("ada", Assign(4, 1, "fits"))


# ---- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "fits", "line\nline\x1b[31m", "é" * 2000, "a" * TEXT_LIMIT, "a" * (TEXT_LIMIT + 1)]
)
def test_any_reason_can_be_sent(text: str) -> None:
    refuse = Refuse("tier", plain(text))
    assert decode(encode(refuse)) == refuse
    assert refuse.reason[:100] == text.replace("\n", " ").replace("\x1b", " ")[:100]


def test_another_tier_comes_with_what_the_device_says_otherwise_than_before() -> None:
    desk = Desk(ADA)
    desk.decider.tier = 0
    other = tuple(replace(one, step_s=one.step_s * 2, peak_bytes=one.peak_bytes + 1) for one in ADA.probes)
    effects = desk.answer("ada", replace(CAPABLE, probes=other, link_bytes_s=ADA.link_bytes_s + 500.0))
    assert isinstance(effects[0], Persist)
    (entry,) = effects[0].entries
    assert entry.facts["was"] == "large"
    expected = [
        line
        for was in ADA.probes
        for line in (
            f"{was.tier}: a step takes {2 * was.step_s:.3g} s, it was {was.step_s:.3g} s",
            f"{was.tier}: a step needs {was.peak_bytes + 1} bytes, it was {was.peak_bytes}",
        )
    ]
    link = f"the link carries {ADA.link_bytes_s + 500.0:.3g} bytes/s, it was {ADA.link_bytes_s:.3g}"
    assert entry.facts["news"] == [*expected, link]
