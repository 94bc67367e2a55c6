"""Opening files that somebody else may have put there: plain files only, never through a symlink, never blocking.

A store may come from anywhere. A symlink in it can point out of it, a FIFO never answers, a device is not ours to
touch, and a file can be larger than memory: each is Damaged, by name. The folder that the store itself is may be
reached through a symlink.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ckpt_tracker.errors import Damaged

_FLAGS = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
# not the file's fault
_PASSING = {
    errno.ENOENT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EINTR,
}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_KINDS = {
    stat.S_IFLNK: "a symlink",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFREG: "a file",
}


def open_plain(path: Path, flags: int = os.O_RDONLY, *, mode: int = 0o666) -> int:
    """A descriptor of a plain file. Raises FileNotFoundError; Damaged for anything else that can't be opened as one."""
    try:
        descriptor = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno in _PASSING or (flags != os.O_RDONLY and error.errno in _FORBIDDEN):
            raise
        found = kind_of_file(path)
        if found in (None, "a file"):
            raise Damaged(f"{path} can't be opened: {error.strerror}") from error
        raise Damaged(f"{path} is {found}: expected a plain file") from error
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise Damaged(f"{path} is {_KINDS.get(stat.S_IFMT(kind), 'something else')}: expected a plain file")
    return descriptor


def read_plain(path: Path, *, most: int) -> bytes:
    """The bytes of a plain file of at most that many. Raises FileNotFoundError; Damaged for anything else."""
    descriptor = open_plain(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > most:
            raise Damaged(f"{path} has {size} bytes: expected {most} at most")
        with reading(path):
            data = os.read(descriptor, size)
            while len(data) < size and (more := os.read(descriptor, size - len(data))):
                data += more
        return data
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns a disk's failure to give its bytes back into Damaged, which names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in _PASSING:
            raise
        raise Damaged(f"{path} can't be read: {error.strerror}") from error


def kind_of_file(path: Path) -> str | None:
    """`a symlink`, `a folder`, `a FIFO`, …; None where there is nothing."""
    try:
        return _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "something else")
    except OSError:
        return None


def check_folder(path: Path) -> bool:
    """There is a folder. Raises Damaged where there is something that is no folder; a symlink to one is none."""
    found = kind_of_file(path)
    if found not in (None, "a folder"):
        raise Damaged(f"{path} is {found}: expected a folder of the store's own")
    return found is not None
