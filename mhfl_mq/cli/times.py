"""Points in time on the command line: as people write them, and as scripts read them."""

from datetime import UTC, datetime

from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import Policy
from mhfl_mq.policy.schedule import read_time
from mhfl_mq.run.clock import SystemClock

__all__ = ["iso", "moment"]


def moment(time: str, policy: Policy) -> float:
    """Seconds since 1970 of a time as a person writes it, in the policy's zone where it names none; empty: now."""
    if not time:
        return SystemClock().now().timestamp()
    try:
        return read_time(time, policy.schedule)
    except ValueError as error:
        says, _, remedy = str(error).partition("; ")
        raise ConfigError(says, where="--at or --from", remedy=remedy) from None


def iso(at: float) -> str:
    """An instant for scripts: UTC, ISO 8601."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
