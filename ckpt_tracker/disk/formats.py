"""The format on disk, as far as looking needs it: its number, the names of files, opening sealed documents."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from ckpt_tracker.disk.jsonfile import MOST_BYTES, is_sealed, load, unseal
from ckpt_tracker.disk.plain_files import check_folder, read_plain
from ckpt_tracker.errors import Damaged, FormatTooNew

FORMAT = 1
COMPACTED = 2
"""What `store.json` says of a store that has encoded objects, for a reader that knows none to refuse it."""
LAST_VERSION = 10**15 - 1
OBJECT_NAME = re.compile(r"[0-9a-f]{64}")
# one name for each version: 0000012.json would be a second one of 12
_MANIFEST = re.compile(r"((?!0{6})[0-9]{6}|[1-9][0-9]{6,14})\.json")


def file_name(version: int) -> str:
    """`000012.json`. Raises Damaged for a version that no run comes to: one that was forged has been counted on."""
    if not 0 < version <= LAST_VERSION:
        raise Damaged(f"version {version} can't be: versions go from 1 to {LAST_VERSION}")
    return f"{version:06d}.json"


def versions(folder: Path) -> list[int]:
    """The versions whose manifests are in a folder, in ascending order. Raises Damaged for what is no folder."""
    check_folder(folder)
    try:
        found = map(_MANIFEST.fullmatch, os.listdir(folder))
    except FileNotFoundError:
        return []
    return sorted([int(match[1]) for match in found if match])


def read_document(path: Path, *, newest: int = FORMAT) -> dict[str, Any]:
    """The document in a sealed file. Raises FileNotFoundError, and what `open_document` raises."""
    return open_document(read_plain(path, most=MOST_BYTES), name=str(path), newest=newest)


def open_document(data: bytes, *, name: str, newest: int = FORMAT) -> dict[str, Any]:
    """The document in sealed bytes of the format `newest` or an earlier one.

    Raises FormatTooNew when a later version of ckpt_tracker wrote it, also when that one seals otherwise; else Damaged.
    """
    try:
        document = unseal(data, name=name)
    except Damaged:
        # where the seal is of our kind and does not fit, the number of the format may be what was changed
        if not is_sealed(data):
            with contextlib.suppress(Damaged):
                _check_format(load(data, name=name), name=name, newest=newest)
        raise
    _check_format(document, name=name, newest=newest)
    return document


def _check_format(document: Any, *, name: str, newest: int) -> None:
    found = document.get("format") if isinstance(document, dict) else None
    if type(found) is not int or found < 1:
        raise Damaged(f"{name} is damaged: its format is {found!r}")
    if found > newest:
        raise FormatTooNew(
            f"{name} has format {found}, and this ckpt_tracker reads up to format {newest}: "
            "upgrade with pip install -U ckpt-tracker"
        )
