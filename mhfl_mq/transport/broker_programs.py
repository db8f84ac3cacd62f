"""The broker programs that we can start, where they are found, and the configuration that we give them.

The settings and their reasons stand in `broker_config/README.md`; these files differ from those only in their
paths, port and users.
"""

import base64
import getpass
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from mhfl_mq.errors import ConfigError

__all__ = ["BrokerProgram", "configure", "find_program", "found_programs", "mosquitto_password"]

MAX_PACKET = 2_000_000  # bytes: what mosquitto 2.1 takes by default; a chunk is 256 KiB
_MAX_QUEUED = 100_000  # messages per offline client: 5000 devices at once do not overflow the aggregator's
_MAX_QUEUED_BYTES = 256 * 2**20
_RARE_SAVE = 1000  # changes: mosquitto writes its whole state and waits for the disk at each save
_PASSWORD_ROUNDS = 101  # of PBKDF2, mosquitto's own default: the passwords are random and 144 bits long
_OLDEST = {"mosquitto": (2, 0), "nats-server": (2, 10)}  # nats-server 2.9 leaks its own topics into `#`
_ASK_S = 20.0

# Debian puts daemons where a user's PATH does not look.
_MORE_PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


@dataclass(frozen=True, slots=True)
class BrokerProgram:
    """An MQTT broker that is installed here."""

    name: str  # mosquitto or nats-server
    path: str
    version: str
    max_packet: int = MAX_PACKET


def found_programs() -> tuple[BrokerProgram, ...]:
    """Every usable broker on this machine, the preferred one first."""
    scripts = sysconfig.get_path("scripts")  # where the wheel puts nats-server, on the PATH or not
    places = {
        "mosquitto": [os.environ.get("PATH", os.defpath), *_MORE_PLACES],
        "nats-server": [scripts, os.environ.get("PATH", os.defpath)],
    }
    found = []
    for name, folders in places.items():
        path = shutil.which(name, path=os.pathsep.join(folders))
        if path is not None and (version := _version(path)) >= _OLDEST[name]:
            found.append(BrokerProgram(name, path, ".".join(map(str, version))))
    return tuple(found)


def find_program(prefer: str | None) -> BrokerProgram:
    """The preferred broker, or the best one that is found. Raises `ConfigError` when there is none."""
    found = found_programs()
    wanted = {"nats": "nats-server"}.get(prefer or "", prefer)
    for program in found:
        if wanted in (None, program.name):
            return program
    raise ConfigError(
        f"no {wanted or 'MQTT broker'} is installed here",
        where="broker",
        remedy="install mosquitto 2.0 or later from your system, or `pip install mhfl-mq[broker]` (nats-server)",
    )


def configure(
    program: BrokerProgram,
    folder: Path,
    host: str,
    port: int,
    passwords: dict[str, str],
    *,
    durable: bool = True,
) -> list[str]:
    """Write the configuration into `folder`; returns the command that starts the broker with it.

    `durable` false: mosquitto saves its state now and then instead of at every change.
    """
    store = folder / "store"
    store.mkdir(exist_ok=True, mode=0o700)
    config = folder / f"{program.name}.conf"
    if program.name == "mosquitto":
        users = folder / "passwords"
        _write(users, "".join(f"{name}:{mosquitto_password(word)}\n" for name, word in passwords.items()))
        _write(config, _mosquitto(host, port, store, users, 1 if durable else _RARE_SAVE))
        return [program.path, "-c", str(config)]
    _write(config, _nats(host, port, store, passwords))
    return [program.path, "-c", str(config)]


def mosquitto_password(password: str) -> str:
    """The hash that mosquitto 2 keeps in its password file: PBKDF2 with SHA-512 and a 12-byte salt."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _PASSWORD_ROUNDS)
    return f"$7${_PASSWORD_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _mosquitto(host: str, port: int, store: Path, users: Path, save_every: int) -> str:
    lines = [
        f"listener {port} {host}",
        "allow_anonymous false",
        f"password_file {users}",
        "persistence true",
        f"persistence_location {store}/",
        "autosave_on_changes true",
        f"autosave_interval {save_every}",
        f"max_packet_size {MAX_PACKET}",
        "max_inflight_messages 20",
        f"max_queued_messages {_MAX_QUEUED}",
        f"max_queued_bytes {_MAX_QUEUED_BYTES}",
        "max_keepalive 120",
        "persistent_client_expiration 7d",
        "set_tcp_nodelay true",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
    ]
    if hasattr(os, "getuid") and os.getuid() == 0:
        lines.append(f"user {getpass.getuser()}")  # else it drops to a user who cannot write our folder
    return "\n".join(lines) + "\n"


def _nats(host: str, port: int, store: Path, passwords: dict[str, str]) -> str:
    users = "\n".join(f'    {{user: "{name}", password: "{word}"}}' for name, word in passwords.items())
    return f"""server_name: mhfl
# NATS's own port is not used: any free one, on this machine alone.
host: "{host}"
port: -1
max_payload: {MAX_PACKET}
max_pending: {_MAX_QUEUED_BYTES}
jetstream {{
  store_dir: "{store}"
}}
mqtt {{
  host: "{host}"
  port: {port}
  ack_wait: "2s"
  max_ack_pending: 16
}}
authorization {{
  users: [
{users}
  ]
}}
"""


def _version(path: str) -> tuple[int, ...]:
    option = "-h" if "mosquitto" in os.path.basename(path) else "--version"
    try:
        done = subprocess.run([path, option], capture_output=True, timeout=_ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(rb"v(?:ersion )?(\d+)\.(\d+)\.(\d+)", done.stdout + done.stderr)
    return tuple(int(part) for part in found.groups()) if found else ()


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
