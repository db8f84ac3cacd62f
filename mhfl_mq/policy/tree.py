"""YAML text -> a tree of values that know their place, read by YAML 1.2's core rules.

PyYAML gives the events; what they mean is decided here, because its own resolver follows YAML 1.1: `yes` would be
true, `12:30` would be 750, `012` would be 10, `1e-5` would be text, and of two equal keys the last would win
silently. Built with a stack of our own, so that deep nesting costs no recursion, and with counted aliases, so that a
small file cannot become a large one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from mhfl_mq.policy.findings import Code

__all__ = ["MAX_DEPTH", "MAX_VALUES", "Node", "Report", "locate", "plain", "read_tree"]

MAX_DEPTH: Final = 24
"""Levels of nesting: a policy has six; readers are lost long before 24."""
_LIBYAML_TOO_DEEP: Final = "exceeded maximum nesting depth"  # from libyaml 0.2.6 on, at 1000 levels
MAX_VALUES: Final = 20_000
"""Values after aliases are counted out: a policy of 500 lines has about 1,000."""

Scalar = str | int | float | bool | None
Report = Callable[[Code, int, int, str, str], None]
"""Called with code, line, column, message, hint."""

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is there in every usual wheel


@dataclass(slots=True)
class Node:
    """A value and where it begins (line and column from 1). `keys` holds the places of a mapping's keys."""

    value: Scalar | dict[str, "Node"] | list["Node"]
    line: int
    column: int
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 1  # values in it, aliases counted out
    height: int = 1  # levels in it


class _Stop(Exception):
    """The rest of the text cannot be read with sense; the reason was reported."""


class _LooksTooFar(Exception):
    """libyaml met deep nesting far ahead of what it has handed over, and cannot say where our limit is passed."""


def read_tree(text: str, report: Report, loader: Any = _LOADER) -> Node | None:
    """The one document of `text`; None when there is none to be had, and then `report` was told why."""
    reports: list[tuple[Any, ...]] = []
    try:
        root = _read(text, lambda *one: reports.append(one), loader)
    except _LooksTooFar:
        reports.clear()
        root = _read(text, lambda *one: reports.append(one), yaml.SafeLoader)
    for one in reports:
        report(*one)
    return root


def _read(text: str, report: Report, loader: Any) -> Node | None:
    builder = _Builder(report)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except _Stop:
        return None
    except yaml.reader.ReaderError as error:
        line, column = _place(text, error.position)
        report(Code.SYNTAX, line, column, "a character that YAML does not allow", "remove it or write it as \\uXXXX")
        return None
    except yaml.MarkedYAMLError as error:
        if error.problem == _LIBYAML_TOO_DEEP:
            raise _LooksTooFar from None
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        says = " ".join(part for part in (error.context, error.problem) if part)
        report(Code.SYNTAX, line, column, f"not YAML: {says}", _syntax_hint(text, line))
        return None
    if builder.root is None:
        report(Code.NOT_ONE_DOCUMENT, 1, 1, "the file has no content", "`mhfl init` writes a policy to start from")
    return builder.root


def plain(node: Node) -> Any:
    """The values alone: dicts, lists and scalars."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def locate(root: Node, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
    """Line and column of the value at `path` (of its key, with `key`), or of the nearest part that is there."""
    node, place = root, (root.line, root.column)
    for depth, step in enumerate(path):
        child = None
        if isinstance(node.value, dict) and isinstance(step, str):
            child = node.value.get(step)
        elif isinstance(node.value, list) and isinstance(step, int) and 0 <= step < len(node.value):
            child = node.value[step]
        if child is None:
            # What is missing is missing in `node`: its key says where, better than its first value.
            return place
        last = depth == len(path) - 1
        named = node.keys.get(str(step))
        # A mapping in block style begins on the line after its key; the key is what a person looks for.
        block = isinstance(child.value, dict) and named is not None and child.line > named[0]
        place = named if named is not None and ((last and key) or block) else (child.line, child.column)
        node = child
    return place


# ---- building -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A mapping or a sequence that is being read, and the key whose value comes next."""

    node: Node
    anchor: str | None
    key: str | None = None
    waiting: bool = False  # a key was read: the next node is its value


