"""The objects of a store: immutable files, each named by the BLAKE3 hash of its bytes, in 256 folders.

An object is one tensor's bytes from offset 0, or several small tensors of one checkpoint together (a pack). One that
is not in `objects/` may be in `encoded/`, in fewer bytes (`ckpt_tracker.encoding`): its name is the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from ckpt_tracker.disk.filesystem import begin_reading
from ckpt_tracker.disk.plain_files import kind_of_file, open_plain, reading
from ckpt_tracker.errors import CheckpointGone, CkptTrackerError, Damaged
from ckpt_tracker.files.encoded import EncodedFolder
from ckpt_tracker.files.fans import FanFolder
from ckpt_tracker.records import Piece, TensorEntry

if TYPE_CHECKING:
    from ckpt_tracker.encoding.decoder import EncodedSource
    from ckpt_tracker.encoding.header import Header
    from ckpt_tracker.encoding.source import Source
    from ckpt_tracker.state.tensors import Bytes

_UNLOCKED = ("events.", "encoded.")
"""Scratch files that are written without the store's lock."""
_SCRATCH_SECONDS = 600.0
_CHUNK = 4 * 2**20
_FEW = 256


class _NoBase(Exception):
    """The base of an encoded object is not there."""


class RawSource:
    """An object's bytes out of its own file. It closes the descriptor that it is given."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self.nbytes = os.fstat(descriptor).st_size

    def read_into(self, target: Bytes, offset: int) -> None:
        """Fills `target` with the bytes from `offset` on. Raises Damaged."""
        with reading(self._path):
            _read_into(self._descriptor, memoryview(target), offset)

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self._descriptor)


class ObjectFolder:
    """The `objects/` folder of a store, the `encoded/` folder, and the `tmp/` folder beside them on one file system."""

    def __init__(self, folder: Path, *, tmp: Path, rest_seconds: float = 0.0, quarantine: Path | None = None) -> None:
        self.folder = folder
        self.tmp = tmp
        self.rest_seconds = rest_seconds
        """How long an object must not have been used by any save before it may be deleted, whatever the locks say."""
        self.quarantine = quarantine
        """Where a repair has put damaged objects: what is undamaged in them is read from there."""
        self.raw = FanFolder(folder)
        self.encoded = EncodedFolder(
            folder.with_name("encoded"), quarantine=quarantine and quarantine.with_name("encoded")
        )

    def path(self, name: str) -> Path:
        """Where the object's raw bytes are, if they are. Raises Damaged for a name that is no hash."""
        return self.raw.path(name)

    def file(self, name: str) -> Path:
        """The file that the object is read from; where there is none, the one of its raw bytes."""
        encoded = self.encoded.path(name)
        return encoded if kind_of_file(self.path(name)) is None and kind_of_file(encoded) else self.path(name)

    def size(self, name: str) -> int | None:
        """Bytes of the object, raw, or None where there is none; what is no plain file is none.

        Raises Damaged for an encoded one that can't be read.
        """
        found = self.raw.size(name)
        if found is None and kind_of_file(self.path(name)) is None:
            header = self.encoded.header(name)
            return None if header is None else header.nbytes
        return found

    def stored_size(self, name: str) -> int:
        """Bytes that it takes on the disk."""
        return (self.raw.size(name) or 0) + (self.encoded.size(name) or 0)

    def usable_size(self, name: str) -> int:
        """Bytes of the object, raw, that a save may refer to; 0 where it lacks something to be read."""
        found = self.raw.size(name)
        if found is not None:
            return found
        try:
            header = self.encoded.header(name)
            if header is None or (header.base is not None and self.size(header.base) != header.nbytes):
                return 0
        except CkptTrackerError:
            return 0
        return header.nbytes

    def names(self) -> Iterator[str]:
        """All objects, in no order."""
        yield from self.raw.names()
        yield from (name for name in self.encoded.names() if self.raw.size(name) is None)

    def with_bases(self, names: Iterable[str]) -> frozenset[str]:
        """The objects, and those that encoded ones among them need besides.

        Raises Damaged where that can't be read of one.
        """
        wanted = frozenset(names)
        bases = self.encoded.quarantined_bases()
        needed = {bases[name] for name in wanted & bases.keys()}
        for name in wanted if len(wanted) <= _FEW else wanted.intersection(self.encoded.names()):
            try:
                header = self.encoded.header(name)
            except Damaged:
                if self.raw.size(name) is None:
                    raise
                continue
            needed.update([header.base] if header and header.base else [])
        return wanted | needed

    def rests(self, name: str) -> bool:
        """The object is not old enough to be deleted."""
        if not self.rest_seconds:
            return False
        try:
            return time.time() - self.file(name).stat().st_mtime < self.rest_seconds
        except FileNotFoundError:
            return False

    def freshen(self, name: str) -> None:
        """The object is used once more: its rest begins anew."""
        if self.rest_seconds:
            for each in self.with_bases([name]):
                os.utime(self.file(each))

    def delete(self, names: Iterable[str]) -> int:
        """Deletes objects, folder by folder, and returns the bytes they had on the disk."""
        folders = [self.raw, self.encoded] if self.encoded.exists else [self.raw]
        # in no order each one changes other blocks of the file system than the one before
        return sum(folder.delete(name) for name in sorted(names) for folder in folders)

    def read(
        self, entry: TensorEntry, *, ref: str, name: object, memory: Callable[[int], Bytes] | None = None
    ) -> Bytes:
        """A tensor's bytes, checked against its hash, in fresh memory, or in what `memory` gives for so many bytes.

        `name` is what an error calls it. Raises Damaged, naming the tensor and the object; CheckpointGone where the
        object is missing.
        """
        import numpy as np

        if len(entry.pieces) > 1:
            self.check_sizes(entry, ref=ref, name=name)
        data: Bytes | None = None
        start = 0
        hasher = blake3(max_threads=blake3.AUTO if entry.spec.nbytes > _CHUNK else 1)
        for piece in entry.pieces:
            source = self._open_piece(piece, ref=ref, name=name)
            try:
                # nothing is allocated before the objects are known to have that much
                data = _allocate(entry, memory, ref=ref, name=name) if data is None else data
                _read_piece(source, piece, data[start : start + piece.nbytes], hasher)
            except Damaged as error:
                raise Damaged(f"{ref}: tensor {name} is damaged: {error}") from error
            finally:
                source.close()
            start += piece.nbytes
        if data is None:
            data = np.empty(0, dtype=np.uint8)
        if hasher.hexdigest() != entry.hash:
            self.encoded.forget()
            where = ", ".join(str(self.file(piece.object)) for piece in entry.pieces)
            raise Damaged(f"{ref}: tensor {name} is damaged: the bytes in {where} do not have its hash")
        return data

    def check_sizes(self, entry: TensorEntry, *, ref: str, name: object) -> None:
        """Raises CheckpointGone, Damaged, where an object of the tensor is missing or too short."""
        for piece in entry.pieces:
            self._open_piece(piece, ref=ref, name=name).close()

    def read_ahead(self, name: str) -> None:
        """Has the system begin to read an object that will be asked for; says nothing of what is wrong with it."""
        with contextlib.suppress(OSError, Damaged):
            begin_reading(self.path(name))

    def open(self, name: str) -> Source | None:
        """Where the object's bytes come from: its own file, its encoded one, or what quarantine has of it.

        None where there is nothing. Raises Damaged.
        """
        for last in (False, True):
            source = self._open_file(name)
            if not isinstance(source, RawSource | None):
                try:
                    source.base = self._open_base(source.header, name)
                except _NoBase as error:
                    source.close()
                    if last:
                        raise Damaged(str(error)) from error
                    continue  # between the two it may have been encoded anew, or deleted
                except BaseException:
                    source.close()
                    raise
            break
        return source

    def _open_file(self, name: str) -> RawSource | EncodedSource | None:
        path = self.path(name)
        # a compaction takes the raw bytes away only once the encoded ones are there
        with contextlib.suppress(FileNotFoundError):
            return RawSource(open_plain(path), path)
        return self.encoded.open(name) or self._open_quarantined(name) or self.encoded.open_quarantined(name)

    def _open_base(self, header: Header, name: str) -> Source | None:
        if header.base is None:
            return None
        base = self._open_file(header.base)
        where = f"encoded object {self.file(name)}"
        if base is None:
            raise _NoBase(f"{where} can't be read: its base, object {self.path(header.base)}, is missing")
        if base.nbytes == header.nbytes and (isinstance(base, RawSource) or base.header.base is None):
            return base
        base.close()
        raise Damaged(f"{where} is damaged: object {self.file(header.base)} can't be its base")

    def _open_piece(self, piece: Piece, *, ref: str, name: object) -> Source:
        """The object's source, which has all of the piece."""
        try:
            source = self.open(piece.object)
        except Damaged as error:
            raise Damaged(f"{ref}: tensor {name} is damaged: {error}") from error
        if source is None:
            raise CheckpointGone(f"{ref}: tensor {name} can't be read: object {self.path(piece.object)} is missing")
        if source.nbytes < piece.offset + piece.nbytes:
            source.close()
            raise Damaged(f"{ref}: tensor {name} is damaged: object {self.file(piece.object)} is too short")
        return source

    def _open_quarantined(self, name: str) -> RawSource | None:
        """The source in quarantine, or None; an empty file there stands for an object that was missing."""
        if self.quarantine is None:
            return None
        path = self.quarantine / name[:2] / name
        try:
            source = RawSource(open_plain(path), path)
        except FileNotFoundError:
            return None
        if source.nbytes:
            return source
        source.close()
        return None

    def check(self, name: str) -> int:
        """Hashes an object, and returns its bytes. Raises Damaged when its name is not its hash.

        It is read and not mapped: from a mapping a disk's bad sector kills the process.
        """
        path = self.file(name)
        source = self.open(name)
        if source is None:
            raise CheckpointGone(f"object {path} is missing")
        try:
            found = hash_of(source)
        finally:
            source.close()
        if found != name:
            raise Damaged(f"object {path} is damaged: its bytes do not have the hash in its name")
        return source.nbytes

    def left_over(self) -> list[Path]:
        """What interrupted saves left in `tmp/`. To be asked where no save is under way."""
        found = []
        for path in self.tmp.iterdir():
            # a tag's scratch file lives for some milliseconds, a compaction's until it is as long as a few objects
            rest = max(self.rest_seconds, _SCRATCH_SECONDS if path.name.startswith(_UNLOCKED) else 0.0)
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime <= time.time() - rest:
                    found.append(path)
        return found


