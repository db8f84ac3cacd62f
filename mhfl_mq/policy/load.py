"""A policy file -> a `Policy`, or everything that is wrong with it, each finding with its place and a hint.

The way of a file: bytes (size, UTF-8) -> tree with places (`tree`) -> the form (`documents`) and what lies between
the fields (`checks`), both over the same values, so that one look shows all errors.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from mhfl_mq.policy.checks import Fault, Known, cross_check
from mhfl_mq.policy.compiled import API_VERSION, Policy
from mhfl_mq.policy.documents import KINDS
from mhfl_mq.policy.findings import Code, Finding, policy_error
from mhfl_mq.policy.tree import Node, locate, plain, read_tree
from mhfl_mq.policy.words import dotted, shown, words_for
from mhfl_mq.shipped import shipped

__all__ = ["MAX_BYTES", "Checked", "Known", "check_policy", "check_text", "load_policy", "read_form", "read_policy"]

MAX_BYTES: Final = 256 * 1024
"""Of a policy file: 500 commented lines are 20 KiB, and what is larger is another file."""


_FIRST: Final = KINDS["FederationPolicy"]


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
    text = _text(path)
    return _only(text) if isinstance(text, Finding) else check_text(text, str(path), known)


def read_form(
    path: Path, model: type[BaseModel], check: Callable[[Any], Iterable[Fault]] = lambda _data: ()
) -> tuple[Any, tuple[Finding, ...]]:
    """Another kind of file that is written and checked as policies are: its model's value, or None and the findings.

    `check` gives what lies between the fields, from the file's plain values. Raises nothing.
    """
    text = _text(path)
    if isinstance(text, Finding):
        return None, (text,)
    sheet = _Sheet(str(path), text)
    root = read_tree(text, sheet.report)
    if root is None:
        return None, sheet.sorted()
    data = plain(root)
    value = _form(root, data, sheet, model)
    for fault in check(data):
        sheet.report(fault.code, *locate(root, fault.path, key=fault.key), fault.message, fault.hint)
    findings = sheet.sorted()
    return None if findings else value, findings


def _text(path: Path) -> str | Finding:
    """A file's text, or why it cannot be read."""
    file = str(path)
    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        says = f"cannot be read: {error.strerror or error}"
        hint = f"name a policy file, or one that ships ({', '.join(_shipped_names())}); `mhfl init` writes one"
        return Finding(file, 0, 0, Code.UNREADABLE, says, hint)
    if len(data) > MAX_BYTES:
        says = f"larger than {MAX_BYTES // 1024} KiB: not a policy file"
        return Finding(file, 0, 0, Code.TOO_LARGE, says, "check the file's name")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        hint = "save the file as UTF-8"
        return Finding(file, line, column, Code.NOT_UTF8, "not UTF-8 text from here on", hint)


def check_text(text: str, file: str, known: Known | None = None) -> Checked:
    """As `read_policy`, for a text that is in memory; `file` is the name in the findings."""
    sheet = _Sheet(file, text)
    root = read_tree(text, sheet.report)
    if root is None:
        return Checked(None, sheet.sorted())
    data = plain(root)
    kind = data.get("kind") if isinstance(data, dict) else None
    policy = _form(root, data, sheet, KINDS.get(kind, _FIRST) if isinstance(kind, str) else _FIRST)
    for fault in cross_check(data, known):
        line, column = locate(root, fault.path, key=fault.key)
        sheet.report(fault.code, line, column, fault.message, fault.hint)
    findings = sheet.sorted()
    return Checked(None if findings else policy, findings)


def _shipped_names() -> list[str]:
    files = (file.name for file in shipped("policies").iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


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


def _form(root: Node, data: Any, sheet: _Sheet, model: Any) -> Any:
    """Hold the values against their model; None when they do not fit."""
    if not isinstance(data, dict):
        hint = f"a policy begins with apiVersion: {API_VERSION}"
        sheet.report(Code.WRONG_TYPE, root.line, root.column, f"must be a mapping, not {shown(data)}", hint)
        return None
    try:
        return model.model_validate(data).compiled()
    except ValidationError as error:
        for one in error.errors(include_url=False):
            _report(one, root, model, sheet)
        return None


def _report(error: Any, root: Node, model: type[BaseModel], sheet: _Sheet) -> None:
    """One pydantic error in our words, at its place."""
    path: tuple[str | int, ...] = tuple(error["loc"])
    kind: str = error["type"]
    of_key = path[-1:] == ("[key]",)
    path = path[:-1] if of_key else path
    code, message, hint = words_for(kind, error, path, model)
    if kind == "missing":  # the place of what it is missing in, as editors mark it
        line, column = locate(root, path[:-1], key=True)
    else:
        line, column = locate(root, path, key=of_key or kind == "extra_forbidden")
    if message and kind != "extra_forbidden" and kind != "missing":
        message = f"{dotted(path)}: {message}"
    sheet.report(code, line, column, message, hint)
