"""The frame: lazy commands, errors with what to do, exit codes, Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import mhfl_mq.cli as frame
from mhfl_mq import errors
from mhfl_mq.cli.failures import BUG, INTERRUPTED, PIPE_CLOSED, exit_code_of, missing_extra

ROOT = Path(__file__).parents[2]


def python(code: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in another interpreter."""
    environment = {**os.environ, **more}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def fails_with(error: BaseException) -> click.Command:
    """A command that raises this."""

    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `mhfl init` raise an error."""

    def breaks(error: BaseException) -> None:
        monkeypatch.setattr(frame.mhfl, "get_command", lambda _context, _name: fails_with(error))

    return breaks


# ---- lazy -----------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mhfl_mq.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert not done.code\n"
        "heavy = ('torch', 'numpy', 'pydantic', 'yaml', 'rich', 'paho', 'asyncio', 'msgpack')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)\n"
        "print([n for n in sys.modules if n.startswith('mhfl_mq.') and 'cli' not in n], file=sys.stderr)"
    )
    done = python(code)
    assert done.stderr.splitlines() == ["[]", "['mhfl_mq.errors']"]
    for name in frame.COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert "Exit codes:" in done.stdout


@pytest.mark.parametrize(
    "words", [["policy", "check", "policies/default.yaml"], ["init", "--list"], ["ledger", "--help"]]
)
def test_commands_that_do_not_train_never_load_torch(words: list[str]) -> None:
    code = (
        f"import sys\nfrom mhfl_mq.cli import main\ntry:\n    main({words!r})\nexcept SystemExit as done:\n"
        "    assert not done.code\nassert 'torch' not in sys.modules and 'paho' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["policy", "model", "ledger"])
def test_the_help_of_a_group_says_what_each_command_does_in_a_whole_sentence(mhfl: Any, name: str) -> None:
    text = mhfl(name, "--help").out
    assert "..." not in text.partition("Commands:")[2]
    assert text.partition("Commands:")[2].rstrip().endswith(".")


def test_a_training_child_cannot_be_unloaded_in_the_past(mhfl: Any) -> None:
    done = mhfl("device", "d1", "--broker", "mqtt://127.0.0.1:1", "--idle", "-5")
    assert done.code == 2
    assert "--idle" in done.err


def test_the_package_itself_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "mhfl_mq", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mhfl, version ")


def test_every_command_of_the_table_has_its_text_in_the_documents() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in frame.COMMANDS:
        assert f"## mhfl {name}" in text


def test_every_exit_code_stands_in_the_documents() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    classes = [getattr(errors, name) for name in errors.__all__]
    for code in {0, 2, BUG, INTERRUPTED, PIPE_CLOSED, *(one.exit_code for one in classes)}:
        assert f"\n| {code} |" in text, code


# ---- errors ---------------------------------------------------------------------------------------------------


def test_an_error_of_ours_is_three_lines_on_stderr_and_its_code(mhfl: Any, broken: Any) -> None:
    broken(errors.StoreLocked("process 7 is using this folder", where="state", remedy="stop process 7"))
    done = mhfl("init")
    assert done.code == 8
    assert done.out == ""
    assert done.err == "error: process 7 is using this folder\n  where: state\n  what to do: stop process 7\n"


def test_an_unexpected_error_is_short_and_says_how_to_report_it(mhfl: Any, broken: Any) -> None:
    broken(ZeroDivisionError("division by zero"))
    done = mhfl("init")
    assert done.code == BUG
    assert done.err.startswith("error: unexpected ZeroDivisionError: division by zero\n  where: ")
    assert "mhfl --debug" in done.err
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback(mhfl: Any, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(ZeroDivisionError("division by zero"))
    assert "Traceback" in mhfl("--debug", "init").err
    monkeypatch.setenv("MHFL_DEBUG", "1")
    assert "Traceback" in mhfl("init").err


def test_a_missing_extra_is_named_with_the_line_that_installs_it(mhfl: Any, broken: Any) -> None:
    broken(ModuleNotFoundError("No module named 'pydantic'", name="pydantic.main"))
    done = mhfl("init")
    assert done.code == errors.ConfigError.exit_code
    assert 'pip install "mhfl-mq[server]"' in done.err


def test_a_module_of_no_extra_is_a_bug() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'x'", name="x")) is None
    assert missing_extra(ModuleNotFoundError("no name")) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), INTERRUPTED),
        (click.Abort(), INTERRUPTED),
        (SystemExit(5), 5),
        (SystemExit("no"), 1),
        (SystemExit(None), 0),
        (click.exceptions.Exit(3), 3),
        (errors.LedgerBroken("x"), 9),
        (errors.PolicyError("x"), 4),
        (errors.BrokerUnreachable("x"), 7),
    ],
)
def test_what_ends_a_command_has_its_code(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["polcy"], "there is no command 'polcy'; did you mean 'policy'?"),
        (["xyzzy"], "there is no command 'xyzzy'"),
        (["policy", "check"], "Missing argument"),
        (["--nothing"], "No such option"),
    ],
)
def test_wrong_usage_is_code_2_and_says_what(mhfl: Any, words: list[str], says: str) -> None:
    done = mhfl(*words)
    assert done.code == 2
    assert says in done.err


def test_a_commands_number_is_the_exit_code(mhfl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    command = click.Command("init", callback=lambda: 4)
    monkeypatch.setattr(frame.mhfl, "get_command", lambda _context, _name: command)
    assert mhfl("init").code == 4


# ---- Ctrl-C and pipes -----------------------------------------------------------------------------------------

WAITS = """
import signal, sys, threading
import click
import mhfl_mq.cli as frame

@click.command()
def command() -> None:
    try:
        print("ready", flush=True)
        threading.Event().wait(60)
    finally:
        {after}

frame.mhfl.get_command = lambda _context, _name: command
frame.main(["init"])
"""


def interrupted(after: str, times: int) -> "subprocess.Popen[str]":
    """A command that was interrupted so many times, with `after` as its clean-up."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS.format(after=after)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(times):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
    return process


def test_ctrl_c_ends_with_130_and_after_cleaning_up() -> None:
    out, err = interrupted("print('cleaned')", 1).communicate(timeout=60)
    assert out == "cleaned\n"
    assert err.strip() == "stopped"


def test_a_ctrl_c_that_a_library_turned_into_an_error_of_its_own_is_no_bug() -> None:
    process = interrupted("raise ImportError('PyCapsule_Import could not import module')", 1)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, "stopped")


def test_a_second_ctrl_c_does_not_wait_for_the_clean_up() -> None:
    process = interrupted("print('ready', flush=True); threading.Event().wait(60)", 2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped at once" in err


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import click, mhfl_mq.cli as frame\n"
        "command = click.Command('init', callback=lambda: print('line\\n' * 100_000))\n"
        "frame.mhfl.get_command = lambda _context, _name: command\nframe.main(['init'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == PIPE_CLOSED


def test_a_shell_gets_its_completions(mhfl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MHFL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "mhfl po")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert mhfl().out == "plain,policy\n"
