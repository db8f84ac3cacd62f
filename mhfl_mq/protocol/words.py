"""Text for people, in the bounds that the wire sets: reasons are made from parts that others wrote."""

from typing import Final

__all__ = ["plain"]

TEXT_LIMIT: Final = 512
"""Characters of a reason: what `mhfl_mq.wire.bounds.Text` allows (a test holds the two together)."""


def plain(text: str) -> str:
    """The text in one line, printable and short enough for a message."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - 1] + "…"
