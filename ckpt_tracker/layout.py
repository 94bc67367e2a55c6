"""Where things are in a store's folder, and whether a folder is a store."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from ckpt_tracker.errors import Damaged, NotAStore, StoreNotFound
from ckpt_tracker.filesystem import make_folder, write_durably
from ckpt_tracker.formats import FORMAT, open_document
from ckpt_tracker.jsonfile import seal
from ckpt_tracker.mounts import is_network
from ckpt_tracker.selection import RUN_NAME

# in the order in which they are made: `runs` alone is somebody else's (TensorBoard calls its folder that)
_FOLDERS = ("locks", "tmp", "objects", "trash", "runs")
_OURS = {*_FOLDERS, "store.json", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm"}


class Layout:
    """The paths of one store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        self.objects = root / "objects"
        self.trash = root / "trash"
        self.tmp = root / "tmp"
        self.locks = root / "locks"
        self.store_file = root / "store.json"

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
            names = sorted(path.name for path in self.runs.iterdir() if path.is_dir())
        except FileNotFoundError:
            return
        yield from (name for name in names if RUN_NAME.fullmatch(name))

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
            data = self.store_file.read_bytes()
        except FileNotFoundError:
            return self._create(create=create)
        except NotADirectoryError as error:
            raise NotAStore(f"{self.root} is a file: expected a folder that holds a store") from error
        try:
            document = open_document(data, name=str(self.store_file))
        except Damaged as error:
            raise Damaged(f"{error}; move it away to have it made anew: it holds the format and an id only") from error
        if self.writable:
            self._make_folders()
        return document

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
        document = {"format": FORMAT, "id": os.urandom(16).hex()}
        if not found or self.writable:
            self._make_folders()
            write_durably(self.store_file, seal(document), tmp=self.tmp)
        return document

    def _make_folders(self) -> None:
        for name in _FOLDERS:
            if not (self.root / name).is_dir():
                make_folder(self.root / name)
