"""`mhfl bench --quick`, whole: the methods that must beat the smallest model do, on real data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "hydraulic_1hz").is_dir(), reason="the hydraulic rig's data are not here")
def test_heterofl_slimmable_and_depthfl_beat_the_smallest_model_on_the_largest_tier(tmp_path: Path) -> None:
    words = ["bench", "--quick", "--data", "hydraulic-valve", "--data-folder", str(SHARED), "--jobs", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "mhfl_mq", *words, "--out", str(tmp_path / "out")],
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
