"""Deleting checkpoints and the objects that nothing needs any more.

The manifest goes first, durably, and only then objects; an object goes only while the store's lock is held alone and
no manifest that is left, in a run or in the trash, refers to it. A manifest that can't be read stops the
sweep: what it needs is not known.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ckpt_tracker.disk import formats
from ckpt_tracker.disk.filesystem import StoreLock, make_folder, sync_folder, write_durably
from ckpt_tracker.disk.formats import file_name
from ckpt_tracker.disk.jsonfile import MOST_BYTES
from ckpt_tracker.disk.plain_files import check_folder, kind_of_file, read_plain
from ckpt_tracker.errors import CheckpointGone, CkptTrackerError, Damaged
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.events import EventLog
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.files.manifest import Manifest
from ckpt_tracker.files.object_folder import ObjectFolder
from ckpt_tracker.inspection import quarantine
from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.retention.stripping import strip_each, weights_objects

_log = logging.getLogger("ckpt_tracker")
TRASH_SECONDS = 24 * 3600.0
_WRITTEN_BACK_SECONDS = 600.0
"""A change that is older has reached the disk without anybody's fsync."""


class Reclaimer:
    """Evicts, trashes and sweeps in one store."""

    def __init__(self, layout: Layout, objects: ObjectFolder, lock: StoreLock) -> None:
        self._layout = layout
        self._objects = objects
        self._lock = lock
        self._postponed: set[str] = set()
        self._told = False
        self._seen: dict[tuple[Path, bool], tuple[tuple[int, int], frozenset[str]]] = {}
        self._sizes: dict[str, int] = {}

    def evict(
        self, run: str, versions: Sequence[int], *, stripped: Sequence[int] = (), **details: Any
    ) -> list[CheckpointRecord]:
        """Deletes checkpoints for good, and leaves others with their weights only; `free` frees their objects.

        Returns what the stripped ones are now. The run's events are told, with `details`.
        """
        folder = self._layout.manifests(run)
        with self._lock.writing():
            sync_folder(folder)  # what is kept may be somebody's who did not come to sync it
            self._postponed.update(self._objects_of(run, [*versions, *stripped]))
            newest = max([*formats.versions(folder), *versions], default=1)
            told = {"reason": "retention", "newest": newest, **details}
            weights = self._record(run, "evict", versions, stripped, told)
            for version in versions:
                (folder / file_name(version)).unlink(missing_ok=True)
            for manifest in weights:
                manifests.publish(manifest, folder, tmp=self._layout.tmp)
            sync_folder(folder)
        return [manifest.record for manifest in weights]

    def free(self, *, seconds: float = 0.0) -> int:
        """Deletes what evicted checkpoints alone needed; returns the bytes freed.

        At once, or with the next call when other saves are under way, and do not end in `seconds`. While a manifest
        can't be read nothing is freed: that is said once, and ends no training.
        """
        if not self._postponed:
            return 0
        try:
            with self._lock.sweeping(wait=False, seconds=seconds) as alone:
                return self._free(self._postponed) if alone else 0
        except CkptTrackerError as error:
            if not self._told:
                _log.warning("%s", error)
            self._told = True
            return 0

    def trash(
        self, run: str, versions: Iterable[int], *, stripped: Sequence[int] = (), **details: Any
    ) -> list[CheckpointRecord]:
        """Moves checkpoints to the trash: their objects stay until the trash is emptied, a day later or more.

        Others it leaves with their weights only, with a copy of the whole manifest in the trash. Returns what those are
        now. The run's events are told, with `details`.
        """
        source, target = self._layout.manifests(run), self._layout.trash / run
        with self._lock.writing():
            sync_folder(source)
            there = sorted(set(versions) & set(formats.versions(source)))
            weights = self._record(run, "remove", there, stripped, details)
            if not there and not weights:
                return []
            make_folder(target)
            for name in map(file_name, there):
                self._move_to_trash(source / name, target / name)
            for manifest in weights:
                name = file_name(manifest.record.version)
                write_durably(target / name, read_plain(source / name, most=MOST_BYTES), tmp=self._layout.tmp)
                manifests.publish(manifest, source, tmp=self._layout.tmp)
            sync_folder(target)
            sync_folder(source)
        return [manifest.record for manifest in weights]

    def restore(self, run: str, versions: Sequence[int], **details: Any) -> list[CheckpointRecord]:
        """Moves checkpoints out of the trash, as they were; returns their records.

        Raises CheckpointGone where the trash has been emptied meanwhile, Damaged: nothing is moved then.
        """
        source, target = self._layout.trash / run, self._layout.manifests(run)
        with self._lock.writing():
            self._check_folders(run)
            records = [manifests.read(source, version, run=run).record for version in versions]
            digests = [record.digest for record in records]
            self._log_of(run).append("restore", versions=list(versions), digests=digests, **details)
            sync_folder(source)
            for name in map(file_name, versions):
                os.replace(source / name, target / name)
            sync_folder(target)
            sync_folder(source)
        return records

    def named(self) -> frozenset[str] | None:
        """Every object that a manifest names, in a run, the trash or quarantine; None where one can't be read."""
        try:
            return self._named(self._manifest_files())
        except CkptTrackerError:
            return None

    def release(self, names: Iterable[str]) -> int:
        """Deletes what nothing needs of these objects; returns the bytes freed. Waits until no save is under way."""
        with self._lock.sweeping():
            postponed = set(self._postponed)
            freed = self._free(set(names))
            self._postponed |= postponed
        return freed

    def collect(self, *, trash_seconds: float = TRASH_SECONDS, dry_run: bool = False, wait: bool = True) -> int:
        """Empties the trash of what is older than that, and deletes every object that nothing needs; returns the bytes.

        Waits until no save is under way; with `wait=False` it does nothing then. Raises Damaged when a manifest can't
        be read: nothing is deleted.
        """
        with self._lock.sweeping(wait=wait) as alone:
            if not alone:
                return 0
            old = self._trash_before(time.time() - trash_seconds)
            live = self._live(without=old)
            unneeded = {name for name in self._objects.names() if name not in live}
            if dry_run:
                deletable = [self._objects.stored_size(name) for name in unneeded if not self._objects.rests(name)]
                return sum([*deletable, *(path.stat().st_size for path in self._objects.left_over())])
            for path in old:
                path.unlink()
            for folder in {path.parent for path in old}:
                sync_folder(folder)
            freed = self._delete(unneeded)
            for path in self._objects.left_over():
                freed += path.stat().st_size
                path.unlink()
            return freed

    def freed_by(self, removed: Iterable[CheckpointRecord], stripped: Iterable[CheckpointRecord] = ()) -> int:
        """Bytes of the objects that only the removed checkpoints need, and the stripped ones beside their weights.

        0 while a manifest can't be read, and that is said.
        """
        thinner = set(map(self._path, stripped))
        going = set(map(self._path, removed)) | thinner
        try:
            needed = self._objects.with_bases(frozenset().union(*map(self._needed, going)))
            weights = frozenset().union(*(self._needed(path, weights_only=True) for path in thinner))
            live = self._live(without=going) | self._objects.with_bases(weights)
        except CkptTrackerError as error:
            _log.warning("no space would be freed: %s", error)
            return 0
        return sum(map(self._objects.stored_size, needed - live))

    def freed_by_emptying(self) -> int:
        """Bytes of the objects that only what is in the trash needs. Raises Damaged where a manifest can't be read."""
        folders = [self._layout.trash / run for run in self._layout.run_names()]
        trashed = [folder / file_name(version) for folder in folders for version in formats.versions(folder)]
        needed = self._objects.with_bases(frozenset().union(*map(self._needed, trashed)))
        return sum(map(self._objects.stored_size, needed - self._live(without=trashed)))

    def footprint(self, record: CheckpointRecord, *, weights_only: bool = False) -> Mapping[str, int]:
        """The objects that a checkpoint needs, whole or its weights only, with their bytes on the disk.

        Of a manifest that can't be read it is taken to need an object of its own.
        """
        try:
            needed = self._needed(self._path(record), weights_only=weights_only)
            if self._objects.encoded.exists:
                return {name: self._objects.stored_size(name) for name in self._objects.with_bases(needed)}
            return {name: self._size(name) for name in needed}
        except CkptTrackerError:
            return {record.ref: record.nbytes}

    def _free(self, candidates: set[str]) -> int:
        try:
            live = self._live()
        except CkptTrackerError as error:
            raise Damaged(f"no space is freed: {error}") from error
        return self._delete(candidates - live)

    def _delete(self, unneeded: set[str]) -> int:
        self._settle()
        resting = {name for name in unneeded if self._objects.rests(name)}
        freed = self._objects.delete(unneeded - resting)
        # nobody adds to it while the sweep has the lock: evictions share that
        self._postponed = resting
        return freed

    def _settle(self) -> None:
        """What a killed process deleted must not come back once its objects are gone."""
        latest = time.time() - _WRITTEN_BACK_SECONDS
        for run in self._layout.run_names():
            for folder in (self._layout.manifests(run), self._layout.trash / run):
                if folder.is_dir() and folder.stat().st_mtime > latest:
                    sync_folder(folder)

    def _live(self, *, without: Iterable[Path] = ()) -> frozenset[str]:
        paths = set(self._manifest_files()) - set(without)
        self._seen = {key: seen for key, seen in self._seen.copy().items() if key[0] in paths}
        try:
            return self._objects.with_bases(self._named(paths))
        except CkptTrackerError as error:
            raise Damaged(f"{error}: see `ckpt repair`") from error

    def _named(self, paths: Iterable[Path]) -> frozenset[str]:
        return quarantine.named_objects(self._layout).union(*(self._needed(path) for path in paths))

    def _manifest_files(self) -> Iterator[Path]:
        for run in self._layout.run_names():
            for folder in (self._layout.manifests(run), self._layout.trash / run):
                for version in formats.versions(folder):
                    yield folder / file_name(version)

    def _needed(self, path: Path, *, weights_only: bool = False) -> frozenset[str]:
        """The objects of a manifest; none when it is gone. As long as it is the same file it is read once."""
        run = path.parent.parent.name if path.parent.name == "manifests" else path.parent.name
        try:
            status = path.stat()
            identity = (status.st_ino, status.st_mtime_ns)
            seen = self._seen.get((path, weights_only))
            if seen is None or seen[0] != identity:
                version = int(path.stem)
                if weights_only:
                    objects = weights_objects(manifests.read(path.parent, version, run=run))
                else:
                    objects = manifests.read_objects(path.parent, version, run=run)
                seen = self._seen[path, weights_only] = (identity, objects)
        except (CheckpointGone, FileNotFoundError):
            return frozenset()
        return seen[1]

    def _size(self, name: str) -> int:
        if name not in self._sizes:
            self._sizes[name] = self._objects.stored_size(name)
        return self._sizes[name]

    def _path(self, record: CheckpointRecord) -> Path:
        return self._layout.manifests(record.run) / file_name(record.version)

    def _record(
        self, run: str, event: str, versions: Sequence[int], stripped: Sequence[int], details: Mapping[str, Any]
    ) -> list[Manifest]:
        """Tells the run's events what is about to be done; returns the manifests of the stripped ones."""
        self._check_folders(run)
        weights = strip_each(self._layout.manifests(run), stripped, run=run)
        if versions:
            self._log_of(run).append(event, versions=list(versions), **details)
        if weights:
            records = [manifest.record for manifest in weights]
            told = {"versions": [each.version for each in records], "digests": [each.digest for each in records]}
            self._log_of(run).append("strip", **told, **details)
        return weights

    def _check_folders(self, run: str) -> None:
        """Nothing is moved or deleted through a symlink: it may lead out of the store."""
        self._layout.check_run(run)
        check_folder(self._layout.trash / run)

    def _move_to_trash(self, source: Path, target: Path) -> None:
        """What is there already is the whole of what has its weights only by now: that is what comes back."""
        if target.exists():
            os.utime(target)
            source.unlink()
        else:
            os.utime(source)
            os.replace(source, target)

    def _objects_of(self, run: str, versions: Iterable[int]) -> frozenset[str]:
        needed: set[str] = set()
        for version in versions:
            try:
                needed |= self._needed(self._layout.manifests(run) / file_name(version))
            except CkptTrackerError as error:
                # its objects are left to the next gc
                _log.warning("%s", error)
        try:
            return self._objects.with_bases(needed)
        except CkptTrackerError as error:
            _log.warning("%s", error)
        return frozenset(needed)

    def _trash_before(self, moment: float) -> list[Path]:
        folders = [folder for folder in self._layout.trash.iterdir() if kind_of_file(folder) == "a folder"]
        paths = (path for folder in folders for path in folder.iterdir() if kind_of_file(path) == "a file")
        return [path for path in paths if path.stat().st_mtime <= moment]

    def _log_of(self, run: str) -> EventLog:
        return EventLog(self._layout.events(run))
