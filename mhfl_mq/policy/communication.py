"""How a device's update travels: the cheapest loss that its link's budget allows, and how often one is asked for.

A pure decision like those of `mhfl_mq.policy.decide`. The ways are tried from the best to the smallest: float32,
float16, int8, int8 with only the largest coordinates, and then less often. Each has no more bytes per round than the
one before, and the first that fits is taken, so a slower link never gets more bytes per second. Less often comes last:
a device that is not asked adds nothing, while what is rounded away is made up for by the next update.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mhfl_mq.policy.compiled import Communication
from mhfl_mq.policy.decide import BYTES_PER_COORDINATE, Decision, Reason
from mhfl_mq.policy.quantities import MAX_SECONDS, show_bytes, show_duration

__all__ = ["How", "choose", "upload_bytes", "ways"]

SHARES: Final = (0.5, 0.25, 0.1)
"""Of an update's coordinates, where int8 of all is too much."""
PAUSES: Final = (2, 4, 8, 16)
"""Where the smallest update is too much for every round, one in so many."""
_HEADER: Final = 36  # bytes; `mhfl_mq.segments.compacted`, as the rest here
_SCALED: Final = 1024  # values that share a scale of 4 bytes
_GAP: Final = 255  # coordinates that one byte can pass over


@dataclass(frozen=True, slots=True)
class How:
    """One way: bits of a value, the share of coordinates that is sent, and every how many rounds."""

    precision: int = 32
    top_k: float = 1.0
    every: int = 1

    @property
    def plain(self) -> bool:
        """Whether nothing is lost in an update."""
        return self.precision == 32 and self.top_k == 1.0

    def __str__(self) -> str:
        words = [f"int{self.precision}" if self.precision == 8 else f"float{self.precision}"]
        words += [f"the largest {self.top_k * 100:g} %"] if self.top_k < 1.0 else []
        words += [f"every {self.every} rounds"] if self.every > 1 else []
        return ", ".join(words)


def upload_bytes(coordinates: int, how: How) -> int:
    """The most bytes that an update of so many coordinates has when it is sent in this way."""
    raw = BYTES_PER_COORDINATE * coordinates
    if how.plain:
        return raw
    kept = min(coordinates, int(how.top_k * coordinates) + 1)
    index = 0 if how.top_k == 1.0 else min((coordinates + 7) // 8, kept + coordinates // _GAP)
    scales = 0 if how.precision == 32 else 4 * (-(-kept // _SCALED))
    return min(raw, _HEADER + index + scales + kept * how.precision // 8)


def choose(
    link_bytes_s: float, coordinates: int, budget_s: float, last_change: float | None, rules: Communication
) -> Decision[How]:
    """How a device with this link sends its next update of so many coordinates.

    `budget_s` is how long an upload may take in a round, `last_change` the norm of the device's last update over that
    of the model it began from (None: it sent none yet). A link that was not measured yet (0) is no reason for a loss.
    When even the smallest way is too much, it is taken all the same: whether the device fits its tier, its tier's
    budget says.
    """
    first = How(rules.precision, rules.top_k, rules.every)
    if not rules.adaptive:
        return Decision(first, (Reason("communication", True, f"{first}, as the policy says"),))
    how, reasons = _within_budget(link_bytes_s, coordinates, budget_s, rules, first)
    if last_change is None:
        return Decision(how, tuple(reasons))
    quiet = last_change < rules.quiet
    says = f"the last update changed {last_change:.3g} of the model, {'less' if quiet else 'not less'} than"
    reasons.insert(0, Reason("change", not quiet, f"{says} {rules.quiet:g}"))
    if quiet:
        how = How(how.precision, how.top_k, max(how.every, min(2 * how.every, rules.longest_every)))
    return Decision(how, tuple(reasons))


def _within_budget(
    link_bytes_s: float, coordinates: int, budget_s: float, rules: Communication, first: How
) -> tuple[How, list[Reason]]:
    """The first way that fits, and what was said against those before it."""
    if link_bytes_s <= 0:
        return first, [Reason("communication.transfer", True, "link not measured yet")]
    reasons: list[Reason] = []
    how = first
    for how in ways(rules):
        size = upload_bytes(coordinates, how) / how.every
        holds = size <= budget_s * link_bytes_s
        takes = f"{show_bytes(round(size))} a round are {_seconds(size / link_bytes_s)}"
        reasons.append(Reason(str(how), holds, f"{takes}, {'within' if holds else 'over'} {_seconds(budget_s)}"))
        if holds:
            break
    return how, reasons


def ways(rules: Communication) -> Iterator[How]:
    """From the policy's own to the smallest that it allows."""
    first = how = How(rules.precision, rules.top_k, rules.every)
    yield how
    if not rules.adaptive:
        return
    for precision in (16, 8):
        if precision < how.precision:
            how = How(precision, first.top_k, first.every)
            yield how
    for share in SHARES:
        if rules.smallest_top_k <= share < how.top_k:
            how = How(how.precision, share, first.every)
            yield how
    for every in PAUSES:
        if first.every < every <= rules.longest_every:
            yield How(how.precision, how.top_k, every)


def _seconds(seconds: float) -> str:
    return show_duration(seconds) if 60 <= seconds <= MAX_SECONDS else f"{seconds:.3g} s"