class _Builder:
    """Takes events, makes nodes."""

    def __init__(self, report: Report) -> None:
        self.root: Node | None = None
        self._report = report
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0

    def take(self, event: Any) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    hint = "keep one document per file; remove the line with ---"
                    self._stop(Code.NOT_ONE_DOCUMENT, line, column, "a second document begins here", hint)
            case yaml.ScalarEvent():
                self._tag(event, line, column)
                self._letters(event.value, line, column)
                self._add(Node(_scalar(event), line, column), event.anchor)
            case yaml.AliasEvent():
                self._alias(event, line, column)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._tag(event, line, column)
                empty: dict[str, Node] | list[Node] = {} if isinstance(event, yaml.MappingStartEvent) else []
                self._stack.append(_Open(Node(empty, line, column), event.anchor))
                self._bound(line, column, 0)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                closed = self._stack.pop()
                self._add(closed.node, closed.anchor)

    def _tag(self, event: Any, line: int, column: int) -> None:
        if event.tag is not None:
            hint = "write the value without the tag; quote it when it must be text"
            self._report(Code.NOT_PLAIN, line, column, f"a tag ({event.tag}) is not allowed in a policy", hint)

    def _letters(self, text: str, line: int, column: int) -> None:
        """Half a character (`\\ud800`) cannot be written to a ledger, a file or a terminal again."""
        if any("\ud800" <= char <= "\udfff" for char in text):
            hint = "write the whole character, or \\U and its eight digits"
            self._report(Code.NOT_PLAIN, line, column, "an escape stands for half a character", hint)

    def _alias(self, event: Any, line: int, column: int) -> None:
        found = self._anchors.get(event.anchor)
        if found is None:
            hint = f"write &{event.anchor} before the value that is meant, above this line"
            self._stop(Code.NOT_PLAIN, line, column, f"*{event.anchor} stands for nothing", hint)
        else:
            self._bound(line, column, found.height)
            self._add(found, None)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self.root = node
            return
        parent = self._stack[-1]
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
        elif parent.waiting:
            parent.waiting = False
            if parent.key is not None and isinstance(parent.node.value, dict):
                parent.node.value[parent.key] = node
        else:
            parent.waiting = True
            parent.key = self._key(parent.node, node)
        parent.node.size += node.size
        parent.node.height = max(parent.node.height, node.height + 1)
        self._bound(node.line, node.column, 0)

    def _key(self, mapping: Node, node: Node) -> str | None:
        """The name of a key that counts; None when its value is to be left out."""
        if not isinstance(node.value, str):
            shown = "a list or a mapping" if isinstance(node.value, dict | list) else f"{node.value!r}"
            hint = "write a word, or put it in quotes"
            self._report(Code.NOT_PLAIN, node.line, node.column, f"a key must be text, not {shown}", hint)
            return None
        first = mapping.keys.setdefault(node.value, (node.line, node.column))
        if first != (node.line, node.column):
            message = f"key '{node.value}' is written twice (first on line {first[0]})"
            self._report(Code.DUPLICATE_KEY, node.line, node.column, message, "keep one of them")
            return None
        return node.value

    def _bound(self, line: int, column: int, more: int) -> None:
        if len(self._stack) + more > MAX_DEPTH:
            hint = f"at most {MAX_DEPTH} levels"
            self._stop(Code.TOO_COMPLEX, line, column, "the values are nested too deeply", hint)
        if self._stack and self._stack[-1].node.size > MAX_VALUES:
            hint = f"at most {MAX_VALUES} values, each alias counted with all that it stands for"
            self._stop(Code.TOO_COMPLEX, line, column, "the file holds too many values", hint)

    def _stop(self, code: Code, line: int, column: int, message: str, hint: str) -> None:
        self._report(code, line, column, message, hint)
        raise _Stop


# ---- YAML 1.2, core schema (section 10.3.2) -------------------------------------------------------------------

_NULLS: Final = frozenset({"", "null", "Null", "NULL", "~"})
_BOOLS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]+")
_OCTAL: Final = re.compile(r"0o[0-7]+")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE: Final = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NAN: Final = frozenset({".nan", ".NaN", ".NAN"})
_LONGEST_NUMBER: Final = 64  # characters; int() of endless digits takes endless time


def _scalar(event: Any) -> Scalar:
    """The value of a scalar: quoted ones are text, plain ones follow the core schema."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    return _constant(text) if len(text) <= _LONGEST_NUMBER else text


def _constant(text: str) -> Scalar:
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text, 10)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinite := _INFINITE.fullmatch(text):
        return float(infinite[1] + "inf")
    return float("nan") if text in _NAN else text


def _place(text: str, position: int) -> tuple[int, int]:
    """Line and column of a character by its number."""
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _syntax_hint(text: str, line: int) -> str:
    lines = text.splitlines()
    source = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in source[: len(source) - len(source.lstrip())]:
        return "indent with blanks: YAML does not allow tabs"
    return "check the indentation, the colon after each key, and quotes and brackets that are not closed"
