"""How an update travels: the first way that a link carries, and that a slower link never gets more."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.policy import Communication, How, Reason, choose, upload_bytes
from mhfl_mq.policy.load import Known, check_text
from mhfl_mq.segments import Form
from mhfl_mq.segments.compact import pack

ADAPTIVE = Communication(adaptive=True, transfer_s=10.0)
MILLION = 1_000_000  # coordinates: 4 MB as float32

RULES = st.builds(
    Communication,
    adaptive=st.just(True),
    precision=st.sampled_from((32, 16, 8)),
    top_k=st.sampled_from((1.0, 0.6, 0.3, 0.05)),
    every=st.integers(1, 3),
    smallest_top_k=st.sampled_from((0.01, 0.1, 0.25, 1.0)),
    longest_every=st.sampled_from((1, 2, 4, 16)),
)
LINKS = st.one_of(st.floats(1.0, 1e7), st.floats(1e-3, 1e12))


@pytest.mark.parametrize(
    ("link", "how"),
    [
        (400_000, How()),
        (399_999, How(16)),
        (201_000, How(16)),
        (150_000, How(8)),
        (70_000, How(8, 0.5)),
        (40_000, How(8, 0.25)),
        (25_000, How(8, 0.1)),
        (12_000, How(8, 0.1, 2)),
        (6_000, How(8, 0.1, 4)),
        (10, How(8, 0.1, 4)),
        (0, How()),
    ],
)
def test_the_first_way_that_the_link_carries_in_time_is_taken(link: float, how: How) -> None:
    assert choose(link, MILLION, 10.0, None, ADAPTIVE).answer == how


def test_the_reasons_say_what_did_not_fit_and_with_which_numbers() -> None:
    found = choose(150_000, MILLION, 10.0, 0.02, ADAPTIVE)
    assert found.reasons == (
        Reason("change", True, "the last update changed 0.02 of the model, not less than 0.001"),
        Reason("float32", False, "4 MB a round are 26.7 s, over 10 s"),
        Reason("float16", False, "2 MB a round are 13.4 s, over 10 s"),
        Reason("int8", True, "1 MB a round are 6.69 s, within 10 s"),
    )


def test_what_does_not_fit_at_all_is_sent_in_the_smallest_way() -> None:
    found = choose(10, MILLION, 10.0, None, ADAPTIVE)
    assert found.answer == How(8, 0.1, 4)
    assert not found.reasons[-1].holds
    assert str(found.answer) == "int8, the largest 10 %, every 4 rounds"


@pytest.mark.parametrize(("link", "every"), [(1e9, 2), (12_000, 4), (6_000, 4)])
def test_who_hardly_changed_anything_is_asked_half_as_often(link: float, every: int) -> None:
    found = choose(link, MILLION, 10.0, 0.0005, ADAPTIVE)
    assert found.answer.every == every
    assert "change: the last update changed 0.0005 of the model, less than 0.001" in found.why


def test_without_adapting_everybody_does_as_the_policy_says() -> None:
    fixed = Communication(precision=8, top_k=0.5, every=3)
    for link in (0.0, 1.0, 1e9):
        found = choose(link, MILLION, 10.0, 0.0, fixed)
        assert (found.answer, found.why) == (
            How(8, 0.5, 3),
            "communication: int8, the largest 50 %, every 3 rounds, as the policy says",
        )


# ---- laws -----------------------------------------------------------------------------------------------------


@given(
    links=st.lists(LINKS, min_size=2, max_size=5),
    coordinates=st.integers(1, 10**9),
    budget=st.floats(0.1, 1000),
    change=st.none() | st.sampled_from((0.0, 1.0)),
    rules=RULES,
)
def test_a_slower_link_never_gets_more_bytes_a_round(
    links: list[float], coordinates: int, budget: float, change: float | None, rules: Communication
) -> None:
    rates = []
    for link in sorted(links):
        how = choose(link, coordinates, budget, change, rules).answer
        rates.append(upload_bytes(coordinates, how) / how.every)
    assert rates == sorted(rates)


@given(link=LINKS, coordinates=st.integers(1, 10**9), change=st.none() | st.floats(0, 2), rules=RULES)
def test_nothing_is_beyond_what_the_policy_allows(
    link: float, coordinates: int, change: float | None, rules: Communication
) -> None:
    how = choose(link, coordinates, rules.transfer_s, change, rules).answer
    assert how.precision <= rules.precision
    assert min(rules.smallest_top_k, rules.top_k) <= how.top_k <= rules.top_k
    assert rules.every <= how.every <= max(rules.every, rules.longest_every)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed") / "update"


@given(
    coordinates=st.integers(1, 5000),
    precision=st.sampled_from((32, 16, 8)),
    top_k=st.one_of(st.just(1.0), st.floats(0.001, 1.0)),
    seed=st.integers(0, 9),
)
def test_an_update_is_never_larger_than_what_was_reckoned_with(
    coordinates: int, precision: int, top_k: float, seed: int, out: Path
) -> None:
    vector = np.random.default_rng(seed).standard_normal(coordinates, np.float32)
    packed = pack(vector, Form(precision, top_k), out)
    assert packed.size <= upload_bytes(coordinates, How(precision, top_k))


# ---- in the file ----------------------------------------------------------------------------------------------


def findings(whole: str, communication: str, *, stages: bool = False) -> list[tuple[str, str, str]]:
    text = whole if stages else whole.replace("    - {name: dp, options: {epsilon: 6.0, mode: local}}\n", "")
    text = text.replace("  stages:\n", "  stages:\n" if stages else "  stages: []\n")
    checked = check_text(f"{text}  communication: {communication}\n", "p.yaml")
    return [(one.code, one.message, one.hint) for one in checked.findings]


def test_every_key_of_the_file_reaches_those_who_act_on_it(whole: str) -> None:
    text = whole.replace("  stages:\n    - {name: dp, options: {epsilon: 6.0, mode: local}}\n", "")
    keys = "adaptive: true, precision: float16, top_k: 0.5, every: 2, transfer: 1m, smallest_top_k: 0.2"
    checked = check_text(f"{text}  communication: {{{keys}, longest_every: 8, quiet: 0.01}}\n", "p.yaml")
    assert checked.policy is not None, checked.findings
    assert checked.policy.communication == Communication(True, 16, 0.5, 2, 60.0, 0.2, 8, 0.01)
    assert checked.policy.communication.compacts


def test_a_policy_that_says_the_default_has_the_digest_of_one_that_says_nothing(whole: str) -> None:
    silent, spoken = check_text(whole, "p.yaml").policy, None
    spoken = check_text(whole + "  communication: {precision: float32}\n", "p.yaml").policy
    other = check_text(whole + "  communication: {every: 2}\n", "p.yaml").policy
    assert silent is not None
    assert spoken is not None
    assert other is not None
    assert silent.digest == spoken.digest != other.digest
    assert not other.communication.compacts


@pytest.mark.parametrize(
    ("communication", "code", "message", "hint"),
    [
        ("{precison: int8}", "POL010", "unknown key 'precison' in spec.communication", "did you mean 'precision'?"),
        ("{precision: int16}", "POL013", "'int16' is not one of", "did you mean 'int8'?"),
        ("{top_k: 0}", "POL013", "must be more than 0", "write more than 0"),
        ("{top_k: 10%}", "POL012", "must be a number", "write 0.1"),
        ("{every: 0}", "POL013", "must be at least 1", "write 1 or more"),
        ("{adaptive: true, transfer: 10}", "POL014", "a duration needs a unit", "write 10s"),
        ("{adaptive: true, transfer: 0s}", "POL013", "must be more than 0", ""),
        ("{transfer: 5s}", "POL030", "transfer has no effect", "write adaptive: true"),
        ("{adaptive: true, top_k: 0.2, smallest_top_k: 0.5}", "POL030", "at least 0.5 of an update", "at most 0.2"),
        ("{adaptive: true, every: 8, longest_every: 2}", "POL030", "every 2 rounds is more often", "write 8 or more"),
        ("{adaptive: true, transfer: 1h}", "POL030", "longer than the deadline of 15m", "write at most 15m"),
    ],
)
def test_what_is_wrong_with_it_is_said(whole: str, communication: str, code: str, message: str, hint: str) -> None:
    ((found, says, helps),) = findings(whole, communication)
    assert found == code
    assert message in says
    assert hint in helps


@pytest.mark.parametrize("communication", ["{adaptive: true}", "{precision: int8}", "{top_k: 0.5}"])
def test_compacted_updates_and_privacy_stages_are_refused_together(whole: str, communication: str) -> None:
    ((code, message, _),) = findings(whole, communication, stages=True)
    assert (code, "privacy stages" in message) == ("POL030", True)
    assert findings(whole, communication) == []


def test_asking_less_often_goes_with_stages(whole: str) -> None:
    assert findings(whole, "{every: 3}", stages=True) == []


@pytest.mark.parametrize(
    ("communication", "faults"), [("{precision: int8}", 1), ("{every: 3}", 0), ("{top_k: 1.0}", 0)]
)
def test_an_algorithm_that_cannot_be_compacted_says_why(whole: str, communication: str, faults: int) -> None:
    known = Known(
        {"heterofl": frozenset({"static"})}, frozenset({"dp"}), compacting_misfit=lambda name, _options: f"{name} rolls"
    )
    text = whole.replace("    - {name: dp, options: {epsilon: 6.0, mode: local}}\n", "").replace(
        "stages:", "stages: []"
    )
    found = check_text(f"{text}  communication: {communication}\n", "p.yaml", known).findings
    says = ("POL030", "updates of heterofl cannot be compacted: heterofl rolls")
    assert [(one.code, one.message) for one in found] == [says] * faults
