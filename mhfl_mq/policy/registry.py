"""The registry of a policy: which tags a device has, by its id or a pattern."""

from collections.abc import Sequence

from mhfl_mq.policy.compiled import Registered

__all__ = ["fits", "tags_of"]


def tags_of(device: str, registered: Sequence[Registered]) -> tuple[str, ...]:
    """All tags of the entries that fit a device, each once, in their order."""
    return tuple(dict.fromkeys(tag for one in registered if fits(one.pattern, device) for tag in one.tags))


def fits(pattern: str, text: str) -> bool:
    """Whether a text is as a pattern says, where `*` stands for any letters; in linear time, whatever the pattern."""
    first, *middle = pattern.split("*")
    if not middle:
        return text == first
    *middle, last = middle
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
