"""How long a newcomer waits: from the command to the first finished round of `mhfl demo`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import Row, at_most

__all__ = ["measure"]


def measure() -> list[Row]:
    """Run a short demo and read its own record."""
    with tempfile.TemporaryDirectory(prefix="mhfl-bench-") as folder:
        record = Path(folder) / "demo.json"
        words = ["demo", "--rounds", "2", "--no-kills", "--folder", str(Path(folder) / "run"), "--json", str(record)]
        subprocess.run([sys.executable, "-m", "mhfl_mq", *words], check=True, capture_output=True, timeout=300)
        seconds = json.loads(record.read_text())["seconds"]["first_round"]
    return [at_most("first finished round of mhfl demo (s)", seconds, 60)]
