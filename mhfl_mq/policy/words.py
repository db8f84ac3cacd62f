"""What pydantic finds, in our words: every finding says what is wrong and what to write instead."""

import re
from collections.abc import Sequence
from typing import Any, Final, get_origin

from pydantic import BaseModel

from mhfl_mq.policy.compiled import API_VERSION
from mhfl_mq.policy.documents import KINDS
from mhfl_mq.policy.findings import Code, did_you_mean
from mhfl_mq.policy.quantities import show_binary, show_duration

__all__ = ["dotted", "shown", "words_for"]


def words_for(kind: str, error: Any, path: Sequence[str | int], model: type[BaseModel]) -> tuple[Code, str, str]:
    """Code, message and hint of a pydantic error."""
    context, value = error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        where = dotted(path[:-1])
        return Code.UNKNOWN_KEY, f"unknown key '{path[-1]}' in {where}", did_you_mean(path[-1], _keys(model, path))
    if kind == "missing":
        return Code.MISSING_KEY, f"{dotted(path[:-1])} needs the key '{path[-1]}'", _missing_hint(path)
    if kind in _OURS:
        return _OURS[kind], error["msg"], context["hint"]
    if kind == "literal_error":
        expected = [word.strip("'") for word in re.split(r", | or ", context["expected"])]
        return Code.OUT_OF_RANGE, f"{shown(value)} is not one of {context['expected']}", did_you_mean(value, expected)
    if kind in _TYPES:
        return (
            Code.WRONG_TYPE,
            f"must be {_TYPES[kind]}, not {shown(value)}",
            _type_hint(kind, value, _keys(model, (*path, ""))),
        )
    if kind in _PATTERNS:
        message, hint = _PATTERNS[kind]
        facts = {"value": _in_units(path, value), "name": _as_name(value)}
        facts |= {name: _in_units(path, bound) for name, bound in context.items()}
        return Code.OUT_OF_RANGE, message.format(**facts), hint.format(**facts)
    return Code.OUT_OF_RANGE, f"{error['msg']} (it is {shown(value)})", "docs/policy.md says what is allowed here"


_OURS: Final = {
    "quantity": Code.QUANTITY,
    "time": Code.TIME,
    "condition": Code.RULE,
    "kpi": Code.KPI,
    "cohort": Code.WRONG_TYPE,
    "option": Code.WRONG_TYPE,
}
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
    "greater_than": ("must be more than {gt}, not {value}", "write more than {gt}"),
    "greater_than_equal": ("must be at least {ge}, not {value}", "write {ge} or more"),
    "less_than_equal": ("must be at most {le}, not {value}", "write {le} or less"),
    "finite_number": ("must be a finite number, not {value}", "write a number, e.g. 0.5"),
    "too_short": ("must have at least {min_length} entry", "add one"),
    "too_long": ("must have at most {max_length} entries", "remove those that are too many"),
    "string_too_long": ("must have at most {max_length} characters", "make it shorter"),
    "string_pattern_mismatch": ("{value} is not a name: 1 to 64 of A-Z a-z 0-9 _ -", "write e.g. {name}"),
}
_EXAMPLES: Final = {
    "string_type": "write a text in quotes",
    "int_type": "write a whole number, e.g. 20",
    "int_from_float": "write a whole number, e.g. 20",
    "float_type": "write a number, e.g. 0.5",
    "bool_type": "write true or false",
    "list_type": "write a list: its entries on lines that begin with a dash, or in [ ]",
}
_DURATIONS: Final = frozenset(
    {
        "deadline",
        "interval",
        "transfer",
        "within",
        "duration",
        "jitter",
        "cooldown",
        "window",
        "min_interval",
        "training_per_day",
    }
)


def _is_size(key: str) -> bool:
    return key.endswith("_bytes") or key == "upload_per_day"


def _in_units(path: Sequence[str | int], value: object) -> str:
    """A value or a bound as a person would write it in this place."""
    key = str(path[-1]) if path else ""
    if isinstance(value, str) and (_is_size(key) or key in _DURATIONS):
        return value[:40]
    if not isinstance(value, int | float) or isinstance(value, bool):
        return shown(value)
    if _is_size(key) and value > 0:
        return show_binary(int(value))
    if key in _DURATIONS and value > 0:
        return show_duration(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _as_name(value: object) -> str:
    """The name that a person may have meant."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", str(value)).strip("-")[:64] or "line-3"


def dotted(path: Sequence[str | int]) -> str:
    """`spec.tiers[1].budget`; the root is called the file."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "the file"


def shown(value: object) -> str:
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


def _type_hint(kind: str, value: object, keys: Sequence[str]) -> str:
    if value is None:
        return "give it a value, or remove the line"
    if kind in ("float_type", "int_type") and isinstance(value, str):
        percent = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,6})?) ?%", value)
        if percent:
            return f"write {float(percent[1]) / 100:g}"
        if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", value):
            return f"write {value} without quotes"
    if kind == "string_type" and not isinstance(value, dict | list):
        return f'write "{shown(value)}" in quotes'
    if kind in _EXAMPLES:
        return _EXAMPLES[kind]
    if isinstance(value, str) and "name" in keys:
        return f"write {{name: {value[:40]}}}"
    return f"write it with keys: {', '.join(keys)}" if keys else "write it as {key: value}"


def _missing_hint(path: Sequence[str | int]) -> str:
    hints = {
        "apiVersion": f"begin the file with apiVersion: {API_VERSION}",
        "kind": f"write kind: {' or '.join(KINDS)}",
        "metadata": "write metadata: {name: my-federation}",
        "algorithm": "write algorithm: {name: heterofl}",
        "tiers": "list the tiers, smallest first",
    }
    return hints.get(str(path[-1]), f"add {path[-1]}: ..., as in docs/policy.md")


def _keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that are known where an unknown one stands."""
    part: Any = model
    of_mapping = False  # the next step is a key of the file's own, not of a model
    for step in path[:-1]:
        if of_mapping:
            of_mapping = False
        elif isinstance(step, str) and isinstance(part, type) and issubclass(part, BaseModel):
            field = part.model_fields.get(step)
            of_mapping = field is not None and get_origin(field.annotation) is dict
            part = _model_in(field.annotation) if field is not None else None
    return sorted(part.model_fields) if isinstance(part, type) and issubclass(part, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The model behind `Tier`, `list[Tier]` or `Annotated[list[Tier], ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [_model_in(argument) for argument in getattr(annotation, "__args__", ())]
    return next((one for one in inner if one is not None), None)
