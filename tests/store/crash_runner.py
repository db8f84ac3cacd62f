"""Runs the store's story in processes of its own that are killed, or whose files may not grow; prints what was left.

A program and not a test: it forks, which a test process with threads must not.
"""

import json
import os
import resource
import sys
from pathlib import Path

import numpy as np

from mhfl_mq.errors import StoreError
from mhfl_mq.protocol.effects import SavedDevice
from mhfl_mq.protocol.records import Entry
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.device import DeviceStore
from mhfl_mq.store.ledger import chain
from mhfl_mq.store.models import Models
from mhfl_mq.store.schema import connect
from mhfl_mq.store.state import Store
from mhfl_mq.testing.database import FailingDatabase, Fate
from mhfl_mq.testing.files import KILLED, FailingFiles, Failure
from mhfl_mq.testing.store_story import STEPS, go_on, now, play
from mhfl_mq.wire.blobs import build_manifest

MOST = 1000
STEP = 2039  # bytes between two limits: a prime, so that pages and lines are cut at ever other places
LARGEST = 400_000  # bytes: above the largest file of the story, its write-ahead log


def confirm(place: Path, log: Path, files: FailingFiles | None, database: FailingDatabase | None) -> None:
    """Play the story, writing one byte to the log after each step that was confirmed."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Store(place, now, files=files, connect=database or connect) as store:
        for step in STEPS:
            step(store, files)
            os.write(fd, b".")


def in_child(work: object) -> int:
    """Run `work` in a forked process; its exit status (7: a `StoreError`)."""
    assert callable(work)
    child = os.fork()
    if child == 0:
        try:
            work()
        except StoreError as error:
            print(error, file=sys.stderr)
            os._exit(7)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def steps_in(log: Path) -> int:
    """How many steps were confirmed."""
    return log.stat().st_size if log.exists() else 0


def kill(folder: Path, death: str) -> object:
    """Die at call 1, 2, 3, ... of the disk or of the database."""
    with Store(folder / "expected", now) as store:
        expected = play(store)
    confirmed, left = [], []
    for nth in range(1, MOST):
        place, log = folder / str(nth), folder / f"{nth}.log"
        by_disk = death in [one.value for one in Failure]
        files = FailingFiles(nth, Failure(death)) if by_disk else None
        database = None if by_disk else FailingDatabase(nth, Fate(death))
        status = in_child(lambda: confirm(place, log, files, database))  # noqa: B023
        if status == 0:
            break
        if status != KILLED:
            sys.exit(f"a child ended with {status}")
        confirmed.append(steps_in(log))
        left.append(go_on(place, expected))
    return confirmed, left


def full(folder: Path) -> object:
    """Let no file grow above 0, 2039, 4078, ... bytes, until the story passes."""
    with Store(folder / "expected", now) as store:
        expected = play(store)
    confirmed, left, errors = [], [], []
    for limit in range(0, LARGEST, STEP):
        place, log = folder / str(limit), folder / f"{limit}.log"

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: B023
            confirm(place, log, None, None)  # noqa: B023

        status = in_child(limited)
        if status == 0:
            break
        errors.append(status == 7)
        confirmed.append(steps_in(log))
        left.append(go_on(place, expected))
    else:
        sys.exit("no limit was large enough")
    return confirmed, left, errors


def cut_short(folder: Path, name: str) -> object:
    """Write one kind of file where no file may grow above 100 KB; the error, and what was left behind."""
    folder.mkdir(exist_ok=True)
    big = np.zeros(100_000, np.float32)
    store = Store(folder / "state", now)
    blobs = Blobs(store.blobs, 10**9, lambda: 0.0)
    device = DeviceStore(folder / "device", 10**9, lambda: 0.0)
    manifest = build_manifest(big.tobytes())
    for number in range(250):
        store.apply([], [Entry("filler", {"number": number})])
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    try:
        match name:
            case "model":
                Models(store.models).put(big, {})
            case "blob":
                blobs.begin(manifest)
            case "device":
                device.save(SavedDevice(layout="x" * 200_000))
            case "ledger":
                store._ledger.append(chain(store.head, "", [Entry("filler", {"text": "x" * 100_000})]))
    except StoreError as error:
        left = [
            str(one) for one in folder.rglob("*") if one.suffix in (".tmp", ".man", ".part", ".safetensors", ".blob")
        ]
        return type(error).__name__, str(error), left
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.exit("nothing failed")


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    match what:
        case "kill":
            print(json.dumps(kill(Path(where), *rest)))
        case "full":
            print(json.dumps(full(Path(where))))
        case _:
            print(json.dumps(cut_short(Path(where), what)))
