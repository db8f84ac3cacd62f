"""`mhfl policy test`: run the unit tests of policies, and say which rules no test has seen fail."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from mhfl_mq.cli.options import json_option, policy_file
from mhfl_mq.cli.output import print_json, say
from mhfl_mq.cli.policies import installed
from mhfl_mq.errors import ConfigError, PolicyError
from mhfl_mq.policy.cases import Outcome, PolicyTest, case_faults, run_cases
from mhfl_mq.policy.findings import Finding
from mhfl_mq.policy.load import read_form, read_policy

__all__ = ["test_command"]

PATTERN: Final = "*.test.yaml"


@click.command("test")
@click.argument("places", nargs=-1, metavar="DIR...", type=click.Path(path_type=Path))
@json_option
def test_command(places: tuple[Path, ...], as_json: bool) -> int:
    """Run the unit tests of policies: files called *.test.yaml in DIR (here, when left out), and below it.

    A test says whether a device of its fleet may be invited at a point in time, or a round may begin, and by which
    rules not. Rules that no test has seen fail are listed. Exit code 0 when all pass, 4 otherwise.
    """
    files = _files(places or (Path(),))
    ran = [_run(file) for file in files]
    if as_json:
        print_json([_document(one) for one in ran])
    else:
        for one in ran:
            _show(one)
        failed = sum(not outcome.passed for one in ran for outcome in one.outcomes)
        total = sum(len(one.outcomes) for one in ran)
        wrong = sum(bool(one.findings) for one in ran)
        say(
            f"{total - failed} of {total} tests passed"
            + (f"; {wrong} of {len(ran)} files cannot be run" if wrong else "")
        )
    return 0 if all(one.passed for one in ran) else PolicyError.exit_code


class _Ran:
    """What became of one file."""

    def __init__(self, file: Path, findings: Sequence[Finding]) -> None:
        self.file = file
        self.findings = tuple(findings)
        self.outcomes: list[Outcome] = []
        self.seen: list[str] = []
        self.unseen: list[str] = []

    @property
    def passed(self) -> bool:
        return not self.findings and all(one.passed for one in self.outcomes)


def _files(places: Sequence[Path]) -> list[Path]:
    found = []
    for place in places:
        if place.is_file():
            found.append(place)
        elif place.is_dir():
            found += sorted(place.rglob(PATTERN))
        else:
            raise ConfigError("there is no such file or folder", where=str(place), remedy="name a folder with tests")
    if not found:
        remedy = f"write one as docs/policy.md shows, and call it {PATTERN.replace('*', 'press-line')}"
        raise ConfigError(f"no {PATTERN} there", where=", ".join(map(str, places)), remedy=remedy)
    return found


def _run(file: Path) -> _Ran:
    tests, findings = read_form(file, PolicyTest, case_faults)
    ran = _Ran(file, findings)
    if tests is None:
        return ran
    beside = file.parent / tests.policy
    checked = read_policy(beside if beside.exists() else policy_file(Path(tests.policy)), installed())
    ran.findings = checked.findings
    if checked.policy is not None:
        ran.outcomes, ran.seen, ran.unseen = run_cases(tests, checked.policy)
    return ran


def _document(ran: _Ran) -> dict[str, Any]:
    return {
        "file": str(ran.file),
        "passed": ran.passed,
        "findings": [one.as_json() for one in ran.findings],
        "tests": [
            {"name": one.name, "passed": one.passed, "expected": one.expected, "got": one.got} for one in ran.outcomes
        ],
        "rules_seen_to_fail": ran.seen,
        "rules_never_seen_to_fail": ran.unseen,
    }


def _show(ran: _Ran) -> None:
    click.echo(str(ran.file))
    for finding in ran.findings:
        click.echo(finding.render())
    for one in ran.outcomes:
        click.echo(f"  {'pass' if one.passed else 'FAIL'}  {one.name}")
        if not one.passed:
            click.echo(f"        expected {one.expected}\n        got      {one.got}")
    if ran.outcomes:
        unseen = ", ".join(ran.unseen)
        click.echo(f"  rules never seen to fail: {unseen}" if unseen else "  every rule was seen to fail")
