"""The `encoded/` folder of a store: objects that `ckpt compact` has put into fewer bytes."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tracker.disk.plain_files import check_folder, open_plain
from ckpt_tracker.encoding.header import Header, read_header
from ckpt_tracker.errors import CkptTrackerError
from ckpt_tracker.files.fans import FanFolder

if TYPE_CHECKING:
    from ckpt_tracker.encoding.decoder import EncodedSource
    from ckpt_tracker.state.tensors import Bytes

_MOST_KEPT = 8


class EncodedFolder(FanFolder):
    """Encoded files; of each, once it was opened, it is remembered what the header says as long as it is the same."""

    def __init__(self, folder: Path, *, quarantine: Path | None = None) -> None:
        super().__init__(folder)
        self._quarantine = None if quarantine is None else FanFolder(quarantine)
        self._headers: dict[str, tuple[tuple[int, int, int], Header]] = {}
        self._blocks: dict[tuple[str, int], Bytes] = {}

    @property
    def exists(self) -> bool:
        """The store has been compacted. Raises Damaged where there is no folder of the store's own."""
        return check_folder(self.folder)

    def header(self, name: str) -> Header | None:
        """What an encoded file says of itself; None where there is none. Raises Damaged, FormatTooNew."""
        path = self.path(name)
        try:
            found = os.lstat(path)
            identity = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = self._headers.get(name)
            if known is None or known[0] != identity or not stat.S_ISREG(found.st_mode):
                descriptor = open_plain(path)
                try:
                    known = (identity, read_header(descriptor, path=path, name=name)[0])
                finally:
                    os.close(descriptor)
                self._headers[name] = known
        except FileNotFoundError:
            self._headers.pop(name, None)
            return None
        return known[1]

    def open(self, name: str) -> EncodedSource | None:
        """The object's source, without its base; None where there is none. Raises Damaged, FormatTooNew."""
        return self.open_at(self.path(name), name)

    def open_quarantined(self, name: str) -> EncodedSource | None:
        """The same of what a repair has moved away."""
        return None if self._quarantine is None else self.open_at(self._quarantine.path(name), name)

    def quarantined_bases(self) -> dict[str, str]:
        """Which base each file in quarantine needs, as far as they can be read."""
        found = {}
        for name in () if self._quarantine is None else self._quarantine.names():
            with contextlib.suppress(CkptTrackerError):
                source = self.open_quarantined(name)
                if source is not None:
                    source.close()
                    if source.header.base is not None:
                        found[name] = source.header.base
        return found

    def forget(self) -> None:
        """What was decoded may be damaged."""
        self._blocks.clear()

    def open_at(self, path: Path, name: str) -> EncodedSource | None:
        """The same of an encoded file at another place."""
        from ckpt_tracker.encoding.decoder import EncodedSource

        try:
            descriptor = open_plain(path)
        except FileNotFoundError:
            return None
        while len(self._blocks) >= _MOST_KEPT:
            with contextlib.suppress(KeyError, StopIteration, RuntimeError):
                self._blocks.pop(next(iter(self._blocks)), None)
        return EncodedSource(descriptor, path, name=name, blocks=self._blocks)
