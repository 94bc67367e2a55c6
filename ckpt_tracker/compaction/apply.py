"""Carrying a plan out: encode, write, sync, read back, name; only then the raw bytes go.

The work is done without the store's lock. It is shared while encoded files get their names, and held alone only while
raw bytes are deleted: a save waits for that, and for nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tracker.compaction.plan import CompactionPlan, Progress, Step
from ckpt_tracker.disk.filesystem import (
    FileLock,
    StoreLock,
    create,
    make_folder,
    naming_full_disk,
    sync,
    sync_folder,
    unused_name,
    write_all,
)
from ckpt_tracker.errors import CheckpointGone, CkptTrackerError, Damaged, MissingExtra, StoreFull
from ckpt_tracker.files.object_folder import hash_of

if TYPE_CHECKING:
    from ckpt_tracker.encoding.encoder import Encoded
    from ckpt_tracker.encoding.source import Source
    from ckpt_tracker.files.layout import Layout
    from ckpt_tracker.files.object_folder import ObjectFolder

_log = logging.getLogger("ckpt_tracker")
_BATCH_BYTES = 256 * 2**20
_BATCH_OBJECTS = 256


@dataclass(frozen=True)
class Compaction:
    """What was done."""

    objects: int = 0
    """That were encoded."""
    before_bytes: int = 0
    """That they took."""
    after_bytes: int = 0
    """That they take."""
    freed_bytes: int = 0
    """With what only earlier encodings needed."""


@dataclass(frozen=True)
class _Made:
    """An encoded file that is whole and durable, and has no name yet."""

    step: Step
    scratch: Path
    nbytes: int


class Compactor:
    """Applies plans to one store; one at a time in all processes."""

    def __init__(
        self, layout: Layout, objects: ObjectFolder, lock: StoreLock, *, release: Callable[[Iterable[str]], int]
    ) -> None:
        """`release` deletes what nothing needs of some objects, and returns the bytes."""
        self._layout = layout
        self._objects = objects
        self._lock = lock
        self._release = release
        self._in_use: set[str] = set()

    def apply(self, plan: CompactionPlan, *, threads: int, progress: Progress | None = None) -> Compaction:
        """Does what the plan says, where it is still so. What was done before an error stays done.

        Raises StoreFull; MissingExtra. What is damaged is left as it is, and named in a warning.
        """
        done = Compaction()
        if not plan.steps:
            return done
        with FileLock(self._layout.locks / "compaction").taken(), naming_full_disk(self._layout.root):
            with self._lock.writing():
                self._layout.prepare_encoded()
            self._in_use = self._bases()
            reached, total = 0, sum(step.nbytes for step in plan.steps)
            with ThreadPoolExecutor(threads, thread_name_prefix="ckpt_tracker compact") as pool:
                for batch in _batches(plan.steps):
                    done = self._batch(batch, pool, done)
                    reached += sum(step.nbytes for step in batch)
                    if progress is not None:
                        progress(reached, total)
            freed = self._release({step.replaces for step in plan.steps if step.replaces})
        return replace(done, freed_bytes=done.freed_bytes + freed)

    def _batch(self, batch: list[Step], pool: ThreadPoolExecutor, done: Compaction) -> Compaction:
        futures = [pool.submit(self._make, step) for step in batch]
        try:
            made = [each for future in futures if (each := future.result()) is not None]
            with self._lock.writing():
                # a base that had one itself must not need it any more, whatever is lost, before others stand on it
                named = self._name([each for each in made if each.step.base is None])
                named += self._name([each for each in made if each.step.base is not None])
            with self._lock.sweeping():
                encoded = [each for each in named if self._drop_raw(each.step)]
        finally:
            for future in futures:
                if not future.cancel() and future.exception() is None and (each := future.result()) is not None:
                    each.scratch.unlink(missing_ok=True)
        before, after = sum(each.step.stored_bytes for each in encoded), sum(each.nbytes for each in encoded)
        return Compaction(
            done.objects + len(encoded),
            done.before_bytes + before,
            done.after_bytes + after,
            done.freed_bytes + before - after,
        )

    # -- making, without the lock ----------------------------------------------------------------------------

    def _make(self, step: Step) -> _Made | None:
        """Encodes one object into a file of `tmp/`; None where that is not worth it, or not possible."""
        try:
            with self._opened(step) as (source, base):
                return self._written(step, source, base)
        except (MissingExtra, StoreFull):
            raise
        except CheckpointGone:
            return None  # evicted meanwhile
        except CkptTrackerError as error:
            _log.warning("object %s is left as it is: %s", step.object, error)
            return None

    @contextlib.contextmanager
    def _opened(self, step: Step) -> Iterator[tuple[Source, Source | None]]:
        with contextlib.ExitStack() as stack:
            found: list[Source | None] = []
            for name in (step.object, step.base):
                source = self._objects.open(name) if name else None
                if name and (source is None or source.nbytes != step.nbytes):
                    raise CheckpointGone(f"object {name} is not there any more")
                found.append(source)
                if source is not None:
                    stack.callback(source.close)
            assert found[0] is not None
            yield found[0], found[1]

    def _written(self, step: Step, source: Source, base: Source | None) -> _Made | None:
        from ckpt_tracker.encoding.encoder import encode

        encoded = encode(source, width=step.width, base=base, base_name=step.base)
        if encoded.hash != step.object:
            raise Damaged(f"{self._objects.file(step.object)} is damaged: its bytes do not have the hash in its name")
        if encoded.nbytes >= step.stored_bytes and not step.replaces:
            return None
        scratch = self._layout.tmp / unused_name(f"encoded.{step.object}")
        try:
            _write(scratch, encoded)
            self._read_back(step, scratch, base)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        return _Made(step, scratch, encoded.nbytes)

    def _read_back(self, step: Step, scratch: Path, base: Source | None) -> None:
        """The file gives the object's bytes: nothing is taken away on the encoder's word alone."""
        source = self._objects.encoded.open_at(scratch, step.object)
        if source is None:
            raise CheckpointGone(f"{scratch} is not there any more")
        try:
            source.base = base
            if hash_of(source) != step.object:
                raise Damaged(f"what was encoded of object {step.object} is not read back as it was")
        finally:
            source.base = None  # it is closed by who opened it
            source.close()

    # -- naming, and letting go, with it ---------------------------------------------------------------------

    def _name(self, made: list[_Made]) -> list[_Made]:
        """Gives the files their names, durably, where the store is still as the plan found it."""
        named = []
        folders = set()
        for each in made:
            if not self._fits(each.step):
                continue
            target = self._objects.encoded.path(each.step.object)
            if not target.parent.exists():
                make_folder(target.parent)
            try:
                os.replace(each.scratch, target)
            except FileNotFoundError:
                continue  # a sweep took it for a killed process's
            if each.step.base is not None:
                self._in_use.add(each.step.base)
            self._objects.freshen(each.step.object)
            folders.add(target.parent)
            named.append(each)
        for folder in folders:
            sync_folder(folder)
        return named

    def _fits(self, step: Step) -> bool:
        is_raw = self._objects.raw.size(step.object) == step.nbytes
        if step.replaces is None and not is_raw:
            return False
        if step.replaces is not None and self._objects.usable_size(step.object) != step.nbytes:
            return False
        if step.base is None:
            return True
        # one step deep, also where another compaction came between
        header = None if self._objects.raw.size(step.base) is not None else self._objects.encoded.header(step.base)
        stands_alone = header is None or header.base is None
        return stands_alone and step.object not in self._in_use and self._objects.size(step.base) == step.nbytes

    def _drop_raw(self, step: Step) -> bool:
        """Deletes the raw bytes of an object that is encoded; False where it was swept meanwhile."""
        header = self._objects.encoded.header(step.object)
        if header is None or (header.base is not None and self._objects.size(header.base) != header.nbytes):
            return False
        self._objects.path(step.object).unlink(missing_ok=True)
        return True

    def _bases(self) -> set[str]:
        found = set()
        for name in self._objects.encoded.names():
            with contextlib.suppress(CkptTrackerError):
                header = self._objects.encoded.header(name)
                found.update([header.base] if header and header.base else [])
        return found


def _batches(steps: Iterable[Step]) -> Iterator[list[Step]]:
    batch: list[Step] = []
    nbytes = 0
    for step in steps:
        if batch and (nbytes + step.nbytes > _BATCH_BYTES or len(batch) == _BATCH_OBJECTS):
            yield batch
            batch, nbytes = [], 0
        batch.append(step)
        nbytes += step.nbytes
    if batch:
        yield batch


def _write(path: Path, encoded: Encoded) -> None:
    """Durable, but for its name, when it returns."""
    descriptor = create(path, b"")
    try:
        for chunk in encoded.chunks:
            write_all(descriptor, chunk)
        sync(descriptor)
    finally:
        os.close(descriptor)
