"""Write the generated parts of docs/wire.md (messages with their fields and bounds) from the dataclasses.

python scripts/wire_tables.py            # rewrite the file; a test fails when it is stale
"""

import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mhfl_mq.wire.messages import Manifest, Message, ProbeResult, TierSpec
from mhfl_mq.wire.schema import says

DOCUMENT = Path(__file__).parent.parent / "docs" / "wire.md"
BEGIN = "<!-- messages: written by scripts/wire_tables.py -->\n"
END = "<!-- end of messages -->\n"


def section(cls: type) -> str:
    """One class: its kind, its docstring, and a row for each field."""
    assert is_dataclass(cls)
    kind = getattr(cls, "kind", "")
    title = f"### {cls.__name__}" + (f" (`{kind}`)" if kind else ", a part of messages")
    hints: dict[str, Any] = get_type_hints(cls, include_extras=True)
    later = dict.fromkeys(getattr(cls, "added", ()), "; left out when empty")
    rows = [f"| `{one.name}` | {says(hints[one.name])}{later.get(one.name, '')} |" for one in fields(cls)]
    return "\n".join([title, "", inspect.getdoc(cls) or "", "", "| field | holds |", "|---|---|", *rows, ""])


def tables() -> str:
    """All messages, then the parts that they hold."""
    return "\n".join(section(cls) for cls in (*get_args(Message), Manifest, TierSpec, ProbeResult))


def written(text: str) -> str:
    """The document with its generated part made anew."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{tables()}\n{END}{tail}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8")), "utf-8")
