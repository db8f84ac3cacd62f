"""The page about the algorithms says what the code has."""

import re
from pathlib import Path

from mhfl_mq.families import Constraint, algorithm_names, choose_algorithm
from mhfl_mq.train.steps.registry import METHODS

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text()


def test_every_algorithm_has_its_row_and_every_row_an_algorithm() -> None:
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE))
    assert rows == set(algorithm_names()) - {"fedavg"}


def test_every_algorithm_has_both_halves() -> None:
    assert METHODS.keys() == set(algorithm_names())


def test_the_table_of_auto_is_what_auto_does() -> None:
    for constraint in Constraint:
        for widths, depths, column in ((True, False, 1), (False, True, 2), (True, True, 3)):
            word = {Constraint.NONE: "nothing", Constraint.FOREIGN: "foreign"}.get(constraint, constraint.value)
            row = next(line for line in PAGE.splitlines() if re.match(rf"\| [a-z, ]*{word}", line) and "`" in line)
            cell = row.split("|")[1 + column].strip() or row.split("|")[2].strip()
            assert cell == f"`{choose_algorithm(constraint, widths=widths, depths=depths).algorithm}`", (
                constraint,
                row,
            )
