"""Topic filters: which topics `+` and `#` match (MQTT 3.1.1, section 4.7)."""

from functools import lru_cache

__all__ = ["matches"]


@lru_cache(maxsize=16_384)  # a broker asks the same questions for each message
def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter matches a topic; a wildcard in front does not match topics that start with `$`."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if levels[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True  # the parent too: `a/#` matches `a`
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)