def hash_of(source: Source) -> str:
    """The name that its bytes give an object. Raises Damaged."""
    import numpy as np

    hasher = blake3(max_threads=blake3.AUTO)
    buffer = np.empty(min(_CHUNK, source.nbytes), dtype=np.uint8)
    for start in range(0, source.nbytes, _CHUNK):
        part = buffer[: min(_CHUNK, source.nbytes - start)]
        source.read_into(part, start)
        hasher.update(memoryview(part))
    return hasher.hexdigest()


def _read_piece(source: Source, piece: Piece, target: Bytes, hasher: blake3) -> None:
    """Hashes each chunk while it is still in the caches."""
    for start in range(0, piece.nbytes, _CHUNK):
        part = target[start : start + _CHUNK]
        source.read_into(part, piece.offset + start)
        hasher.update(memoryview(part))


def _allocate(entry: TensorEntry, memory: Callable[[int], Bytes] | None, *, ref: str, name: object) -> Bytes:
    import numpy as np

    nbytes = entry.spec.nbytes
    try:
        return np.empty(nbytes, dtype=np.uint8) if memory is None else memory(nbytes)
    except (MemoryError, RuntimeError) as error:  # RuntimeError is torch's
        raise CkptTrackerError(f"{ref}: there is no memory for tensor {name}, {entry.spec.nbytes} bytes") from error


def _read_into(descriptor: int, target: memoryview, offset: int) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    while target.nbytes:
        count = os.readv(descriptor, [target])
        if not count:
            raise OSError(errno.EIO, "it became shorter while it was read")
        target = target[count:]
