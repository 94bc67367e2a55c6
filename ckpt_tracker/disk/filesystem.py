"""What differs between platforms and file systems: writing past the page cache, making bytes durable, and kernel locks.

Durable means: a power cut right after the call returns loses nothing of it. That takes an fsync of the
file *and* of the folder that holds its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ckpt_tracker.disk.plain_files import open_plain, read_plain
from ckpt_tracker.errors import StoreFull

if TYPE_CHECKING:
    from typing_extensions import Buffer

try:
    import fcntl
except ImportError:  # Windows has no flock; the floors above only ask for locks through FileLock
    fcntl = None  # type: ignore[assignment]

DIRECT_BYTES = 2**16
"""From this many bytes on a new file is written past the page cache. A copy into that costs more than the disk's time
saves, and its write-back is a burden on the training: measured, 1.5 GB take 0.1 s of processor time, and 1.6 with it;
1 MB in six files 3.8 ms, and 5.5 with it.
"""
_BLOCK = 4096
_O_DIRECT = getattr(os, "O_DIRECT", 0)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_MOST_SIGNED = 1000
_POLL_SECONDS = 0.01


@contextlib.contextmanager
def naming_full_disk(store: Path) -> Iterator[None]:
    """Turns "no space left" from inside the block into StoreFull, which names the store and the way out."""
    try:
        yield
    except StoreFull:
        raise
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        message = f"no room left in {store}: free space there, or keep fewer checkpoints; older ones are intact"
        raise StoreFull(error.errno, message) from error


def sync(descriptor: int) -> None:
    """fsync that really reaches the disk: macOS needs F_FULLFSYNC for that (see its fsync(2))."""
    if sys.platform == "darwin" and fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_path(path: Path) -> None:
    """fsync a file by its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable: those that were given, and that others are gone."""
    try:
        sync_path(path)
    except OSError as error:
        # there are file systems that have no fsync for folders, and can't do better
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def write_all(descriptor: int, data: Buffer) -> None:
    """Writes every byte: one write(2) may take fewer than it was given (2 GiB at most on Linux)."""
    rest = memoryview(data).cast("B")
    while rest.nbytes:
        taken = os.write(descriptor, rest)
        if not taken:
            raise OSError(errno.EIO, "write took no byte, and named no error")
        rest = rest[taken:]


def create(path: Path, data: Buffer) -> int:
    """Makes a new file holding `data`, and returns its open descriptor; nothing is durable yet.

    What is large, and begins on a page of memory, goes past the page cache where the file system takes it so.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data).cast("B")
        write_all(descriptor, rest[_write_direct(descriptor, rest) :])
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _write_direct(descriptor: int, data: memoryview) -> int:
    """Writes whole blocks past the page cache; returns how many bytes, 0 where that can't be."""
    whole = data.nbytes - data.nbytes % _BLOCK
    if whole < DIRECT_BYTES or not _O_DIRECT or fcntl is None:
        return 0
    written, flags = 0, fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _O_DIRECT)
        # where less than a block is taken, the rest goes the other way
        while written < whole and written % _BLOCK == 0:
            written += os.write(descriptor, data[written:whole])
    except OSError as error:
        # of the file system (tmpfs, FUSE), or of memory that doesn't begin where it wants
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return written


def begin_reading(path: Path) -> None:
    """Has a plain file come into the page cache while something else is done, where the system can be asked to."""
    if hasattr(os, "posix_fadvise"):
        descriptor = open_plain(path)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def unused_name(name: str) -> str:
    """A file name that starts with `name` and that nobody else uses."""
    return f"{name}.{os.urandom(6).hex()}"


def write_durably(target: Path, data: Buffer, *, tmp: Path) -> None:
    """Puts `data` at `target` whole or not at all, through a file in `tmp` on the same file system.

    Durable when it returns. A reader sees the old file, or the new one, never a part. A file whose fsync fails is
    deleted, and never synced again: the kernel forgets what it could not write, and the next fsync would succeed.
    """
    scratch = tmp / unused_name(target.name)
    descriptor = create(scratch, data)
    try:
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(scratch, target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, durably; also where a killed process made some, and did not sync them."""
    missing = [path]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    with contextlib.suppress(PermissionError):  # then it is not of our making
        sync_folder(missing[-1].parent.parent)
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        sync_folder(folder.parent)


class FileLock:
    """A kernel lock (flock) on a file. The kernel frees it when the process dies, so it is never stale.

    A forked child closes its copy of the descriptor: it would keep the lock after the parent's death otherwise.
    """

    _held: ClassVar[weakref.WeakSet[FileLock]] = weakref.WeakSet()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._owner = 0
        self.held = False

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Takes the lock; False when somebody else holds it and `wait` is False. Raises Damaged for no plain file."""
        self._descriptor = open_plain(self.path, os.O_RDWR | os.O_CREAT)
        self._owner = os.getpid()
        FileLock._held.add(self)
        try:
            if fcntl is not None:
                how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
                fcntl.flock(self._descriptor, how)
        except BlockingIOError:
            self._close()
            return False
        except BaseException:
            self._close()
            raise
        self.held = True
        return True

    def acquire_until(self, moment: float) -> bool:
        """Takes the lock; False when somebody else holds it still at that moment (of `time.monotonic`)."""
        while not self.acquire(wait=False):
            if time.monotonic() >= moment:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Held alone while inside; waits for whoever holds it. Raises Damaged for no plain file."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def sign(self, text: str) -> None:
        """Leaves a word in the lock file about who holds it, for others to `read`; where there is room for it."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, text.encode(), 0)

    def read(self) -> str:
        """What the holder left in the lock file."""
        return read_plain(self.path, most=_MOST_SIGNED).decode(errors="replace")

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock back; does nothing when it is not held."""
        if self._owner == os.getpid() and self._descriptor is not None and fcntl is not None:
            # a process forked at the wrong moment may have a copy of the descriptor; closing ours would not unlock it
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        self.held = False
        FileLock._held.discard(self)
        if descriptor is not None:
            os.close(descriptor)

    @classmethod
    def _close_in_child(cls) -> None:
        for lock in list(cls._held):
            # unlocking would take the lock from the parent
            lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FileLock._close_in_child)


class StoreLock:
    """Writers share it, the sweep has it alone. A turnstile in front lets the sweep in.

    With one lock the sweep starves: there is always some writer that holds it. So everybody passes the
    turnstile first, and the sweep keeps it shut while it waits for the writers inside to leave.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Shared with other writers: no object is swept while inside."""
        turnstile, lock = self._locks()
        turnstile.acquire()
        try:
            lock.acquire(shared=True)
        finally:
            turnstile.release()
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def sweeping(self, *, wait: bool = True, seconds: float = 0.0) -> Iterator[bool]:
        """Alone: no save is under way while inside.

        With `wait=False`, yields False when others hold the lock, and go on doing so for `seconds`.
        """
        turnstile, lock = self._locks()
        try:
            if wait:
                yield turnstile.acquire() and lock.acquire()
            else:
                until = time.monotonic() + seconds
                yield turnstile.acquire_until(until) and lock.acquire_until(until)
        finally:
            lock.release()
            turnstile.release()

    def _locks(self) -> tuple[FileLock, FileLock]:
        return FileLock(self._folder / "turnstile"), FileLock(self._folder / "store")
