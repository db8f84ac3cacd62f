"""Tasks are found by name, and what is wrong with a name or an object is said."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mhfl_mq.errors import TaskError
from mhfl_mq.train.task import Examples, Task, accuracy, check_name, cross_entropy, load_task, task_names


def test_the_demos_task_is_offered_by_its_short_name() -> None:
    assert "wind" in task_names()
    assert load_task("wind").name == "wind"


def test_a_task_of_ones_own_is_named_by_module_and_attribute(toy: str) -> None:
    task = load_task(toy)
    assert (task.name, task.metric_name) == ("toy", "accuracy")


def test_knowing_names_imports_neither_a_task_nor_torch() -> None:
    code = "import sys; from mhfl_mq.train.task import task_names; print(task_names(), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'wind'" in out
    assert out.rstrip().endswith("False")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wint", "did you mean 'wind'?"),
        ("hydraulics-17", "installed are: wind. Your own task is named"),
        ("no_such_plant:TASK", "install what offers 'no_such_plant'"),
        ("toy_task:TASKS", "did you mean 'TASK'?"),
        ("toy_task:XYZZY", "correct the name after the colon"),
        ("toy_task:NOT_A_TASK", "a dict is no task: it lacks name, model, device_data"),
        ("toy_task:Halfway", "it lacks model, device_data"),
        ("toy_task:data.func", "toy_task has no 'func'"),
        ("toy_task:", "there is no task"),
        ("os.system('true'):x", "there is no task"),
    ],
)
def test_a_wrong_name_is_answered_with_what_to_do(toy: str, name: str, said: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_task(name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "missing"),
    [("nope.mod:X", "nope"), ("email.nope:X", "email.nope"), ("json.decoder.x:X", "json.decoder.x")],
)
def test_a_module_that_is_not_there_is_told_without_importing_its_packages(name: str, missing: str) -> None:
    with pytest.raises(TaskError, match=f"no module '{missing}'; install what offers"):
        check_name(name)


def test_looking_for_a_task_imports_nothing_of_it(tmp_path: Path) -> None:
    """As an agent looks, from the folder where a plant keeps its own module."""
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "plant" / "task.py").write_text("")
    code = "import sys; sys.path.remove(''); from mhfl_mq.train.task import check_name; check_name('plant.task:TASK')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_cannot_be_imported_is_named_with_its_error(
    toy: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken_task.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(TaskError, match="broken_task cannot be imported: ZeroDivisionError"):
        load_task("broken_task:TASK")


def test_a_missing_torch_is_answered_with_the_extra(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("bare")
    (folder / "bare_task.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(TaskError, match=r"pip install 'mhfl-mq\[train\]'"):
        load_task("bare_task:TASK")


def test_a_tasks_own_error_while_importing_stays_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("refusing")
    text = "from mhfl_mq.errors import TaskError\nraise TaskError('no licence', remedy='buy one')\n"
    (folder / "refusing_task.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(TaskError, match="no licence; buy one"):
        load_task("refusing_task:TASK")


def test_a_task_without_functions_is_refused_when_it_is_made() -> None:
    with pytest.raises(TaskError, match="its model is None"):
        Task(name="x", model=None, device_data=lambda shard, folder: Examples(torch.zeros(0), torch.zeros(0)))  # type: ignore[arg-type]


def test_examples_have_a_target_each() -> None:
    assert len(Examples(torch.zeros(3, 2), torch.zeros(3))) == 3
    with pytest.raises(TaskError, match="3 inputs and 2 targets"):
        Examples(torch.zeros(3, 2), torch.zeros(2))


def test_the_default_metric_counts_right_answers_and_the_default_loss_falls_with_them() -> None:
    targets = torch.tensor([0, 1, 2, 1])
    right = torch.nn.functional.one_hot(targets, 3).float() * 5
    wrong = right.roll(1, dims=1)
    assert accuracy(right, targets) == 1.0
    assert accuracy(torch.cat([right[:3], wrong[3:]]), targets) == 0.75
    assert float(cross_entropy(right, targets)) < float(cross_entropy(wrong, targets))
