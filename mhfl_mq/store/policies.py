"""The policy that was applied last, kept in the state folder with its signatures, so that a restart goes on with it."""

from pathlib import Path
from typing import Final

from mhfl_mq.store.files import Files, RealFiles, atomic_write

__all__ = ["APPLIED", "applied_policy", "keep_policy"]

APPLIED: Final = "policy.yaml"
"""Its file's name in a state folder; its signatures lie beside it."""


def keep_policy(folder: Path, text: str, signatures: str, files: Files | None = None) -> None:
    """Keep an applied policy. A kill at any instant leaves the old one or this one, with signatures that fit it.

    So the old signatures stay beside the new ones until the policy is there: those of another text count for nothing.
    """
    files = RealFiles() if files is None else files
    path = folder / APPLIED
    signed = path.with_name(f"{APPLIED}.sig")
    before = signed.read_text("ascii", "replace") if signed.exists() else ""
    atomic_write(files, signed, f"{signatures}\n{before}".encode())
    atomic_write(files, path, text.encode())
    atomic_write(files, signed, signatures.encode())


def applied_policy(folder: Path) -> Path | None:
    """The applied policy of a state folder, if there is one."""
    path = folder / APPLIED
    return path if path.is_file() else None
