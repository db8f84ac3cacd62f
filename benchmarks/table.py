"""One row of a benchmark: ours, the reference measured beside it, their ratio, and the bound."""

from typing import TypedDict

__all__ = ["Row", "at_most", "note"]


class Row(TypedDict):
    """`ok` is None where there is no bound: the row is for reading."""

    name: str
    ours: float
    reference: float | None
    ratio: float | None
    bound: str
    ok: bool | None


def at_most(name: str, ours: float, bound: float, *, reference: float | None = None) -> Row:
    """`ours` (or its ratio to the reference) may be at most `bound`."""
    ratio = None if reference is None else ours / reference
    value = ours if ratio is None else ratio
    return Row(name=name, ours=ours, reference=reference, ratio=ratio, bound=f"<= {bound:g}", ok=value <= bound)


def note(name: str, ours: float) -> Row:
    """A figure without a bound."""
    return Row(name=name, ours=ours, reference=None, ratio=None, bound="", ok=None)
