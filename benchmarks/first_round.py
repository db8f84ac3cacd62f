"""How long a newcomer waits: from the command to the first finished round of `mhfl demo`."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.table import Row, at_most

__all__ = ["measure"]

GRACE_S = 60.0


def measure() -> list[Row]:
    """Start a demo as a newcomer does, and watch what it prints."""
    with tempfile.TemporaryDirectory(prefix="mhfl-bench-") as folder:
        words = [sys.executable, "-m", "mhfl_mq", "demo", "--folder", str(Path(folder) / "run")]
        began = time.monotonic()
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            assert process.stdout is not None
            seen = any("first round finished" in line for line in process.stdout)
            seconds = time.monotonic() - began
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=GRACE_S)
        if not seen:
            raise RuntimeError("the demo ended without a round")
    return [at_most("first finished round of mhfl demo (s)", seconds, 60)]
