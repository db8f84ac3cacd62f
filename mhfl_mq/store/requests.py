"""Requests of an operator to a running aggregator, as small files in its state folder.

The aggregator holds the folder's lock, so another process does not write its database: it leaves a request and the
aggregator takes it up within a second. A request stays until what it asks for is durable, so a kill loses none.
"""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mhfl_mq.errors import StoreError
from mhfl_mq.store.files import RealFiles, atomic_write, explained, make_folder

__all__ = ["RollbackRequest", "ask_rollback", "drop_request", "pending_requests"]

REQUESTS: Final = "requests"
"""The folder of requests in a state folder."""


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """Somebody wants the weights of this version back."""

    path: Path
    version: int
    reason: str
    who: str
    head: int
    """The head when it was asked for: what is newer may be its answer."""


def ask_rollback(folder: Path, version: int, reason: str, who: str, head: int) -> Path:
    """Leave a request; the file is gone when the aggregator has done it (or has refused it in its log)."""
    requests = folder / REQUESTS
    files = RealFiles()
    make_folder(files, requests)
    path = requests / f"rollback-{os.getpid()}-{secrets.token_hex(4)}.json"
    atomic_write(files, path, json.dumps({"version": version, "reason": reason, "who": who, "head": head}).encode())
    return path


def pending_requests(folder: Path) -> list[RollbackRequest]:
    """What was asked for and is not done, oldest first; a file that is no request raises `StoreError`."""
    requests = folder / REQUESTS
    if not requests.is_dir():
        return []
    with explained(requests, "looking for requests"):
        paths = sorted(requests.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [_read(path) for path in paths]


def drop_request(request: RollbackRequest) -> None:
    """It is done."""
    with explained(request.path, "deleting a request"):
        request.path.unlink(missing_ok=True)


def _read(path: Path) -> RollbackRequest:
    try:
        value: Any = json.loads(path.read_bytes())
        version, reason, who, head = value["version"], value["reason"], value["who"], value["head"]
    except (ValueError, KeyError, TypeError):
        version = reason = who = head = None
    if type(version) is not int or type(reason) is not str or type(who) is not str or type(head) is not int:
        raise StoreError(
            f"{path.name} is not a request", where=str(path), remedy="delete it; `mhfl model rollback` writes one"
        )
    return RollbackRequest(path, version, reason, who, head)
