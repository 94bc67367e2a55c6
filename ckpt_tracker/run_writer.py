"""Everything that one training holds to write one run: the run's lock, the staging buffer, the background writer.

The order of a save: capture, objects, manifest (the commit), index, and only then whatever may delete.
"""

from __future__ import annotations

import gc
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ckpt_tracker.disk.filesystem import FileLock, naming_full_disk
from ckpt_tracker.disk.formats import file_name, versions
from ckpt_tracker.errors import CkptTrackerError, RunBusy, StoreFull
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.events import EventLog
from ckpt_tracker.files.objects import ObjectWriter, WrittenTensors
from ckpt_tracker.records import CheckpointRecord, Parent
from ckpt_tracker.state.finiteness import NonFinite, nonfinite, weights
from ckpt_tracker.state.staging import CapturedState, StagingBuffer
from ckpt_tracker.state.tree import encode
from ckpt_tracker.writer import BackgroundWriter, Pending

if TYPE_CHECKING:
    from ckpt_tracker.store import Store

_log = logging.getLogger("ckpt_tracker")
AfterSave = Callable[[CheckpointRecord], None]


@dataclass(frozen=True)
class Capture:
    """A captured state that is not submitted yet: it becomes a checkpoint, or is discarded."""

    state: CapturedState
    buffer: StagingBuffer
    created_at: datetime
    stall_seconds: float


