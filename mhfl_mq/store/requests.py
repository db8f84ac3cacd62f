"""Requests of an operator to a running aggregator, as small files in its state folder.

The aggregator holds the folder's lock, so another process does not write its database: it leaves a request and the
aggregator takes it up within a second. A request stays until what it asks for is durable, so a kill loses none.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mhfl_mq.errors import StoreError
from mhfl_mq.store.files import RealFiles, atomic_write, explained, make_folder

__all__ = [
    "PolicyRequest",
    "RollbackRequest",
    "answer_of",
    "answer_policy",
    "ask_policy",
    "ask_rollback",
    "drop_request",
    "pending_requests",
]

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


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """Somebody wants this policy in the place of the running one: the file's text and its signatures."""

    path: Path
    text: str
    signatures: str
    file: str
    reason: str
    who: str


def ask_rollback(folder: Path, version: int, reason: str, who: str, head: int) -> Path:
    """Leave a request; the file is gone when the aggregator has done it (or has refused it in its log)."""
    path, files = _path(folder, "rollback"), RealFiles()
    make_folder(files, path.parent)
    atomic_write(files, path, json.dumps({"version": version, "reason": reason, "who": who, "head": head}).encode())
    return path


def pending_requests(folder: Path) -> list[RollbackRequest | PolicyRequest]:
    """What was asked for and is not done, oldest first; a file that is no request raises `StoreError`."""
    requests = folder / REQUESTS
    if not requests.is_dir():
        return []
    with explained(requests, "looking for requests"):
        paths = sorted(requests.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [_read(path) for path in paths]


def drop_request(request: RollbackRequest | PolicyRequest) -> None:
    """It is done."""
    with explained(request.path, "deleting a request"):
        request.path.unlink(missing_ok=True)


def ask_policy(folder: Path, request: Mapping[str, str]) -> Path:
    """Leave a policy that is to be applied: `text`, `signatures`, `file`, `reason`, `who`."""
    path, files = _path(folder, "policy"), RealFiles()
    make_folder(files, path.parent)
    atomic_write(files, path, json.dumps(dict(request)).encode())
    return path


def answer_policy(request: PolicyRequest, fault: str) -> None:
    """Say what became of it (empty: applied), and then that it is done."""
    atomic_write(RealFiles(), request.path.with_suffix(".answer"), fault.encode())
    drop_request(request)


def answer_of(path: Path) -> str | None:
    """What became of a request to apply a policy; None: no word. It is told once."""
    answer = path.with_suffix(".answer")
    try:
        text = answer.read_text("utf-8")
    except FileNotFoundError:
        return None
    answer.unlink(missing_ok=True)
    return text


def _path(folder: Path, what: str) -> Path:
    return folder / REQUESTS / f"{what}-{os.getpid()}-{secrets.token_hex(4)}.json"


def _read(path: Path) -> RollbackRequest | PolicyRequest:
    try:
        value: Any = json.loads(path.read_bytes())
        if path.name.startswith("policy-"):
            words = [value[name] for name in ("text", "signatures", "file", "reason", "who")]
            if all(type(one) is str for one in words):
                return PolicyRequest(path, *words)
        elif (
            type(value["version"]) is type(value["head"]) is int and type(value["reason"]) is type(value["who"]) is str
        ):
            return RollbackRequest(path, value["version"], value["reason"], value["who"], value["head"])
    except (ValueError, KeyError, TypeError):
        pass
    raise StoreError(
        f"{path.name} is not a request",
        where=str(path),
        remedy="delete it; `mhfl model rollback` and `mhfl policy apply` write them",
    )
