"""Draws docs/state-machines.md from the tables of mhfl_mq/protocol/states.py (run it after changing them)."""

from enum import Enum
from pathlib import Path
from typing import Any

from mhfl_mq.protocol.states import TABLES, Table

PAGE = Path(__file__).parent.parent / "docs" / "state-machines.md"

HEAD = """# State machines

Drawn by `scripts/draw_states.py` from `mhfl_mq/protocol/states.py`; a test fails when this page is stale.
A step that a state does not have raises `LocalMisuse` and changes nothing.

A device runs two machines side by side: its *standing* with the aggregator and its *work* in a round, because a lost
connection or a restarted aggregator does not stop a training. The aggregator runs the *federation* and, while one is
open, a *round*.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(table) for table in TABLES)])


def section(table: Table[Any, Any]) -> str:
    """One machine: a diagram, and the words for its states."""
    lines = [f"## {table.name.capitalize()}", "", (type(table.start).__doc__ or "").strip(), "", "```mermaid"]
    lines += ["stateDiagram-v2", f"    [*] --> {name(table.start)}"]
    for state, row in table.rows.items():
        arrows: dict[Enum, list[str]] = {}
        for step, after in row.items():
            arrows.setdefault(after, []).append(step.value)
        lines += [f"    {name(state)} --> {name(after)}: {', '.join(steps)}" for after, steps in arrows.items()]
        if not row:
            lines.append(f"    {name(state)} --> [*]")
    return "\n".join([*lines, "```", ""])


def name(state: Enum) -> str:
    """A state as mermaid takes it."""
    return str(state.value).replace(" ", "_")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
