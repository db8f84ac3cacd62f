"""`mhfl bench --quick`, whole: the methods that must beat the smallest model do, on a real plant's data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_heterofl_slimmable_and_depthfl_beat_the_smallest_model_on_the_largest_tier(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mhfl_mq", "bench", "--quick", "--jobs", "2", "--json", "--out", str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["ok"] is True
    assert said["missed"] == []
