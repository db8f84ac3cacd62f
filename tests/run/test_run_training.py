"""A device's trainer looks at its task before anybody asks for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mhfl_mq.errors import TaskError
from mhfl_mq.run.training import TaskTrainer


@asynccontextmanager
async def trainer(task: str, folder: Path) -> AsyncIterator[TaskTrainer]:
    made = TaskTrainer(task, folder)
    try:
        yield made
    finally:
        await made.close()


async def test_an_installed_task_is_not_loaded_before_it_is_needed(tmp_path: Path) -> None:
    async with trainer("wind", tmp_path) as made:
        await made.check()
        assert made._worker.pid is None


async def test_what_is_no_task_is_told_by_the_child(tmp_path: Path) -> None:
    async with trainer("os:path", tmp_path) as made:
        with pytest.raises(TaskError, match="a module is no task"):
            await made.check()


async def test_a_child_that_dies_while_it_loads_a_task_may_live_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)  # where the child looks first
    (tmp_path / "dying_task.py").write_text("import os\nos._exit(7)\n")
    async with trainer("dying_task:TASK", tmp_path) as made:
        await made.check()
    assert "the task cannot be loaded now: " in caplog.text
    assert "exit code 7" in caplog.text
