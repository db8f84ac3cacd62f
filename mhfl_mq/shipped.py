"""Files that ship with the package but are meant for people: policies and broker configurations."""

from importlib.resources import files
from importlib.resources.abc import Traversable

from mhfl_mq.errors import ConfigError

__all__ = ["shipped"]


def shipped(name: str, *, package: Traversable | None = None) -> Traversable:
    """The folder of shipped files `name` (policies, broker_config), from a wheel or from a checkout.

    `package` is the folder of `mhfl_mq` itself, for tests. Raises `ConfigError` where there is no such folder.
    """
    home = package if package is not None else files("mhfl_mq")
    for folder in (home / "_shipped" / name, home / ".." / name):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"the folder {name!r} is not part of this installation",
        where=str(home),
        remedy="install mhfl-mq again from its wheel, or work in a whole checkout",
    )
