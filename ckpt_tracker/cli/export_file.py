"""The file that an export makes: whole or not at all, and not over another one unless that is wanted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ckpt_tracker.cli import human
from ckpt_tracker.disk.filesystem import sync_path, unused_name
from ckpt_tracker.errors import InvalidOption


def check_target(file: Path, *, force: bool) -> None:
    """Raises InvalidOption where the file can't be made, or may not be replaced."""
    if file.is_dir():
        raise InvalidOption(f"{human.path(file)} is a folder: name a file in it")
    if not file.parent.is_dir():
        raise InvalidOption(f"there is no folder {human.path(file.parent)}: make it first")
    if file.exists() and not force:
        raise InvalidOption(f"{human.path(file)} exists: --force replaces it")


@contextlib.contextmanager
def replacing(file: Path, *, force: bool) -> Iterator[Path]:
    """A name beside `file` to write to; it becomes `file`, durably, when the block ends well, and else nothing is left.

    The name ends as the file's does, for writers that look at that.
    """
    scratch = file.with_name(f".{unused_name(file.stem)}{file.suffix}")
    try:
        yield scratch
        sync_path(scratch)
        check_target(file, force=force)
        os.replace(scratch, file)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_path(file.parent)
