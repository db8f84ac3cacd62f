"""The JSON Schema of policy files, for editors: completion, what a key means, errors while typing.

Made from the models that read the files, so that an editor and `mhfl policy check` agree. What lies between fields
(tiers that nest, a quorum that can be reached) no schema can say: `check` does.
"""

from typing import Any, Final

from mhfl_mq.policy.checks import Known
from mhfl_mq.policy.documents import KINDS
from mhfl_mq.policy.quantities import show_binary, show_duration

__all__ = ["DIALECT", "json_schema"]

DIALECT: Final = "http://json-schema.org/draft-07/schema#"
"""Of JSON Schema: the newest that yaml-language-server holds files against by all of its rules."""


def json_schema(known: Known | None = None) -> dict[str, Any]:
    """The schema of a policy file; `known` adds the names of what is installed, to be completed and checked."""
    (model,) = KINDS.values()
    schema: dict[str, Any] = _tidied(model.model_json_schema())
    if known is not None:
        parts = schema["$defs"]
        parts["Algorithm"]["properties"]["name"]["enum"] = sorted(known.algorithms)
        if known.stages:
            parts["StageUse"]["properties"]["name"]["enum"] = sorted(known.stages)
        options = parts["AlgorithmOptions"]
        for name in sorted(frozenset[str]().union(*known.algorithms.values()) - options["properties"].keys()):
            options["properties"][name] = {"type": "number", "description": _whose(name, known)}
        options["additionalProperties"] = False
    return {"$schema": DIALECT, "title": "policy of mhfl-mq", **schema}


def _whose(option: str, known: Known) -> str:
    """Which algorithms have an option."""
    having = sorted(name for name, options in known.algorithms.items() if option in options)
    return "of every algorithm" if len(having) == len(known.algorithms) else f"of {', '.join(having)}"


def _tidied(part: Any) -> Any:
    """Without pydantic's titles, and with defaults as a person writes them: with their unit, or not at all."""
    if isinstance(part, list):
        return [_tidied(one) for one in part]
    if not isinstance(part, dict):
        return part
    tidy = {key: _tidied(value) for key, value in part.items() if key not in ("title", "quantity", "properties")}
    if "properties" in part:  # its keys are names of fields, whatever they are called
        tidy["properties"] = {name: _tidied(value) for name, value in part["properties"].items()}
    if tidy.get("default", ...) is None:
        del tidy["default"]
    elif "default" in tidy and "quantity" in part:
        show = show_duration if part["quantity"] == "duration" else show_binary
        tidy["default"] = show(tidy["default"]).replace(" ", "") if tidy["default"] else 0
    return tidy