class RunWriter:
    """The one writer of a run. Making it takes the run's lock; `close` gives it back."""

    def __init__(self, store: Store, run: str) -> None:
        self._store = store
        self._run = run
        self._folder = store.layout.manifests(run)
        self._lock = FileLock(store.layout.run(run) / "lock")
        with naming_full_disk(store.path):
            self._take_lock()
        self._writer = BackgroundWriter(f"ckpt_tracker {run}")
        self._staging = StagingBuffer()
        self._held: Capture | None = None
        self._objects = ObjectWriter(store.objects)
        self._log = EventLog(store.layout.events(run), tmp=store.layout.tmp)
        self._sound: frozenset[str] = frozenset()
        self._saved = 0
        self._version = max([self._log.state().newest, *versions(self._folder), *versions(store.layout.trash / run)])
        self.parent: Parent | None = None
        self._remembered: int | None = None
        self._remembered_as: tuple[int, int] | None = None
        store.layout.settle(run)
        self._remember_newest()

    def capture(self, state: Mapping[str, object], *, steady: frozenset[int] = frozenset()) -> Capture:
        """Copies the state; it may change once this returns. Waits for the save before to be written.

        Tensors at `steady` addresses may change once `settle` returns, which has to be called then.
        Raises UnstorableLeaf for what has no form, SaveFailed in a forked child.
        """
        started = time.perf_counter()
        self._writer.check_process(f"run {self._run!r}")
        # a capture that is still held would never free the common buffer
        buffer = StagingBuffer() if self._held else self._staging
        captured = buffer.capture(encode(dict(state)), steady=steady)
        stall = time.perf_counter() - started
        self._held = Capture(captured, buffer, datetime.now(timezone.utc), stall)
        return self._held

    def settle(self, capture: Capture) -> tuple[Capture, str | None]:
        """Waits until all of a capture is copied; returns it, with the time that took, and what changed meanwhile.

        Where something did, it is a mixture of two states: it can be discarded, and nothing else.
        """
        copying = capture.state.copying
        if copying is None:
            return capture, None
        started = time.perf_counter()
        changed = copying.finish()
        stall = capture.stall_seconds + time.perf_counter() - started
        self._held = replace(capture, state=capture.state.arrived(copying), stall_seconds=stall)
        return self._held, changed

    def discard(self, capture: Capture) -> None:
        """Gives the buffer of a capture back that is not to become a checkpoint."""
        self._held = None
        capture.buffer.release()

    def submit(
        self, capture: Capture, record: CheckpointRecord, *, then: AfterSave | None
    ) -> tuple[CheckpointRecord, Pending[CheckpointRecord]]:
        """Queues a capture to become the run's next checkpoint; `then` runs in the background, after it is durable."""
        assert capture.state.copying is None
        self._version += 1
        record = replace(
            record,
            run=self._run,
            version=self._version,
            created_at=capture.created_at,
            stall_seconds=capture.stall_seconds,
            sections=tuple(capture.state.skeleton),
        )
        self._held = None
        pending = self._writer.submit(record.ref, lambda: self._write(capture, record, then))
        return record, pending

    def close(self, timeout: float | None = None) -> list[str]:
        """Waits for what is queued, and gives the lock back; returns what is not durable after `timeout` seconds, and
        keeps the lock until that has ended.
        """
        late = self._writer.close(timeout)
        if not late:
            # or another training would be given the versions that are still being written
            self._tell_newest()
            self._lock.release()
        return late

    def raise_pending(self) -> None:
        """Raises the error of an earlier save that nobody was told of, once."""
        self._writer.raise_pending()

    def drain(self, timeout: float | None = None) -> list[str]:
        """Waits for what is queued; returns what is not durable after `timeout` seconds."""
        return self._writer.drain(timeout)

    def _write(self, capture: Capture, record: CheckpointRecord, then: AfterSave | None) -> CheckpointRecord:
        try:
            try:
                record = self._make_durable(capture, record)
            except StoreFull as error:
                freed = self._store.make_room()
                if not freed:
                    raise
                _log.warning("%s; %d bytes of trash were deleted, and it is tried once more", error, freed)
                record = self._make_durable(capture, record)
        finally:
            capture.buffer.release()
        self.parent = Parent(record.ref, record.digest)
        try:
            self._store.index.put([record])
            if then is not None:
                then(record)
        except (CkptTrackerError, OSError, sqlite3.Error) as error:
            _log.warning("%s is durable, but the work after it was not done: %s", record.ref, error)
        return record

    def _make_durable(self, capture: Capture, record: CheckpointRecord) -> CheckpointRecord:
        state = capture.state
        with naming_full_disk(self._store.path), self._store.lock.writing():
            if self._remembered and self._identity(self._remembered) != self._remembered_as:
                # then its objects may have been deleted, and made again by somebody who did not come to sync them
                self._objects.remember(())
            if not self._log.length_file.exists():
                # so that events that are missing later are missed
                self._log.append("open")
            record = replace(record, nonfinite=self._nonfinite(state))
            written = self._objects.write(state.specs, state.data, known=state.hashes)
            hashes = [entry.hash for entry in written.entries]
            capture.buffer.keep(hashes)
            sound = () if record.nonfinite else weights(state.skeleton)
            self._sound = frozenset(hashes[index] for index in sound)
            manifest = self._manifest(state, record, written)
            manifests.publish(manifest, self._folder, tmp=self._store.layout.tmp)
            self._objects.remember(written.entries)
            self._remembered = self._saved = record.version
            self._remembered_as = self._identity(record.version)
        return manifest.record

    def _nonfinite(self, state: CapturedState) -> dict[str, NonFinite]:
        sound = frozenset(index for index, name in enumerate(state.hashes) if name in self._sound)
        return nonfinite(state.skeleton, state.specs, state.data, sound=sound)

    def _manifest(self, state: CapturedState, record: CheckpointRecord, written: WrittenTensors) -> manifests.Manifest:
        complete = replace(
            record,
            digest=manifests.digest(state.skeleton, written.entries),
            nbytes=sum(spec.nbytes for spec in state.specs),
            stored_bytes=written.new_bytes,
            write_seconds=written.write_seconds,
            parents=(self.parent,) if self.parent else (),
        )
        return manifests.Manifest(complete, state.skeleton, written.entries, self._log.settle())

    def _tell_newest(self) -> None:
        """So that a verify knows which manifests there must be. Not in a forked child: the lock is not its own."""
        if not self._saved or not self._lock.held:
            return
        try:
            self._log.append("close", newest=self._saved)
        except (CkptTrackerError, OSError) as error:
            _log.warning("run %s: its events were not told that it is closed: %s", self._run, error)

    def _remember_newest(self) -> None:
        """Lets the first save refer to what the run's newest checkpoint stored."""
        for version in reversed(versions(self._folder)):
            self._remembered_as = self._identity(version)
            try:
                self._objects.remember(manifests.read(self._folder, version, run=self._run).tensors)
            except CkptTrackerError:
                continue
            self._remembered = version
            return

    def _identity(self, version: int) -> tuple[int, int] | None:
        """Which file a manifest is: retention may put one with fewer sections in its place. None where it is gone."""
        try:
            status = (self._folder / file_name(version)).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _take_lock(self) -> None:
        if not self._lock.acquire(wait=False):
            # a store of this process that nobody refers to any more may still hold it
            gc.collect()
            if not self._lock.acquire(wait=False):
                raise RunBusy(
                    f"run {self._run!r} is being written by another training (process {self._lock.read() or '?'}): "
                    "wait for it, stop it, or give this training another run name"
                )
        self._lock.sign(str(os.getpid()))
