"""Objects: immutable files, each named by the BLAKE3 hash of its bytes, in 256 folders.

An object is one tensor's bytes from offset 0, or several small tensors of one checkpoint together (a pack).
Nothing is ever written into an object that exists; what the store has is not written again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from ckpt_tracker.disk.filesystem import create, make_folder, sync, sync_folder, sync_path, unused_name
from ckpt_tracker.disk.formats import OBJECT_NAME
from ckpt_tracker.disk.plain_files import check_folder, open_plain, reading
from ckpt_tracker.errors import CheckpointGone, CkptTrackerError, Damaged
from ckpt_tracker.records import Piece, TensorEntry, TensorSpec

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes

SMALL = 64 * 1024
"""Tensors below this many bytes share an object."""
_ALIGNMENT = 64
_OPEN_AT_ONCE = 64
_EVENT_SECONDS = 600.0
_CHUNK = 4 * 2**20


class ObjectFolder:
    """The `objects/` folder of a store, and the `tmp/` folder beside it on the same file system."""

    def __init__(self, folder: Path, *, tmp: Path, rest_seconds: float = 0.0, quarantine: Path | None = None) -> None:
        self.folder = folder
        self.tmp = tmp
        self.rest_seconds = rest_seconds
        """How long an object must not have been used by any save before it may be deleted, whatever the locks say."""
        self.quarantine = quarantine
        """Where a repair has put damaged objects: what is undamaged in them is read from there."""
        self._fans: set[str] = set()

    def path(self, name: str) -> Path:
        """Where the object is. Raises Damaged for a name that is no hash: nothing else is ever used as a path."""
        if not OBJECT_NAME.fullmatch(name):
            raise Damaged(f"{name[:80]!r} is not the name of an object")
        fan = self.folder / name[:2]
        if name[:2] not in self._fans:
            check_folder(fan)
            if fan.exists():
                self._fans.add(name[:2])
        return fan / name

    def size(self, name: str) -> int | None:
        """Bytes of the object, or None where there is none; what is no plain file is none."""
        try:
            found = os.lstat(self.path(name))
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def names(self) -> Iterator[str]:
        """All objects, in no order."""
        with contextlib.suppress(FileNotFoundError):
            for fan in sorted(each for each in self.folder.iterdir() if each.is_dir()):
                yield from (each.name for each in fan.iterdir() if OBJECT_NAME.fullmatch(each.name))

    def rests(self, name: str) -> bool:
        """The object is not old enough to be deleted."""
        if not self.rest_seconds:
            return False
        try:
            return time.time() - self.path(name).stat().st_mtime < self.rest_seconds
        except FileNotFoundError:
            return False

    def freshen(self, name: str) -> None:
        """The object is used once more: its rest begins anew."""
        if self.rest_seconds:
            os.utime(self.path(name))

    def delete(self, name: str) -> int:
        """Deletes an object, and returns the bytes it had."""
        path = self.path(name)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def read(self, entry: TensorEntry, *, ref: str, name: object) -> Bytes:
        """A tensor's bytes in fresh memory, checked against its hash; `name` is what an error calls it.

        Raises Damaged, naming the tensor and the object; CheckpointGone where the object is missing.
        """
        import numpy as np

        if len(entry.pieces) > 1:
            for piece in entry.pieces:
                os.close(self._open_piece(piece, ref=ref, name=name))
        data: Bytes | None = None
        start = 0
        for piece in entry.pieces:
            descriptor = self._open_piece(piece, ref=ref, name=name)
            try:
                # nothing is allocated before the objects are known to have that much
                data = _allocate(entry, ref=ref, name=name) if data is None else data
                with reading(self.path(piece.object)):
                    _read_into(descriptor, memoryview(data)[start : start + piece.nbytes], piece.offset)
            finally:
                os.close(descriptor)
            start += piece.nbytes
        if data is None:
            data = np.empty(0, dtype=np.uint8)
        if blake3(memoryview(data)).hexdigest() != entry.hash:
            where = ", ".join(str(self.path(piece.object)) for piece in entry.pieces)
            raise Damaged(f"{ref}: tensor {name} is damaged: the bytes in {where} do not have its hash")
        return data

    def _open_piece(self, piece: Piece, *, ref: str, name: object) -> int:
        """The object's descriptor, which has all of the piece."""
        path = self.path(piece.object)
        try:
            descriptor = open_plain(path)
        except FileNotFoundError as error:
            found = self._open_quarantined(piece.object)
            if found is None:
                message = f"{ref}: tensor {name} can't be read: object {path} is missing"
                raise CheckpointGone(message) from error
            descriptor = found
        except Damaged as error:
            raise Damaged(f"{ref}: tensor {name} is damaged: {error}") from error
        if os.fstat(descriptor).st_size < piece.offset + piece.nbytes:
            os.close(descriptor)
            raise Damaged(f"{ref}: tensor {name} is damaged: object {path} is too short")
        return descriptor

    def _open_quarantined(self, name: str) -> int | None:
        """Its descriptor in quarantine, or None; an empty file there stands for an object that was missing."""
        if self.quarantine is None:
            return None
        try:
            descriptor = open_plain(self.quarantine / name[:2] / name)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size:
            return descriptor
        os.close(descriptor)
        return None

    def check(self, name: str) -> int:
        """Hashes an object, and returns its bytes. Raises Damaged when its name is not its hash.

        It is read and not mapped: from a mapping a disk's bad sector kills the process.
        """
        path = self.path(name)
        hasher = blake3(max_threads=blake3.AUTO)
        descriptor = open_plain(path)
        size = 0
        try:
            buffer = memoryview(bytearray(min(_CHUNK, os.fstat(descriptor).st_size + 1)))
            with reading(path):
                while count := os.readv(descriptor, [buffer]):
                    hasher.update(buffer[:count])
                    size += count
        finally:
            os.close(descriptor)
        if hasher.hexdigest() != name:
            raise Damaged(f"object {path} is damaged: its bytes do not have the hash in its name")
        return size

    def left_over(self) -> list[Path]:
        """What interrupted saves left in `tmp/`. To be asked where no save is under way."""
        found = []
        for path in self.tmp.iterdir():
            # events are told without the store's lock, and a tag's scratch file lives for some milliseconds
            rest = max(self.rest_seconds, _EVENT_SECONDS if path.name.startswith("events.") else 0.0)
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime <= time.time() - rest:
                    found.append(path)
        return found


