"""The policy that was applied last, kept in the state folder with its signatures, so that a restart goes on with it."""

from pathlib import Path
from typing import Final

from mhfl_mq.store.files import RealFiles, atomic_write

__all__ = ["APPLIED", "applied_policy", "keep_policy"]

APPLIED: Final = "policy.yaml"
"""Its file's name in a state folder; its signatures lie beside it."""


def keep_policy(folder: Path, text: str, signatures: str) -> None:
    """Keep an applied policy. The signatures first: a kill between the two leaves a policy that has none, not the old
    one with new signatures."""
    files, path = RealFiles(), folder / APPLIED
    path.unlink(missing_ok=True)
    atomic_write(files, path.with_name(f"{APPLIED}.sig"), signatures.encode())
    atomic_write(files, path, text.encode())


def applied_policy(folder: Path) -> Path | None:
    """The applied policy of a state folder, if there is one."""
    path = folder / APPLIED
    return path if path.is_file() else None
