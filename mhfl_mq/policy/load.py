"""A policy file -> a `Policy`, or everything that is wrong with it, each finding with its place and a hint.

The way of a file: bytes (size, UTF-8) -> tree with places (`tree`) -> the form (`documents`) and what lies between
the fields (`checks`), both over the same values, so that one look shows all errors.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from mhfl_mq.policy.checks import Known, cross_check
from mhfl_mq.policy.compiled import API_VERSION, Policy
from mhfl_mq.policy.documents import KINDS
from mhfl_mq.policy.findings import Code, Finding, did_you_mean, policy_error
from mhfl_mq.policy.tree import Node, locate, plain, read_tree

__all__ = ["MAX_BYTES", "Checked", "Known", "check_policy", "check_text", "load_policy", "read_policy"]

MAX_BYTES: Final = 256 * 1024
"""Of a policy file: 500 commented lines are 20 KiB, and what is larger is another file."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of a check: the policy, when there is no finding."""

    policy: Policy | None
    findings: tuple[Finding, ...]


def load_policy(path: Path, known: Known | None = None) -> Policy:
    """The policy of a file; raises `PolicyError` that lists every finding."""
    checked = read_policy(path, known)
    if checked.policy is None:
        raise policy_error(str(path), checked.findings)
    return checked.policy


def check_policy(path: Path, known: Known | None = None) -> list[Finding]:
    """Everything that is wrong with a file, in the order of its lines; an unreadable file is a finding too."""
    return list(read_policy(path, known).findings)


