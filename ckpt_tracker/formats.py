"""The format on disk, as far as looking needs it: its number, the names of files, opening sealed documents."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from ckpt_tracker.errors import Damaged, FormatTooNew
from ckpt_tracker.jsonfile import load, unseal

FORMAT = 1
OBJECT_NAME = re.compile(r"[0-9a-f]{64}")
_MANIFEST = re.compile(r"([0-9]{6,})\.json")


def file_name(version: int) -> str:
    """`000012.json`."""
    return f"{version:06d}.json"


def versions(folder: Path) -> list[int]:
    """The versions whose manifests are in a folder, in ascending order."""
    try:
        found = [_MANIFEST.fullmatch(path.name) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in found if match)


def open_document(data: bytes, *, name: str) -> dict[str, Any]:
    """The document in a sealed file of this format or an earlier one.

    Raises FormatTooNew when a later version of ckpt_tracker wrote it, however that one seals; else Damaged.
    """
    try:
        document = unseal(data, name=name)
    except Damaged:
        with contextlib.suppress(Damaged):
            _check_format(load(data, name=name), name=name)
        raise
    _check_format(document, name=name)
    return document


def _check_format(document: Any, *, name: str) -> None:
    found = document.get("format") if isinstance(document, dict) else None
    if type(found) is not int or found < 1:
        raise Damaged(f"{name} is damaged: its format is {found!r}")
    if found > FORMAT:
        raise FormatTooNew(
            f"{name} has format {found}, and this ckpt_tracker reads up to format {FORMAT}: "
            "upgrade with pip install -U ckpt-tracker"
        )
