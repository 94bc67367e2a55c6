"""Deleting checkpoints and the objects that nothing needs any more.

The manifest goes first, durably, and only then objects; an object goes only while the store's lock is held alone and
no manifest that is left, in a run or in the trash, refers to it. A manifest that can't be read stops the
sweep: what it needs is not known.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ckpt_tracker import formats
from ckpt_tracker import manifest as manifests
from ckpt_tracker.errors import CheckpointGone, CkptTrackerError
from ckpt_tracker.events import EventLog
from ckpt_tracker.filesystem import StoreLock, make_folder, sync_path
from ckpt_tracker.formats import file_name
from ckpt_tracker.layout import Layout
from ckpt_tracker.objects import ObjectFolder

_log = logging.getLogger("ckpt_tracker")
TRASH_SECONDS = 24 * 3600.0


class Reclaimer:
    """Evicts, trashes and sweeps in one store."""

    def __init__(self, layout: Layout, objects: ObjectFolder, lock: StoreLock) -> None:
        self._layout = layout
        self._objects = objects
        self._lock = lock
        self._postponed: set[str] = set()
        self._seen: dict[Path, tuple[tuple[int, int], frozenset[str]]] = {}

    def evict(self, run: str, versions: Sequence[int]) -> None:
        """Deletes checkpoints for good; `free` frees their objects."""
        folder = self._layout.manifests(run)
        with self._lock.writing():
            self._postponed.update(self._objects_of(run, versions))
            self._log_of(run).append("evict", versions=list(versions), reason="retention")
            for version in versions:
                (folder / file_name(version)).unlink(missing_ok=True)
            sync_path(folder)

    def free(self) -> int:
        """Deletes what evicted checkpoints alone needed; returns the bytes freed.

        At once, or with the next call when other saves are under way.
        """
        if not self._postponed:
            return 0
        with self._lock.sweeping(wait=False) as alone:
            return self._free(self._postponed) if alone else 0

    def trash(self, run: str, versions: Iterable[int]) -> None:
        """Moves checkpoints to the trash: their objects stay until the trash is emptied, a day later or more."""
        source, target = self._layout.manifests(run), self._layout.trash / run
        with self._lock.writing():
            there = sorted(set(versions) & set(formats.versions(source)))
            if not there:
                return
            self._log_of(run).append("remove", versions=there)
            make_folder(target)
            for name in map(file_name, there):
                os.utime(source / name)
                os.replace(source / name, target / name)
            sync_path(target)
            sync_path(source)

    def collect(self, *, trash_seconds: float = TRASH_SECONDS, dry_run: bool = False, wait: bool = True) -> int:
        """Empties the trash of what is older than that, and deletes every object that nothing needs; returns the bytes.

        Waits until no save is under way; with `wait=False` it does nothing then. Raises Damaged when a manifest can't
        be read: nothing is deleted.
        """
        with self._lock.sweeping(wait=wait) as alone:
            if not alone:
                return 0
            old = self._trash_before(time.time() - trash_seconds)
            unneeded = set(self._objects.names()) - self._live(without=old)
            if dry_run:
                deletable = [self._objects.path(name) for name in unneeded if not self._objects.rests(name)]
                return sum(path.stat().st_size for path in [*deletable, *self._objects.left_over()])
            for path in old:
                path.unlink()
            for folder in {path.parent for path in old}:
                sync_path(folder)
            freed = self._free(unneeded)
            for path in self._objects.left_over():
                freed += path.stat().st_size
                path.unlink()
            return freed

    def freed_by(self, removed: Iterable[tuple[str, int]]) -> int:
        """Bytes of the objects that only these checkpoints need; 0 while a manifest can't be read, and that is said."""
        going = {self._layout.manifests(run) / file_name(version) for run, version in removed}
        try:
            needed = [self._needed(path) for path in going]
            live = self._live(without=going)
        except CkptTrackerError as error:
            _log.warning("no space would be freed: %s", error)
            return 0
        return sum(self._objects.size(name) or 0 for name in frozenset().union(*needed) - live)

    def _free(self, candidates: set[str]) -> int:
        try:
            live = self._live()
        except CkptTrackerError as error:
            _log.warning("no space was freed: %s", error)
            raise
        unneeded = candidates - live
        resting = {name for name in unneeded if self._objects.rests(name)}
        freed = sum(self._objects.delete(name) for name in unneeded - resting)
        # nobody adds to it while the sweep has the lock: evictions share that
        self._postponed = resting
        return freed

    def _live(self, *, without: Iterable[Path] = ()) -> frozenset[str]:
        paths = set(self._manifest_files()) - set(without)
        self._seen = {path: seen for path, seen in self._seen.copy().items() if path in paths}
        return frozenset().union(*(self._needed(path) for path in paths))

    def _manifest_files(self) -> Iterator[Path]:
        for run in self._layout.run_names():
            for folder in (self._layout.manifests(run), self._layout.trash / run):
                for version in formats.versions(folder):
                    yield folder / file_name(version)

    def _needed(self, path: Path) -> frozenset[str]:
        """The objects of a manifest; none when it is gone. Manifests never change, so each is read once."""
        run = path.parent.parent.name if path.parent.name == "manifests" else path.parent.name
        try:
            status = path.stat()
            identity = (status.st_ino, status.st_mtime_ns)
            seen = self._seen.get(path)
            if seen is None or seen[0] != identity:
                found = manifests.read(path.parent, int(path.stem), run=run)
                seen = self._seen[path] = (identity, found.objects)
        except (CheckpointGone, FileNotFoundError):
            return frozenset()
        return seen[1]

    def _objects_of(self, run: str, versions: Iterable[int]) -> frozenset[str]:
        needed: set[str] = set()
        for version in versions:
            try:
                needed |= self._needed(self._layout.manifests(run) / file_name(version))
            except CkptTrackerError as error:
                # its objects are left to the next gc
                _log.warning("%s", error)
        return frozenset(needed)

    def _trash_before(self, moment: float) -> list[Path]:
        folders = [folder for folder in self._layout.trash.iterdir() if folder.is_dir()]
        paths = (path for folder in folders for path in folder.iterdir() if path.is_file())
        return [path for path in paths if path.stat().st_mtime <= moment]

    def _log_of(self, run: str) -> EventLog:
        return EventLog(self._layout.events(run))