def _allocate(entry: TensorEntry, *, ref: str, name: object) -> Bytes:
    import numpy as np

    try:
        return np.empty(entry.spec.nbytes, dtype=np.uint8)
    except MemoryError as error:
        raise CkptTrackerError(f"{ref}: there is no memory for tensor {name}, {entry.spec.nbytes} bytes") from error


def _read_into(descriptor: int, target: memoryview, offset: int) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    while target.nbytes:
        count = os.readv(descriptor, [target])
        if not count:
            raise OSError(errno.EIO, "it became shorter while it was read")
        target = target[count:]


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

    def remember(self, entries: Sequence[TensorEntry]) -> None:
        """The tensors of the run's newest durable checkpoint, for the next one to refer to; none where it is gone."""
        self._durable = frozenset(piece.object for each in entries for piece in each.pieces)
        self._small = {
            each.hash: each.pieces[0] for each in entries if len(each.pieces) == 1 and each.spec.nbytes < SMALL
        }

    def write(self, specs: Sequence[TensorSpec], data: Sequence[Bytes]) -> WrittenTensors:
        """Durable when it returns. The store's lock is held for writing from before it to the manifest's publishing."""
        started = time.perf_counter()
        try:
            hashes = [blake3(memoryview(each)).hexdigest() for each in data]
            small = {name: each for name, each in zip(hashes, data, strict=True) if 0 < len(each) < SMALL}
            pieces, new_bytes = self._write_small(small)
            for name, each in zip(hashes, data, strict=True):
                if name not in pieces:
                    pieces[name] = Piece(name, 0, len(each))
                    new_bytes += self._put(name, each) if len(each) else 0
            self._flush()
        finally:
            self._abandon()
        entries = tuple(
            TensorEntry(spec, name, (pieces[name],) if spec.nbytes else ())
            for spec, name in zip(specs, hashes, strict=True)
        )
        return WrittenTensors(entries, new_bytes, time.perf_counter() - started)

    def _write_small(self, small: dict[str, Bytes]) -> tuple[dict[str, Piece], int]:
        pieces = self._known_pieces(small)
        fresh = {name: each for name, each in small.items() if name not in pieces}
        if not fresh:
            return pieces, 0
        pack = bytearray()
        starts = {}
        for name, each in fresh.items():
            pack += bytes(-len(pack) % _ALIGNMENT)
            starts[name] = len(pack)
            pack += memoryview(each)
        pack_name = blake3(pack).hexdigest()
        for name, start in starts.items():
            pieces[name] = Piece(pack_name, start, len(fresh[name]))
        return pieces, self._put(pack_name, pack)

    def _known_pieces(self, small: dict[str, Bytes]) -> dict[str, Piece]:
        """Where small tensors already lie, as far as those packs are still whole."""
        candidates = {name: self._small[name] for name in small if name in self._small}
        sizes = {piece.object: self._objects.size(piece.object) for piece in candidates.values()}
        known = {
            name: piece
            for name, piece in candidates.items()
            if (sizes[piece.object] or 0) >= piece.offset + piece.nbytes
        }
        for pack in {piece.object for piece in known.values()}:
            self._objects.freshen(pack)
        return known

    def _put(self, name: str, data: Bytes | bytearray) -> int:
        """Writes an object unless it is there whole, and returns the bytes written."""
        target = self._objects.path(name)
        nbytes = len(data)
        if self._objects.size(name) == nbytes and self._is_durable(name):
            self._objects.freshen(name)
            return 0
        if not target.parent.exists():
            make_folder(target.parent)
        scratch = self._objects.tmp / unused_name(name)
        self._open.append((create(scratch, data), scratch, target))
        if len(self._open) >= _OPEN_AT_ONCE:
            self._publish()
        return nbytes

    def _is_durable(self, name: str) -> bool:
        """Makes an object durable that another writer may not have come to sync; False where that fails: fsync tells
        of bytes that did not reach the disk once only, so such an object is written anew.
        """
        if name not in self._durable:
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
        if self._folders:
            # who made one of them may not have come to sync its name
            self._folders.add(self._objects.folder)
        for folder in self._folders:
            sync_folder(folder)
        self._folders.clear()

    def _abandon(self) -> None:
        for descriptor, scratch, _ in self._open:
            os.close(descriptor)
            scratch.unlink(missing_ok=True)
        self._open.clear()
        self._folders.clear()
