"""What is wrong with a policy file: findings with a stable code at file:line:column, and how they are shown."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mhfl_mq.errors import PolicyError

__all__ = ["Code", "Finding", "did_you_mean", "nearest", "policy_error", "printable"]


class Code(StrEnum):
    """The stable codes; their table for people stands in docs/policy.md. A number is never given a new meaning."""

    UNREADABLE = "POL001"
    NOT_UTF8 = "POL002"
    TOO_LARGE = "POL003"
    SYNTAX = "POL004"
    DUPLICATE_KEY = "POL005"
    TOO_COMPLEX = "POL006"
    NOT_ONE_DOCUMENT = "POL007"
    NOT_PLAIN = "POL008"
    UNKNOWN_KEY = "POL010"
    MISSING_KEY = "POL011"
    WRONG_TYPE = "POL012"
    OUT_OF_RANGE = "POL013"
    QUANTITY = "POL014"
    TIME = "POL015"
    NAME_TWICE = "POL020"
    NOT_NESTED = "POL021"
    QUORUM = "POL022"
    CHUNKS = "POL023"
    UNKNOWN_ALGORITHM = "POL024"
    UNKNOWN_STAGE = "POL025"
    UNKNOWN_OPTION = "POL026"
    DEADLINE = "POL027"
    STAGE_ORDER = "POL028"
    TIER_COUNT = "POL029"
    COMMUNICATION = "POL030"
    ARCHITECTURE = "POL031"
    SCHEDULE = "POL032"
    RULE = "POL033"
    KPI = "POL034"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong. Line and column count from 1, columns in characters; 0: the file as a whole."""

    file: str
    line: int
    column: int
    code: str
    message: str
    hint: str = ""
    source: str = field(default="", compare=False)  # the text of the line

    def as_json(self) -> dict[str, str | int]:
        """The keys that scripts may rely on."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        }

    def render(self) -> str:
        """The finding as people read it: where, what, the line with a caret under the place, and the hint."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        shown = [f"{printable(place)}: {self.code}: {printable(self.message)}"]
        if self.line and self.source.strip():
            number = f"{self.line:>5} | "
            shown.append(number + printable(self.source))
            before = printable(self.source[: self.column - 1])
            shown.append(" " * (len(number) - 2) + "| " + " " * _cells(before) + "^")
        if self.hint:
            shown.append(f"      = hint: {printable(self.hint)}")
        return "\n".join(shown)


def policy_error(file: str, findings: Sequence[Finding]) -> PolicyError:
    """The error that lists every finding."""
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    listed = "\n".join(finding.render() for finding in findings)
    return PolicyError(f"the policy is not valid: {count}\n{listed}", where=file)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A hint: the known word that is nearest, or all of them when none is near."""
    words = sorted(known)
    near = nearest(word, words)
    if near:
        return f"did you mean '{near}'?"
    return f"known here: {', '.join(words)}" if words else ""


def nearest(word: object, known: Iterable[str]) -> str:
    """The known word that a person may have meant; empty when none is near."""
    folded = {name.casefold().replace("-", "_"): name for name in known}
    near = difflib.get_close_matches(str(word).casefold().replace("-", "_"), folded, n=1)
    return folded[near[0]] if near else ""


def printable(text: str) -> str:
    """Text that cannot move a terminal's cursor or colour it: a tab becomes a blank, other controls a mark."""
    return "".join(
        " " if char == "\t" else "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in _HIDDEN else char
        for char in text
    )


_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _cells(text: str) -> int:
    """Terminal cells of a text: East Asian wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
