"""`mhfl policy` and `mhfl init`."""

import json
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.shipped import shipped

WRONG = """\
apiVersion: mhfl-mq/v1
kind: FederationPolicy
metadata: {name: x, onwer: y}
spec:
  algorithm: {name: heteroffl}
"""


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A file with three errors."""
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    return path


@pytest.fixture
def default() -> Path:
    """The policy that ships."""
    return Path(str(shipped("policies") / "default.yaml"))


def test_a_right_policy_is_ok(mhfl: Any, default: Path) -> None:
    done = mhfl("policy", "check", default)
    assert (done.code, done.out) == (0, f"{default}: ok\n")


def test_a_shipped_policy_is_checked_and_shown_by_its_name_as_the_aggregator_takes_it(mhfl: Any) -> None:
    assert mhfl("policy", "check", "default").code == 0
    assert "quorum         2 updates" in mhfl("policy", "show", "default").out
    wrong = mhfl("policy", "check", "defalt")
    assert wrong.code == 4
    assert "name a policy file, or one that ships (baseline-exclusive, baseline-smallest, default" in wrong.out


def test_every_shipped_policy_passes_with_what_is_installed_here(mhfl: Any, default: Path) -> None:
    files = sorted(default.parent.glob("*.yaml"))
    done = mhfl("policy", "check", *files)
    assert done.code == 0, done.out
    assert done.out.count(": ok\n") == len(files)


@pytest.mark.parametrize(("name", "fits"), [("heterofl", False), ("fedgroups", True), ("fedtgp", True), ("auto", True)])
def test_an_architecture_needs_an_algorithm_for_unlike_models(
    mhfl: Any, default: Path, tmp_path: Path, name: str, fits: bool
) -> None:
    text = default.with_name("mixed-architectures.yaml").read_text()
    text = "\n".join(line for line in text.splitlines() if "lambda:" not in line and "inference:" not in line)
    path = tmp_path / "mixed-architectures.yaml"
    path.write_text(text.replace("name: fedproto", f"name: {name}"))
    done = mhfl("policy", "check", path)
    assert (done.code == 0) is fits, done.out
    assert done.out.count("POL031") == (0 if fits else 3)


def test_all_findings_of_all_files_are_shown_with_place_caret_and_hint(mhfl: Any, wrong: Path, default: Path) -> None:
    done = mhfl("policy", "check", wrong, default, wrong.parent / "none.yaml")
    assert done.code == 4
    assert f"{wrong}:3:21: POL010: unknown key 'onwer'" in done.out
    assert "    3 | metadata: {name: x, onwer: y}\n      |                     ^\n" in done.out
    assert "did you mean 'heterofl'?" in done.out
    assert "none.yaml: POL001: cannot be read" in done.out
    assert f"{default}: ok" in done.out
    assert done.err == "4 findings in 2 of 3 files\n"


@pytest.mark.parametrize("option", [["--json"], ["--format", "json"]])
def test_json_is_a_list_with_the_documented_keys(mhfl: Any, wrong: Path, option: list[str]) -> None:
    done = mhfl("policy", "check", wrong, *option)
    assert done.code == 4
    found = json.loads(done.out)
    assert [(one["line"], one["column"], one["code"]) for one in found] == [
        (3, 21, "POL010"),
        (4, 1, "POL011"),
        (5, 21, "POL024"),
    ]
    assert all(set(one) == {"file", "line", "column", "code", "message", "hint"} for one in found)


def test_github_gets_one_workflow_command_per_finding(mhfl: Any, wrong: Path) -> None:
    done = mhfl("policy", "check", wrong, "--format", "github")
    lines = done.out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"::error file={wrong},line=3,col=21,title=POL010::unknown key 'onwer' in metadata (")


def test_the_schema_is_printed_with_what_is_installed_here(mhfl: Any) -> None:
    done = mhfl("policy", "schema")
    assert done.code == 0
    names = json.loads(done.out)["$defs"]["Algorithm"]["properties"]["name"]["enum"]
    assert {"auto", "heterofl", "fedproto"} <= set(names)


def test_the_schema_is_written_to_a_file_and_says_how_to_use_it(mhfl: Any, tmp_path: Path) -> None:
    out = tmp_path / "policy.schema.json"
    done = mhfl("policy", "schema", "-o", out)
    assert (done.code, done.out) == (0, "")
    assert f"$schema={out}" in done.err
    assert json.loads(out.read_text("utf-8"))["title"] == "policy of mhfl-mq"
    done = mhfl("policy", "schema", "-o", tmp_path / "no" / "folder.json")
    assert done.code == 3
    assert "cannot be written" in done.err
    assert "folder that exists" in done.err


def test_a_misspelt_option_is_found_beside_a_misspelt_algorithm(mhfl: Any, default: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    text = default.read_text("utf-8").replace("name: heterofl", "name: heterfl").replace("rate: 0.01", "raet: 0.01")
    file.write_text(text, "utf-8")
    found = [one["message"] for one in json.loads(mhfl("policy", "check", "--json", file).out)]
    assert found == ["there is no algorithm 'heterfl'", "no algorithm has an option 'raet'"]


def test_show_prints_tiers_and_rules_with_the_defaults(mhfl: Any, default: Path) -> None:
    done = mhfl("policy", "show", default)
    assert done.code == 0
    assert "small" in done.out
    assert "quorum         2 updates and 50% of the cohort" in done.out


def test_show_as_json_has_the_digest_and_seconds(mhfl: Any, default: Path) -> None:
    shown = json.loads(mhfl("policy", "show", default, "--json").out)
    assert shown["participation"]["deadline_s"] == 120
    assert len(shown["digest"]) == 64


def test_show_of_a_wrong_policy_lists_the_findings_as_an_error(mhfl: Any, wrong: Path) -> None:
    done = mhfl("policy", "show", wrong)
    assert (done.code, done.out) == (4, "")
    assert "3 findings" in done.err


def test_an_algorithm_that_cannot_serve_the_tiers_is_a_finding(mhfl: Any, default: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(default.read_text().replace("name: heterofl ", "name: fedavg "))
    done = mhfl("policy", "check", path)
    assert done.code == 4
    assert "POL029" in done.out
    assert "fedavg trains one model" in done.out


# ---- init -----------------------------------------------------------------------------------------------------


def test_init_writes_a_policy_that_is_right(mhfl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = mhfl("init")
    assert (done.code, done.out) == (0, "mhfl.yaml\n")
    assert "mhfl policy check mhfl.yaml" in done.err
    assert mhfl("policy", "check", "mhfl.yaml").code == 0


def test_init_copies_the_policy_that_is_asked_for(mhfl: Any, tmp_path: Path) -> None:
    assert mhfl("init", tmp_path / "a.yaml", "--from", "baseline-smallest").code == 0
    assert "name: baseline-smallest" in (tmp_path / "a.yaml").read_text()


def test_init_never_writes_over_a_file_unless_forced(mhfl: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("mine")
    done = mhfl("init", mine)
    assert done.code == 3
    assert done.err.startswith(f"error: {mine} is there already\n")
    assert mine.read_text() == "mine"
    assert mhfl("init", mine, "--force").code == 0
    assert "FederationPolicy" in mine.read_text()


def test_init_says_which_policies_there_are(mhfl: Any, tmp_path: Path) -> None:
    done = mhfl("init", "--list")
    assert [line.split()[0] for line in done.out.splitlines()] == sorted(
        file.name.removesuffix(".yaml") for file in shipped("policies").iterdir() if file.name.endswith(".yaml")
    )
    wrong = mhfl("init", tmp_path / "x", "--from", "nope")
    assert wrong.code == 3
    assert "there are: baseline-exclusive, baseline-smallest, default" in wrong.err


def test_init_into_a_folder_that_is_not_there_says_so(mhfl: Any, tmp_path: Path) -> None:
    done = mhfl("init", tmp_path / "no" / "x.yaml")
    assert done.code == 3
    assert done.err.startswith(f"error: {tmp_path / 'no' / 'x.yaml'} cannot be written: No such file or directory\n")


@pytest.mark.parametrize(
    ("communication", "says"),
    [
        ("{}", "communication  float32\n"),
        ("{precision: int8, top_k: 0.1, every: 2}", "communication  int8, the largest 10 %, every 2 rounds\n"),
        (
            "{adaptive: true, smallest_top_k: 0.2}",
            "communication  float32; less where that takes a link over 10s, down to int8, the largest 25 %, every 4 ",
        ),
    ],
)
def test_how_updates_travel_is_shown_in_one_line(mhfl: Any, tmp_path: Path, communication: str, says: str) -> None:
    path = tmp_path / "policy.yaml"
    text = Path(str(shipped("policies") / "baseline-smallest.yaml")).read_text()
    path.write_text(f"{text}\n  communication: {communication}\n")
    assert says in mhfl("policy", "show", path).out


@pytest.mark.parametrize(
    ("algorithm", "refused"),
    [
        ("{name: heterofl}", False),
        ("{name: heterofl, options: {masked: 1}}", True),
        ("{name: fedgroups, options: {distil: 0}}", False),
        ("{name: fedgroups}", True),
    ],
)
def test_what_cannot_be_compacted_depends_on_the_options_and_is_what_the_aggregator_refuses(
    mhfl: Any, tmp_path: Path, algorithm: str, refused: bool
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "apiVersion: mhfl-mq/v1\nkind: FederationPolicy\nmetadata: {name: x}\nspec:\n"
        "  tiers: [{name: small, width: 0.5}, {name: large}]\n"
        f"  algorithm: {algorithm}\n  communication: {{precision: int8}}\n"
    )
    done = mhfl("policy", "check", path)
    assert ("POL030" in done.out) is refused
    assert (done.code == 4) is refused


def test_a_value_that_an_algorithm_does_not_take_is_a_finding_at_its_line(mhfl: Any, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "apiVersion: mhfl-mq/v1\nkind: FederationPolicy\nmetadata: {name: x}\nspec:\n"
        "  tiers: [{name: small, width: 0.5}, {name: large}]\n"
        "  algorithm:\n    name: fedrep\n    options:\n      head_share: 2\n"
    )
    done = mhfl("policy", "check", path)
    assert done.code == 4
    assert "policy.yaml:9:19" in done.out
    assert "head_share: 2 is not within 0 to 1" in done.out
    assert "mhfl algorithms fedrep" in done.out
