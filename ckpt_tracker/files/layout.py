"""Where things are in a store's folder, and whether a folder is a store."""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from ckpt_tracker.disk.filesystem import make_folder, naming_full_disk, sync_folder, write_durably
from ckpt_tracker.disk.formats import COMPACTED, FORMAT, read_document
from ckpt_tracker.disk.jsonfile import seal
from ckpt_tracker.disk.mounts import has_true_times, is_network
from ckpt_tracker.disk.plain_files import check_folder, kind_of_file, open_plain
from ckpt_tracker.errors import Damaged, NotAStore, StoreNotFound
from ckpt_tracker.selection import RUN_NAME

_log = logging.getLogger("ckpt_tracker")
_LOCKS = ("store", "turnstile", "retention")
# in the order in which they are made: `runs` alone is somebody else's (TensorBoard calls its folder that)
_FOLDERS = ("locks", "tmp", "objects", "trash", "runs")
_OURS = {
    *_FOLDERS,
    "encoded",
    "store.json",
    "index.sqlite",
    "index.sqlite-wal",
    "index.sqlite-shm",
    "index.sqlite-journal",
}


class Layout:
    """The paths of one store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        self.objects = root / "objects"
        self.encoded = root / "encoded"
        """There in a store that has been compacted."""
        self.trash = root / "trash"
        self.tmp = root / "tmp"
        self.locks = root / "locks"
        self.store_file = root / "store.json"
        self.quarantine = self.trash / "quarantine"
        """What a repair has moved away, each file under the path that it had in the store."""
        self.remade = False
        """`store.json` was missing in a store that had runs."""

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.runs / name

    def manifests(self, run: str) -> Path:
        """The folder of a run's manifests."""
        return self.runs / run / "manifests"

    def events(self, run: str) -> Path:
        """The file of a run's events."""
        return self.runs / run / "events.jsonl"

    def run_names(self) -> Iterator[str]:
        """The names of the runs on disk, sorted."""
        try:
            names = sorted(path.name for path in self.runs.iterdir() if kind_of_file(path) == "a folder")
        except FileNotFoundError:
            return
        yield from (name for name in names if RUN_NAME.fullmatch(name))

    def check_run(self, name: str) -> None:
        """Raises Damaged where a run's folders are not the store's own: what is written there would leave it."""
        check_folder(self.run(name))
        check_folder(self.manifests(name))

    @property
    def writable(self) -> bool:
        """This process may write here."""
        return os.access(self.root, os.W_OK)

    @cached_property
    def on_network(self) -> bool:
        """The store is on a network file system, where neither flock nor SQLite's shared memory can be trusted.

        `$CKPT_TRACKER_NETWORK` (1 or 0) says so of one that `mounts` does not know.
        """
        said = os.environ.get("CKPT_TRACKER_NETWORK")
        return said == "1" if said in ("0", "1") else is_network(self.root)

    @cached_property
    def keeps_times(self) -> bool:
        """What changes in a folder changes the folder's times, and at once."""
        return not self.on_network and has_true_times(self.root)

    def index_file(self) -> Path:
        """In the store; in the user's cache folder when the store can't be written, or is on a network file system."""
        if self.writable and not self.on_network:
            return self.root / "index.sqlite"
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ckpt_tracker"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            usable = not is_network(cache)
        except OSError:
            usable = False
        if not usable:
            import shutil
            import tempfile

            cache = Path(tempfile.mkdtemp(prefix="ckpt_tracker-"))
            weakref.finalize(self, shutil.rmtree, cache, ignore_errors=True)
        from blake3 import blake3

        return cache / f"{blake3(str(self.root.resolve()).encode()).hexdigest()[:32]}.sqlite"

    def open(self, *, create: bool) -> dict[str, Any]:
        """Reads `store.json`; makes the store where there is none yet and `create` says so.

        Raises StoreNotFound, NotAStore for a folder of something else, FormatTooNew (and writes nothing then).
        """
        try:
            document = read_document(self.store_file, newest=COMPACTED)
            if not isinstance(document.get("id"), str):
                raise Damaged(f"{self.store_file} is damaged: it has no id")
        except FileNotFoundError:
            return self._create(create=create)
        except Damaged as error:
            if not self.root.is_dir():
                raise NotAStore(f"{self.root} is a file: expected a folder that holds a store") from error
            raise Damaged(
                f"{error}; move it away to have it made anew, or let `ckpt repair` do that: "
                "it holds the format and an id only"
            ) from error
        self._check_folders()
        if self.writable:
            self._make_folders()
        return document

    def _check_folders(self) -> None:
        """Nothing that is written may leave the store: none of its folders is a symlink."""
        for name in (*_FOLDERS, "encoded"):
            check_folder(self.root / name)

    def _create(self, *, create: bool) -> dict[str, Any]:
        found = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        half_made = found <= _OURS and ("runs" not in found or {"locks", "objects"} <= found)
        if not half_made:
            some = ", ".join(sorted(found)[:3])
            raise NotAStore(
                f"{self.root} is not a store: it holds {some} and no store.json; name a new or an empty folder"
            )
        if not create and "runs" not in found:
            raise StoreNotFound(f"there is no store at {self.root}: name one with --store or $CKPT_TRACKER_STORE")
        self._check_folders()
        self.remade = any(self.run_names())
        if self.remade:
            _log.warning("%s was missing, though there are runs: made anew", self.store_file)
        document = {"format": COMPACTED if self.encoded.exists() else FORMAT, "id": os.urandom(16).hex()}
        if not found or self.writable:
            make_folder(self.root)
            self._make_folders()
            with naming_full_disk(self.root):
                write_durably(self.store_file, seal(document), tmp=self.tmp)
        return document

    def _make_folders(self) -> None:
        with naming_full_disk(self.root):
            for name in _FOLDERS:
                if not (self.root / name).is_dir():
                    make_folder(self.root / name)
        for name in _LOCKS:
            # a full disk must not keep anybody from the lock under which he makes room; who finds none there makes it
            with contextlib.suppress(OSError, Damaged):
                os.close(open_plain(self.locks / name, os.O_RDWR | os.O_CREAT))

    def prepare_encoded(self) -> None:
        """Before the first encoded object: has a version that knows none refuse the store. Durable when it returns."""
        document = read_document(self.store_file, newest=COMPACTED)
        with naming_full_disk(self.root):
            if document["format"] != COMPACTED:
                write_durably(self.store_file, seal({**document, "format": COMPACTED}), tmp=self.tmp)
            make_folder(self.encoded)

    def settle(self, run: str) -> None:
        """Makes durable what leads to a run's manifests: who named it may have been killed before it came to that."""
        for folder in (self.root, self.runs, self.run(run), self.manifests(run)):
            sync_folder(folder)
