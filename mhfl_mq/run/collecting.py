"""The way up, at the aggregator: admits updates one window of places at a time, pulls them, and proves them.

An update ends as `UpdateStored` (durable on our disk, right length, finite and in bounds) or as `UpdateBad`. The
aggregator's memory is bounded by the places, not by how many devices finish at once.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mhfl_mq.errors import StoreError, StoreFull
from mhfl_mq.protocol.effects import FetchUpdate
from mhfl_mq.protocol.events import UpdateBad, UpdateStored
from mhfl_mq.protocol.transfer import Admission, Answer, upload_cost
from mhfl_mq.protocol.transfer_receiver import WINDOW
from mhfl_mq.run.bench import Bench
from mhfl_mq.run.fetcher import Fetcher
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.wire.blobs import Chunk
from mhfl_mq.wire.messages import Pull

__all__ = ["Collecting"]

log = logging.getLogger(__name__)

THREAD_FROM = 4 * 1024 * 1024
"""Bytes from which a check goes to a thread: below, the hop costs more than the check."""


@dataclass(slots=True)
class _Upload:
    order: FetchUpdate
    task: asyncio.Task[None] | None = None
    fits: int = 0  # bytes that were found sound as they came


class Collecting:
    """The uploads of one aggregator; `post` takes the events that they end in."""

    def __init__(
        self,
        blobs: Blobs,
        bench: Bench,
        send: Callable[[str, Pull], None],
        post: Callable[[UpdateStored | UpdateBad], None],
        *,
        places: int,
    ) -> None:
        self._blobs = blobs
        self._bench = bench
        self._post = post
        self._fetcher = Fetcher(blobs, send)
        self._admission = Admission(places=places)
        self._uploads: dict[str, _Upload] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Updates that wait for a place, are being pulled, or are being proven."""
        return len(self._uploads)

    @property
    def pulling(self) -> int:
        """Updates that are being pulled; never more than there are places."""
        return self._fetcher.running

    def fetch(self, order: FetchUpdate) -> None:
        """Get this device's update; an order for an older round of the same device is dropped."""
        running = self._uploads.get(order.device)
        if running is not None:
            if running.order.round == order.round and running.order.manifest == order.manifest:
                return
            self.drop(order.device)
        upload = self._uploads[order.device] = _Upload(order)
        manifest = order.manifest
        if order.inline or self._blobs.path(manifest.blob_id) is not None:
            try:
                if order.inline:
                    self._blobs.put(manifest, order.inline)
            except StoreError as error:
                self._not_kept(order, str(error))
                return
            self._prove(upload)
            return
        now = self._now()
        if self._admission.ask(order.device, upload_cost(manifest, WINDOW), now) is Answer.TOO_BIG:
            self._end(order, f"chunks of {manifest.chunk} bytes are too large for the aggregator's memory")
            return
        self._start(self._admission.admitted)
        self._set_timer()

    def chunk(self, device: str, chunk: Chunk) -> None:
        """A chunk came from this device."""
        if self._fetcher.chunk(device, chunk):
            self._admission.progress(device, self._now())

    def drop(self, device: str) -> None:
        """This device's update is not wanted any more."""
        upload = self._uploads.pop(device, None)
        if upload is None:
            return
        if upload.task is not None:
            upload.task.cancel()
        self._fetcher.cancel(device)
        self._start(self._admission.release(device, self._now()))

    def disconnected(self) -> None:
        """The broker is gone."""
        self._fetcher.disconnected()
        self._admission.disconnected()

    def connected(self, session_present: bool) -> None:
        """The broker is back."""
        self._admission.connected(self._now())
        self._fetcher.connected(session_present)
        self._set_timer()

    def close(self) -> None:
        """Save what is there and stop."""
        if self._timer is not None:
            self._timer.cancel()
        for upload in self._uploads.values():
            if upload.task is not None:
                upload.task.cancel()
        self._uploads.clear()
        self._fetcher.close()

    # ---- how ----

    def _start(self, devices: tuple[str, ...]) -> None:
        for device in devices:
            upload = self._uploads.get(device)
            if upload is None or upload.task is not None:
                continue  # dropped, or being proven
            if self._fetcher.fetching(device, upload.order.manifest.blob_id):
                continue
            try:
                self._fetch(upload)
            except StoreError as error:
                self._not_kept(upload.order, str(error))

    def _fetch(self, upload: _Upload) -> None:
        """Begin to pull an update; half-received ones of devices that went silent give way to it."""
        order = upload.order
        if self._blobs.path(order.manifest.blob_id) is not None:  # while this one waited, another device brought it
            self._prove(upload)
            return
        try:
            self._fetcher.fetch(order.device, order.manifest, self._fetched(upload), look=partial(self._look, upload))
        except StoreFull:
            running = {
                one.order.manifest.blob_id
                for one in self._uploads.values()
                if self._fetcher.fetching(one.order.device, one.order.manifest.blob_id)
            }
            for blob_id in [one for one in self._blobs.incoming if one not in running]:
                if self._blobs.path(blob_id) is None:
                    self._blobs.drop(blob_id)
            self._fetcher.fetch(order.device, order.manifest, self._fetched(upload), look=partial(self._look, upload))

    def _fetched(self, upload: _Upload) -> Callable[[str], None]:
        def fetched(fault: str) -> None:
            if fault:
                self._not_kept(upload.order, fault)
            elif upload.fits == upload.order.manifest.size == self._bench.update_size(upload.order.tier):
                self._judge(upload.order, "")
            else:  # resumed, or there is something wrong with it: read it to say what
                self._prove(upload)

        return fetched

    def _look(self, upload: _Upload, part: memoryview) -> None:
        """A chunk came, and is still in the processor's cache."""
        if self._bench.fits(part):
            upload.fits += len(part)

    def _prove(self, upload: _Upload) -> None:
        order = upload.order
        if order.manifest.size < THREAD_FROM:
            self._judge(order, self._bench.fault_in_update(order.manifest.blob_id, order.tier))
        else:
            upload.task = asyncio.create_task(self._prove_in_thread(order))

    async def _prove_in_thread(self, order: FetchUpdate) -> None:
        try:
            fault = await asyncio.to_thread(self._bench.fault_in_update, order.manifest.blob_id, order.tier)
        except StoreError as error:  # its file went while it was read, or the disk is bad
            self._end(order, f"not proven: {error}", retry=True)
        else:
            self._judge(order, fault)

    def _judge(self, order: FetchUpdate, fault: str) -> None:
        if fault:
            self._end(order, fault)
        else:
            self._free(order.device)
            self._post(UpdateStored(order.round, order.device, order.manifest.blob_id))

    def _not_kept(self, order: FetchUpdate, why: str) -> None:
        """The disk has no room for it now: a person hears of it, the device tries again."""
        log.warning("the update of %s is not kept, it is to come again: %s", order.device, why)
        self._end(order, f"not kept: {why}", retry=True)

    def _end(self, order: FetchUpdate, reason: str, *, retry: bool = False) -> None:
        self._free(order.device)
        if not retry:
            self._blobs.drop(order.manifest.blob_id)
        self._post(UpdateBad(order.round, order.device, reason, retry, order.manifest.blob_id))

    def _free(self, device: str) -> None:
        self._uploads.pop(device, None)
        self._start(self._admission.release(device, self._now()))
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._admission.due
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        turn = self._admission.tick(self._now())
        for device in turn.evicted:
            upload = self._uploads.pop(device, None)
            if upload is not None:
                self._fetcher.cancel(device)
                reason = "sent nothing for too long"
                order = upload.order
                self._post(UpdateBad(order.round, device, reason, True, order.manifest.blob_id))
        self._start(turn.admitted)
        self._set_timer()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
