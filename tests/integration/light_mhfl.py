"""The real command line, with arithmetic in the place of training: `python light_mhfl.py COMMAND...`.

The lengths of the tiers' prefixes stand in MHFL_LIGHT_LENGTHS; a device's shard is the largest tier that it carries.
The wall clock is MHFL_LIGHT_CLOCK_S seconds ahead of the machine's.
Everything else (options, policy, store, broker, machines, signals, exit codes) is what `mhfl` runs. No torch.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from mhfl_mq.cli import Commands, main
from mhfl_mq.run.clock import SystemClock

LENGTHS = [int(one) for one in os.environ.get("MHFL_LIGHT_LENGTHS", "300,20000").split(",")]
CLOCK_S = float(os.environ.get("MHFL_LIGHT_CLOCK_S", "0"))
TRAIN = os.environ.get("MHFL_LIGHT_TRAIN_S", "0.05")

real_command = Commands.get_command


def get_command(group: Commands, context: click.Context, name: str) -> click.Command | None:
    """As the real one; what learns is replaced when a command is asked for, as late as the command is imported."""
    import mhfl_mq.run.training as training
    from mhfl_mq.errors import TrainingFailed
    from mhfl_mq.testing.light import LightFoundation, LightTrainer

    class Failing(LightTrainer):
        """A device that accepts each offer, and whose trainings come to nothing."""

        async def train(self, *_args: Any) -> Any:
            raise TrainingFailed("planned")

    def foundation(_task: str, **_options: Any) -> LightFoundation:
        return LightFoundation(LENGTHS)

    def trainer(_task: str, scratch: Path, *, shard: str = "", **_options: Any) -> LightTrainer:
        if TRAIN == "fails":
            return Failing(scratch.parent.name, int(shard or 0), scratch)
        return LightTrainer(scratch.parent.name, int(shard or 0), scratch, float(TRAIN))

    setattr(training, "TaskFoundation", foundation)  # noqa: B010 - a class there
    setattr(training, "TaskTrainer", trainer)  # noqa: B010
    return real_command(group, context, name)


def now(_clock: SystemClock) -> datetime:
    """What the wall clock shows."""
    return datetime.now(UTC) + timedelta(seconds=CLOCK_S)


if __name__ == "__main__":
    setattr(SystemClock, "now", now)  # noqa: B010
    setattr(Commands, "get_command", get_command)  # noqa: B010
    main()
