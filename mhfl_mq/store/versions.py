"""Versions: rolling back to an older one, and writing one out as a model that other tools open."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from mhfl_mq.errors import ConfigError
from mhfl_mq.protocol.records import Entry, Fact, VersionAdded
from mhfl_mq.segments.layout import Layout
from mhfl_mq.segments.pack import Arrays, Packer
from mhfl_mq.store.files import Files, RealFiles, explained
from mhfl_mq.store.models import ModelFile, write_safetensors
from mhfl_mq.store.view import View

__all__ = ["export", "find_rollback", "plan_rollback"]


def plan_rollback(view: View, version: int, reason: str, who: str) -> tuple[VersionAdded, Entry]:
    """The new version that points at the weights of an older one, and its ledger entry: give both to `Store.apply`.

    Devices take only a version that is newer than theirs, so going back is a step forward in numbers. Raises
    `ConfigError` when there is no such version, when it is the head, or when no reason is given.
    """
    target = view.version(version)
    head = view.versions()[-1].added
    if not reason.strip():
        raise ConfigError("a rollback needs a reason", remedy="say why, for those who read the ledger later")
    if target.model == head.model:
        raise ConfigError(
            f"the head, version {head.version}, has the weights of version {version} already",
            remedy="name an older version (`mhfl model list`)",
        )
    added = VersionAdded(
        version=head.version + 1,
        parent=head.version,
        model=target.model,
        layout=target.layout,
        origin="rollback",
        round=None,
        metrics=target.metrics,
        reason=reason,
    )
    facts: dict[str, Fact] = {
        "version": added.version,
        "to": version,
        "from": head.version,
        "model": target.model,
        "reason": reason,
        "who": who,
    }
    return added, Entry("model.rollback", facts)


def find_rollback(view: View, version: int, reason: str, head: int) -> VersionAdded | None:
    """The rollback to `version` for this reason that was done after `head` was the head, if it was."""
    model = view.version(version).model
    for one in view.versions():
        added = one.added
        if added.version > head and (added.origin, added.model, added.reason) == ("rollback", model, reason):
            return added
    return None


def export(model: ModelFile, tier: str, path: Path, files: Files | None = None) -> str:
    """Write one tier of a model as named float32 tensors (safetensors) to `path`; returns the file's SHA-256.

    Holds the tier's model once in memory. Raises `ConfigError` when there is no such tier.
    """
    files = RealFiles() if files is None else files
    layout = Layout.from_document(model.layout)
    names = [one.name for one in layout.tiers]
    if tier not in names:
        raise ConfigError(f"there is no tier {tier!r}", remedy=f"the tiers are {', '.join(names)}")
    index = names.index(tier)
    # What belongs to this tier alone is called in the file as its own model calls it.
    shapes = {name.removeprefix(f"{tier}:"): shape for name, shape in layout.shapes(index).items()}
    arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    Packer(layout, index).scatter(layout.take(model.map(), index), arrays)
    metadata = {"model": model.digest, "tier": tier, "layout": layout.digest}
    draft = path.with_name(path.name + ".tmp")
    with explained(path, "exporting a model"):
        try:
            digest = write_safetensors(files, draft, shapes, _raw(arrays), metadata=metadata)
            files.replace(draft, path)
        except BaseException:
            with suppress(OSError):  # the first error is the one to tell
                files.unlink(draft)
            raise
        files.sync_folder(path.parent)
    return digest


def _raw(arrays: Arrays) -> Iterator[memoryview]:
    for array in arrays.values():
        yield array.astype("<f4", copy=False).reshape(-1).data.cast("B")
