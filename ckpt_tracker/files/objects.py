"""Writing objects: the tensors of one run's checkpoints become durable files, each once.

Nothing is ever written into an object that exists; what the store has is not written again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from ckpt_tracker.disk.filesystem import create, make_folder, sync, sync_folder, sync_path, unused_name
from ckpt_tracker.files.object_folder import ObjectFolder
from ckpt_tracker.records import Piece, TensorEntry, TensorSpec

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes

SMALL = 64 * 1024
"""Tensors below this many bytes share an object."""
_ALIGNMENT = 64
_OPEN_AT_ONCE = 64


@dataclass(frozen=True)
class WrittenTensors:
    """What a save put into the object folder."""

    entries: tuple[TensorEntry, ...]
    new_bytes: int
    write_seconds: float


class ObjectWriter:
    """Makes the tensors of one run's checkpoints durable, each once.

    It remembers where the small tensors of the run's previous checkpoint lie, so that a small tensor that did not
    change is referred to in its old pack, and frozen layers cost nothing even where they are small.
    """

    def __init__(self, objects: ObjectFolder) -> None:
        self._objects = objects
        self._small: dict[str, Piece] = {}
        self._durable: frozenset[str] = frozenset()
        self._open: list[tuple[int, Path, Path]] = []
        self._folders: set[Path] = set()
        self._durable_folders: set[Path] = set()

    def remember(self, entries: Sequence[TensorEntry]) -> None:
        """The tensors of the run's newest durable checkpoint, for the next one to refer to; none where it is gone."""
        self._durable = frozenset(piece.object for each in entries for piece in each.pieces)
        self._small = {
            each.hash: each.pieces[0] for each in entries if len(each.pieces) == 1 and each.spec.nbytes < SMALL
        }

    def write(
        self, specs: Sequence[TensorSpec], data: Sequence[Bytes], *, known: Sequence[str | None]
    ) -> WrittenTensors:
        """Durable when it returns. The store's lock is held for writing from before it to the manifest's publishing.

        `known` has the hashes of tensors that need not be hashed, and None for the others.
        """
        started = time.perf_counter()
        try:
            hashes: list[str] = []
            small: dict[str, Bytes] = {}
            pieces: dict[str, Piece] = {}
            new_bytes = 0
            for each, found in zip(data, known, strict=True):
                # hashed and written one after the other, so that a write finds in the caches what was just read
                name = found or blake3(memoryview(each)).hexdigest()
                hashes.append(name)
                if len(each) < SMALL:
                    small[name] = each
                elif name not in pieces:
                    pieces[name] = Piece(name, 0, len(each))
                    new_bytes += self._put(name, each)
            new_bytes += self._write_small(small, pieces)
            self._flush()
        finally:
            self._abandon()
        entries = tuple(
            TensorEntry(spec, name, (pieces[name],) if spec.nbytes else ())
            for spec, name in zip(specs, hashes, strict=True)
        )
        return WrittenTensors(entries, new_bytes, time.perf_counter() - started)

    def _write_small(self, small: dict[str, Bytes], pieces: dict[str, Piece]) -> int:
        """Adds where each of them lies, and returns the bytes written."""
        pieces.update(self._known_pieces(small))
        fresh = {name: each for name, each in small.items() if len(each) and name not in pieces}
        if not fresh:
            return 0
        pack = bytearray()
        starts = {}
        for name, each in fresh.items():
            pack += bytes(-len(pack) % _ALIGNMENT)
            starts[name] = len(pack)
            pack += memoryview(each)
        pack_name = blake3(pack).hexdigest()
        for name, start in starts.items():
            pieces[name] = Piece(pack_name, start, len(fresh[name]))
        return self._put(pack_name, pack)

    def _known_pieces(self, small: dict[str, Bytes]) -> dict[str, Piece]:
        """Where small tensors already lie, as far as those packs are still whole."""
        candidates = {name: self._small[name] for name in small if name in self._small}
        sizes = {piece.object: self._objects.usable_size(piece.object) for piece in candidates.values()}
        known = {
            name: piece for name, piece in candidates.items() if sizes[piece.object] >= piece.offset + piece.nbytes
        }
        for pack in {piece.object for piece in known.values()}:
            self._objects.freshen(pack)
        return known

    def _put(self, name: str, data: Bytes | bytearray) -> int:
        """Writes an object unless it is there whole, and returns the bytes written."""
        target = self._objects.path(name)
        nbytes = len(data)
        if self._objects.usable_size(name) == nbytes and self._is_durable(name):
            self._objects.freshen(name)
            return 0
        if not target.parent.exists():
            self._make_fan(target.parent)
        scratch = self._objects.tmp / unused_name(name)
        self._open.append((create(scratch, data), scratch, target))
        if len(self._open) >= _OPEN_AT_ONCE:
            self._publish()
        return nbytes

    def _make_fan(self, folder: Path) -> None:
        """Makes one of the 256 folders; its name is made durable at the end, with those of the others."""
        self._durable_folders.discard(folder)
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError:
            make_folder(folder)

    def _is_durable(self, name: str) -> bool:
        """Makes an object durable that another writer may not have come to sync; False where that fails: fsync tells
        of bytes that did not reach the disk once only, so such an object is written anew.
        """
        # what is encoded alone was durable before the raw bytes went
        if name not in self._durable and self._objects.raw.size(name) is not None:
            target = self._objects.path(name)
            try:
                sync_path(target)
            except OSError:
                return False
            self._folders.add(target.parent)
        return True

    def _publish(self) -> None:
        """Syncs all, then names all: the first sync commits the file system's journal for the rest."""
        for descriptor, _, _ in self._open:
            sync(descriptor)
        for _, scratch, target in self._open:
            os.replace(scratch, target)
            self._folders.add(target.parent)
        for descriptor, _, _ in self._open:
            os.close(descriptor)
        self._open.clear()

    def _flush(self) -> None:
        self._publish()
        for folder in self._folders:
            sync_folder(folder)
        if not self._folders <= self._durable_folders:
            # whoever made one of them may not have come to sync its name
            sync_folder(self._objects.folder)
            self._durable_folders |= self._folders
        self._folders.clear()

    def _abandon(self) -> None:
        for descriptor, scratch, _ in self._open:
            os.close(descriptor)
            scratch.unlink(missing_ok=True)
        self._open.clear()
        self._folders.clear()
