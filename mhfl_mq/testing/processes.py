"""Commands as processes, for tests: started, watched, interrupted, and never left behind."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ended", "Processes"]

MARK = "MHFL_TEST_MARK"
"""Variable by which every descendant is known, whatever session or group it went to."""
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


class Processes:
    """The processes of one test; what each prints lies in `folder/<name>.log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = secrets.token_hex(8)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, words: Sequence[str], *, env: Mapping[str, str] | None = None, patience_s: float = 60.0) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self._environment(env),
            cwd=self.folder,
            timeout=patience_s,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(
        self,
        name: str,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own; `prepare` runs in it before the command.

        Ctrl-C means there what it means in a terminal, also where our own parent has it ignored (a job in the
        background of a script has).
        """

        def before() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if prepare is not None:
                prepare()

        with self.log_file(name).open("ab") as log:
            process = self._running[name] = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(env),
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=before,
            )
        return process

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The process that was started last under this name."""
        return self._running[name]

    def interrupt(self, name: str) -> None:
        """Ctrl-C, as a terminal does it: to the whole group."""
        os.killpg(self._running[name].pid, signal.SIGINT)

    def ended(self, name: str, patience_s: float = PATIENCE_S) -> int:
        """The exit code of a process that should end; fails with the logs when it does not."""
        try:
            return self._running[name].wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} has not ended within {patience_s:g} s\n{self.logs()}") from None

    def stop(self, *names: str) -> None:
        """Ask processes (all of them, if none is named) to end, and wait until they did, in good order."""
        chosen = {name: self._running[name] for name in names or self._running}
        for process in chosen.values():
            if process.poll() is None:
                process.terminate()
        for name in chosen:
            code = self.ended(name, 15)
            assert code == 0, f"{name} ended with {code}\n{self.logs()}"

    def until(self, ready: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Look until it is so; fails with the logs when it takes too long, or at once when a process has failed."""
        ends = time.monotonic() + patience_s
        while not ready():
            if time.monotonic() > ends:
                raise AssertionError(f"no {what} within {patience_s:g} s\n{self.logs()}")
            time.sleep(0.02)

    def log_file(self, name: str) -> Path:
        """Where its output goes."""
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        """What it has printed so far."""
        path = self.log_file(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def logs(self) -> str:
        """The last lines of all."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in sorted(self.folder.glob("*.log"))
        )

    def descendants(self) -> dict[int, str]:
        """Every process that runs and stems from here: its id and its command line."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                if f"{MARK}={self._mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(folder.name)] = line
            except OSError:  # it has ended, or is another user's
                continue
        return found

    def close(self) -> None:
        """Kill what is left."""
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        for pid in self.descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", MARK: self._mark, **(more or {})}