def read_policy(path: Path, known: Known | None = None) -> Checked:
    """The policy of a file, or everything that is wrong with it; raises nothing."""
    file = str(path)
    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        says = f"cannot be read: {error.strerror or error}"
        return _only(Finding(file, 0, 0, Code.UNREADABLE, says, "name a policy file; `mhfl init` writes one"))
    if len(data) > MAX_BYTES:
        says = f"larger than {MAX_BYTES // 1024} KiB: not a policy file"
        return _only(Finding(file, 0, 0, Code.TOO_LARGE, says, "check the file's name"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        hint = "save the file as UTF-8"
        return _only(Finding(file, line, column, Code.NOT_UTF8, "not UTF-8 text from here on", hint))
    return check_text(text, file, known)


def check_text(text: str, file: str, known: Known | None = None) -> Checked:
    """As `read_policy`, for a text that is in memory; `file` is the name in the findings."""
    sheet = _Sheet(file, text)
    root = read_tree(text, sheet.report)
    if root is None:
        return Checked(None, sheet.sorted())
    data = plain(root)
    policy = _form(root, data, sheet)
    for fault in cross_check(data, known):
        line, column = locate(root, fault.path, key=fault.key)
        sheet.report(fault.code, line, column, fault.message, fault.hint)
    findings = sheet.sorted()
    return Checked(None if findings else policy, findings)


def _only(finding: Finding) -> Checked:
    return Checked(None, (finding,))


class _Sheet:
    """Collects findings about one text."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._lines = re.split(r"\r\n|\r|\n|\x85|\u2028|\u2029", text)  # the line breaks that PyYAML counts
        self._findings: list[Finding] = []

    def report(self, code: Code, line: int, column: int, message: str, hint: str) -> None:
        source = self._lines[line - 1] if 0 < line <= len(self._lines) else ""
        self._findings.append(Finding(self._file, line, column, code.value, message, hint, source))

    def sorted(self) -> tuple[Finding, ...]:
        return tuple(sorted(set(self._findings)))


# ---- the form -------------------------------------------------------------------------------------------------


def _form(root: Node, data: Any, sheet: _Sheet) -> Policy | None:
    """Hold the values against the model of their kind; None when they do not fit."""
    if not isinstance(data, dict):
        hint = f"a policy begins with apiVersion: {API_VERSION}"
        sheet.report(Code.WRONG_TYPE, root.line, root.column, f"must be a mapping, not {_shown(data)}", hint)
        return None
    kind = data.get("kind")
    model = KINDS.get(kind, KINDS["FederationPolicy"]) if isinstance(kind, str) else KINDS["FederationPolicy"]
    try:
        policy: Policy = model.model_validate(data).compiled()
    except ValidationError as error:
        for one in error.errors(include_url=False):
            _report(one, root, model, sheet)
        return None
    return policy


def _report(error: Any, root: Node, model: type[BaseModel], sheet: _Sheet) -> None:
    """One pydantic error in our words, at its place."""
    path: tuple[str | int, ...] = tuple(error["loc"])
    kind: str = error["type"]
    code, message, hint = _words(kind, error, path, model)
    line, column = locate(root, path, key=kind == "extra_forbidden")
    if message and kind != "extra_forbidden" and kind != "missing":
        message = f"{_dotted(path)}: {message}"
    sheet.report(code, line, column, message, hint)


def _words(kind: str, error: Any, path: Sequence[str | int], model: type[BaseModel]) -> tuple[Code, str, str]:
    """Code, message and hint of a pydantic error."""
    context, value = error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        where = _dotted(path[:-1])
        return Code.UNKNOWN_KEY, f"unknown key '{path[-1]}' in {where}", did_you_mean(path[-1], _keys(model, path))
    if kind == "missing":
        return Code.MISSING_KEY, f"{_dotted(path[:-1])} needs the key '{path[-1]}'", _missing_hint(path)
    if kind in ("quantity", "cohort", "option"):
        code = Code.QUANTITY if kind == "quantity" else Code.WRONG_TYPE
        return code, error["msg"], context.get("hint", "")
    if kind == "literal_error":
        expected = [word.strip("'") for word in re.split(r", | or ", context["expected"])]
        return Code.OUT_OF_RANGE, f"{_shown(value)} is not one of {context['expected']}", did_you_mean(value, expected)
    if kind in _TYPES:
        return Code.WRONG_TYPE, f"must be {_TYPES[kind]}, not {_shown(value)}", _type_hint(kind, value)
    if kind in _PATTERNS:
        return Code.OUT_OF_RANGE, _PATTERNS[kind].format(value=_shown(value), **context), ""
    return Code.OUT_OF_RANGE, f"{error['msg']} (it is {_shown(value)})", ""


_TYPES: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_PATTERNS: Final = {
    "greater_than": "must be more than {gt}, not {value}",
    "greater_than_equal": "must be at least {ge}, not {value}",
    "less_than_equal": "must be at most {le}, not {value}",
    "finite_number": "must be a finite number, not {value}",
    "too_short": "must have at least {min_length} entry",
    "too_long": "must have at most {max_length} entries",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "{value} is not a name: 1 to 64 of A-Z a-z 0-9 _ -",
}


def _dotted(path: Sequence[str | int]) -> str:
    """`spec.tiers[1].budget`; the root is called the file."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "the file"


def _shown(value: object) -> str:
    """A value as it stands in the file, as far as that fits in a sentence."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return f"'{value[:40]}{'…' if len(value) > 40 else ''}'"
        case _:
            return str(value)


def _type_hint(kind: str, value: object) -> str:
    if value is None:
        return "give it a value, or remove the line"
    if kind in ("float_type", "int_type") and isinstance(value, str):
        percent = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,6})?) ?%", value)
        if percent:
            return f"write {float(percent[1]) / 100:g}"
        if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", value):
            return f"write {value} without quotes"
    if kind == "string_type" and not isinstance(value, dict | list):
        return f'write "{_shown(value)}" in quotes'
    return ""


def _missing_hint(path: Sequence[str | int]) -> str:
    hints = {
        "apiVersion": f"begin the file with apiVersion: {API_VERSION}",
        "kind": f"write kind: {' or '.join(KINDS)}",
        "metadata": "write metadata: {name: my-federation}",
        "algorithm": "write algorithm: {name: heterofl}",
        "tiers": "list the tiers, smallest first",
    }
    return hints.get(str(path[-1]), "")


def _keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that are known where an unknown one stands."""
    part: Any = model
    for step in path[:-1]:
        if isinstance(step, str) and isinstance(part, type) and issubclass(part, BaseModel):
            field = part.model_fields.get(step)
            part = _model_in(field.annotation) if field is not None else None
    return sorted(part.model_fields) if isinstance(part, type) and issubclass(part, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The model behind `Tier`, `list[Tier]` or `Annotated[list[Tier], ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [_model_in(argument) for argument in getattr(annotation, "__args__", ())]
    return next((one for one in inner if one is not None), None)
