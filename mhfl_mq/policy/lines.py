"""Where in a policy file a rule stands, by the name that it has in reasons: the line that a person would change."""

from pathlib import Path
from typing import Final

from mhfl_mq.policy.tree import Node, locate, read_tree

__all__ = ["rule_lines"]

_KEYS: Final = (
    "schedule.cron",
    "schedule.windows",
    "schedule.blackouts",
    "schedule.per_device.min_interval",
    "schedule.per_device.upload_per_day",
    "schedule.per_device.training_per_day",
    "schedule.per_device.quiet_on_battery",
    "participation.cooldown",
    "participation.largest_share",
)
"""Rules that are keys of the file."""


def rule_lines(path: Path) -> dict[str, int]:
    """The line of each rule of a file that was read before; rules that it does not have are left out."""
    root = read_tree(path.read_text("utf-8-sig"), lambda *_: None)
    if root is None:
        return {}
    lines = {name: line for name in _KEYS if (line := _line(root, ("spec", *name.split("."))))}
    for part in ("require", "forbid"):
        rules = _under(root, ("spec", "participation", part))
        for index, rule in enumerate(rules.value if rules is not None and isinstance(rules.value, list) else ()):
            name = rule.value.get("name") if isinstance(rule.value, dict) else None
            if name is not None:
                lines[str(name.value)] = locate(root, ("spec", "participation", part, index))[0]
    return lines


def _under(root: Node, path: tuple[str, ...]) -> Node | None:
    node: Node | None = root
    for step in path:
        node = node.value.get(step) if node is not None and isinstance(node.value, dict) else None
    return node


def _line(root: Node, path: tuple[str, ...]) -> int:
    return locate(root, path, key=True)[0] if _under(root, path) is not None else 0
