"""A folder of files named by hashes, in 256 folders named by the first two digits: `objects/`, and `encoded/`."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ckpt_tracker.disk.formats import OBJECT_NAME
from ckpt_tracker.disk.plain_files import check_folder
from ckpt_tracker.errors import Damaged


class FanFolder:
    """The folder, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fans: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """Where the file is. Raises Damaged for a name that is no hash: nothing else is ever used as a path."""
        if not OBJECT_NAME.fullmatch(name):
            raise Damaged(f"{name[:80]!r} is not the name of an object")
        fan = self._fans.get(name[:2])
        if fan is None:
            fan = self.folder / name[:2]
            if check_folder(fan):
                self._fans[name[:2]] = fan
        return fan / name

    def size(self, name: str) -> int | None:
        """Bytes of the file, or None where there is none; what is no plain file is none."""
        try:
            found = os.lstat(self.path(name))
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def names(self) -> Iterator[str]:
        """All files, in no order."""
        with contextlib.suppress(FileNotFoundError):
            for fan in sorted(each for each in self.folder.iterdir() if each.is_dir()):
                yield from filter(OBJECT_NAME.fullmatch, os.listdir(fan))

    def delete(self, name: str) -> int:
        """Deletes a file, and returns the bytes it had; 0 where there is none, or what is no plain file."""
        path = self.path(name)
        try:
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode):
                return 0
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return found.st_size
