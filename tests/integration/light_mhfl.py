"""The real command line, with arithmetic in the place of training: `python light_mhfl.py COMMAND...`.

The lengths of the tiers' prefixes stand in MHFL_LIGHT_LENGTHS; a device's shard is the largest tier that it carries.
Everything else (options, policy, store, broker, machines, signals, exit codes) is what `mhfl` runs. No torch.
"""

import os
from pathlib import Path
from typing import Any

import mhfl_mq.run.training as training
from mhfl_mq.cli import main
from mhfl_mq.testing.light import LightFoundation, LightTrainer

LENGTHS = [int(one) for one in os.environ.get("MHFL_LIGHT_LENGTHS", "300,20000").split(",")]
TRAIN_S = float(os.environ.get("MHFL_LIGHT_TRAIN_S", "0.05"))


def foundation(_task: str, **_options: Any) -> LightFoundation:
    return LightFoundation(LENGTHS)


def trainer(_task: str, scratch: Path, *, shard: str = "", **_options: Any) -> LightTrainer:
    return LightTrainer(str(scratch.parent.name), int(shard or 0), scratch, TRAIN_S)


if __name__ == "__main__":
    setattr(training, "TaskFoundation", foundation)  # noqa: B010 - mypy: it is a class there
    setattr(training, "TaskTrainer", trainer)  # noqa: B010
    main()
