"""How findings are shown."""

from mhfl_mq.policy.findings import Finding, did_you_mean


def test_the_caret_stands_under_the_place_after_wide_and_combining_characters() -> None:
    source = "名前: e\u0301 {x: 1}"
    shown = Finding("p.yaml", 3, source.index("x") + 1, "POL010", "wrong", "do this", source).render().splitlines()
    assert shown[0] == f"p.yaml:3:{source.index('x') + 1}: POL010: wrong"
    # Four cells for the two wide characters, one for e with its accent: `名前: é {` fills nine.
    assert shown[2] == " " * 6 + "| " + " " * 9 + "^"
    assert shown[3] == "      = hint: do this"


def test_a_tab_takes_one_cell_in_the_line_and_under_it() -> None:
    shown = Finding("p", 1, 3, "POL004", "wrong", source="\ta: b").render().splitlines()
    assert shown[1:] == ["    1 |  a: b", "      |   ^"]


def test_control_characters_of_a_file_never_reach_the_terminal() -> None:
    shown = Finding("p\x1b[2J", 1, 1, "POL004", "bad \x07", "\x9b31m", source="x\x1b[31m\u202e").render()
    assert not any(char in shown for char in "\x1b\x07\x9b\u202e")


def test_a_finding_about_the_whole_file_has_no_line_and_no_caret() -> None:
    assert Finding("p.yaml", 0, 0, "POL001", "cannot be read").render() == "p.yaml: POL001: cannot be read"


def test_the_json_form_has_exactly_the_documented_keys() -> None:
    found = Finding("p.yaml", 1, 2, "POL010", "wrong", "hint", source="secret")
    assert found.as_json() == {
        "file": "p.yaml",
        "line": 1,
        "column": 2,
        "code": "POL010",
        "message": "wrong",
        "hint": "hint",
    }


def test_a_near_word_is_proposed_whatever_its_case_and_its_dashes() -> None:
    words = {"max_drop", "deadline"}
    assert did_you_mean("Max-Drop", words) == "did you mean 'max_drop'?"
    assert did_you_mean("zzz", words) == "known here: deadline, max_drop"
    assert did_you_mean("zzz", ()) == ""
