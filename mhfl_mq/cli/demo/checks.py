"""What the demo can be told before it starts anything: minutes later, the run would be lost."""

import secrets
from pathlib import Path

from mhfl_mq.cli.signals import run_interruptible
from mhfl_mq.errors import ConfigError
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.mqtt import MqttTransport

__all__ = ["check_broker", "check_writable", "not_writable"]


def check_broker(url: str) -> None:
    """Connect to it once; raises `ConfigError` for a URL that is none, `TransportError` when it does not let us in."""

    async def look() -> None:
        transport = MqttTransport(url)
        try:
            await transport.connect(Session(f"demo-{secrets.token_hex(4)}", clean=True))
        finally:
            await transport.close()

    run_interruptible(look())


def check_writable(file: Path, made: Path) -> None:
    """Raise `ConfigError` when the figures could not be written there; the folder `made` will be there by then."""
    if file.parent.resolve() == made.resolve():
        return
    there = file.exists()
    try:
        with file.open("ab"):
            pass
        if not there:
            file.unlink()
    except OSError as error:
        raise not_writable(file, error) from error


def not_writable(file: Path, error: OSError) -> ConfigError:
    """The figures' file and why it cannot be written."""
    return ConfigError(
        f"{file} cannot be written: {error.strerror or error}",
        where="--json",
        remedy="name a file in a folder that is there and that you can write to",
    )
