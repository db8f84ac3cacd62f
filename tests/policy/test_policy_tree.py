"""YAML 1.2 with places, whatever the file holds."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.policy.findings import Code
from mhfl_mq.policy.tree import MAX_DEPTH, locate, plain, read_tree

Report = tuple[Code, int, int, str]
LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]


@pytest.fixture(params=LOADERS, ids=lambda loader: str(loader.__name__))
def loader(request: pytest.FixtureRequest) -> Any:
    """PyYAML's parser in Python, and the one in C where it is there."""
    return request.param


def read(text: str, loader: Any = yaml.SafeLoader) -> tuple[Any, list[Report]]:
    """The values of a text, and what was reported."""
    reports: list[Report] = []
    root = read_tree(text, lambda code, line, column, says, hint: reports.append((code, line, column, says)), loader)
    return None if root is None else plain(root), reports


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("yes", "yes"),
        ("off", "off"),
        ("1e-5", 1e-5),
        ("1.0e+3", 1000.0),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2026-11-23", "2026-11-23"),
        ("~", None),
        ("", None),
        ("True", True),
        ("-.inf", float("-inf")),
        ("'1'", "1"),
        ('"true"', "true"),
        (".5", 0.5),
        ("9" * 65, "9" * 65),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2_where_1_1_would_surprise(written: str, meant: object, loader: Any) -> None:
    assert read(f"key: {written}", loader) == ({"key": meant}, [])


def test_not_a_number_is_read_as_such() -> None:
    values, _ = read("[.nan]")
    assert values[0] != values[0]


def test_a_key_written_twice_is_reported_at_the_second_and_the_first_value_stays(loader: Any) -> None:
    values, reports = read("a: 1\nb: 2\na: {c: 3}\n", loader)
    assert values == {"a": 1, "b": 2}
    assert reports == [(Code.DUPLICATE_KEY, 3, 1, "key 'a' is written twice (first on line 1)")]


@pytest.mark.parametrize("text", ["1: x", "null: x", "[a, b]: x", "{a: b}: x", "true: x"])
def test_a_key_that_is_not_text_is_reported_and_left_out(text: str, loader: Any) -> None:
    values, reports = read(f"good: 1\n{text}\n", loader)
    assert values == {"good": 1}
    assert [report[:3] for report in reports] == [(Code.NOT_PLAIN, 2, 1)]


@pytest.mark.parametrize("text", ["!!python/object:os.system x", "!!str 5", "!mine [1]", "! 5", "!!set {a: }"])
def test_tags_are_refused(text: str, loader: Any) -> None:
    _, reports = read(f"key: {text}", loader)
    assert [report[:3] for report in reports] == [(Code.NOT_PLAIN, 1, 6)]


def test_an_alias_stands_for_what_its_anchor_marks(loader: Any) -> None:
    values, reports = read("a: &x {b: 1}\nc: *x\n", loader)
    assert (values, reports) == ({"a": {"b": 1}, "c": {"b": 1}}, [])


@pytest.mark.parametrize("text", ["a: *x", "a: &x [*x]"])
def test_an_alias_without_a_finished_anchor_is_reported(text: str, loader: Any) -> None:
    assert [report[0] for report in read(text, loader)[1]] == [Code.NOT_PLAIN]


def test_an_alias_bomb_is_stopped_before_it_grows(loader: Any) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    values, reports = read("\n".join(lines), loader)
    assert values is None
    assert [report[0] for report in reports] == [Code.TOO_COMPLEX]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_stopped(opening: str, loader: Any) -> None:
    values, reports = read(opening * 5000, loader)
    assert values is None
    assert [report[0] for report in reports] == [Code.TOO_COMPLEX]
    assert reports[0][2] == 1 + MAX_DEPTH * len(opening)


def test_aliases_do_not_hide_deep_nesting(loader: Any) -> None:
    lines = ["a0: &a0 [[[[x]]]]"] + [f"a{n}: &a{n} [[[*a{n - 1}]]]" for n in range(1, 9)]
    assert [report[0] for report in read("\n".join(lines), loader)[1]] == [Code.TOO_COMPLEX]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [("a: [1, 2\nb: 3\n", 2, 2), ("a: 'open", 1, 9), ("a: b: c", 1, 5), ("\tx: 1", 1, 1), ("a: 1\n\tb: 2", 2, 1)],
)
def test_broken_syntax_is_one_finding_near_its_place(text: str, line: int, column: int) -> None:
    values, reports = read(text)
    assert values is None
    assert [report[:3] for report in reports] == [(Code.SYNTAX, line, column)]


def test_a_character_that_yaml_does_not_allow_is_found_where_it_stands() -> None:
    assert [report[:3] for report in read("a: 1\nb: x\x00y\n")[1]] == [(Code.SYNTAX, 2, 5)]


def test_half_a_character_is_refused() -> None:
    assert [report[:3] for report in read('a: "\\ud800"')[1]] == [(Code.NOT_PLAIN, 1, 4)]


def test_an_empty_file_and_a_second_document_are_reported(loader: Any) -> None:
    assert [report[:3] for report in read("# nothing\n", loader)[1]] == [(Code.NOT_ONE_DOCUMENT, 1, 1)]
    assert [report[:3] for report in read("a: 1\n---\nb: 2\n", loader)[1]] == [(Code.NOT_ONE_DOCUMENT, 2, 1)]


def test_places_count_characters_not_bytes(loader: Any) -> None:
    root = read_tree("名前: {日本: 1, b: 2}\n", lambda *_: None, loader)
    assert root is not None
    assert locate(root, ("名前", "b"), key=True) == (1, 13)
    assert locate(root, ("名前", "b")) == (1, 16)


def test_what_is_missing_has_the_place_of_what_it_is_missing_in() -> None:
    root = read_tree("a:\n  b:\n    - c: 1\n", lambda *_: None)
    assert root is not None
    assert locate(root, ("a", "b", 0, "nothing", "more")) == (3, 7)
    assert locate(root, ("a", "x")) == (1, 1)
    assert locate(root, ()) == (1, 1)


@given(st.text(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"#%@` \n\tab1", max_size=200))
def test_any_text_either_reads_or_is_reported(text: str) -> None:
    reports: list[Code] = []
    root = read_tree(text, lambda code, *_: reports.append(code))
    assert (root is None) <= bool(reports)


letters = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cn", "Cs", "Zl", "Zp"), exclude_characters="\ufeff"),
    max_size=8,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | letters,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_is_read_as_what_it_says(value: object) -> None:
    assert read(f"[{json.dumps(value, ensure_ascii=False)}]") == ([value], [])
