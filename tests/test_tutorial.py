"""The tutorial's task, taken out of its page, works as the page says."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.segments import Tier
from mhfl_mq.train.client import Worker
from mhfl_mq.train.reports import Subject

PAGE = Path(__file__).parents[1] / "docs" / "tutorial-task.md"
OPTIONS = {"steps": 20.0, "batch": 32.0, "rate": 0.01, "adam": 1.0}


def blocks() -> tuple[str, str]:
    task, data = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return task, data


def test_the_task_is_built_in_under_60_lines() -> None:
    assert len(blocks()[0].splitlines()) < 60


async def test_the_task_is_cut_trained_and_tested_in_three_tiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, data = blocks()
    (tmp_path / "press_task.py").write_text(task)
    subprocess.run([sys.executable, "-c", data, str(tmp_path)], check=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    subject = Subject.of((Tier("small", 0.125), Tier("medium", 0.5), Tier("large", 1.0)), options=OPTIONS)
    flat, update = tmp_path / "flat", tmp_path / "update"
    async with Worker("press_task:TASK", data=tmp_path / "office") as office:
        layout = (await office.describe(subject, out=flat)).layout
        assert len(layout.lengths) == 3
        before = await office.evaluate(subject, flat)
        async with Worker("press_task:TASK", data=tmp_path / "press-1") as press:
            assert (await press.probe(subject)).left_out == {}
            for number in (1, 2, 3):
                await press.train(subject, 2, [flat], update, round_number=number)
                (np.fromfile(flat, "<f4") + np.fromfile(update, "<f4")).tofile(flat)
        after = await office.evaluate(subject, flat)
    assert before["accuracy/large"] < 0.6
    assert after["accuracy/large"] > 0.9
