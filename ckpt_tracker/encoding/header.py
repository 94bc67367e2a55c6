"""The head of an encoded file: one line of sealed JSON that says what is encoded, how, and against what.

It is all that a sweep needs to know, and tells how long the file must be. The lengths of the frames follow it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ckpt_tracker.disk import fields
from ckpt_tracker.disk.formats import COMPACTED, open_document
from ckpt_tracker.disk.jsonfile import seal
from ckpt_tracker.disk.plain_files import reading
from ckpt_tracker.errors import Damaged

BLOCK = 64 * 1024
"""Elements of a block."""
WIDTHS = (1, 2, 4, 8)
"""Bytes that an element may have."""
_LONGEST = 4096
LENGTH_BYTES = 4


@dataclass(frozen=True)
class Header:
    """What an encoded file holds."""

    nbytes: int
    """Of the object, raw."""
    width: int
    """Bytes of an element."""
    base: str | None
    """The object that it is the difference to; as long as this one."""
    frames_bytes: int
    """All frames together."""

    @property
    def block_bytes(self) -> int:
        """Of every block but the last."""
        return BLOCK * self.width

    @cached_property
    def blocks(self) -> int:
        """How many there are."""
        return -(-(self.nbytes - self.rest_bytes) // self.block_bytes)

    @property
    def lengths_bytes(self) -> int:
        """Of the table behind this line, which gives each frame's length."""
        return LENGTH_BYTES * self.blocks * self.width

    @property
    def rest_bytes(self) -> int:
        """Of what is no whole element, behind the last frame."""
        return self.nbytes % self.width

    def dump(self) -> bytes:
        """The line."""
        document: dict[str, Any] = {"format": COMPACTED, "nbytes": self.nbytes, "width": self.width, "base": self.base}
        return seal({**document, "frames": self.frames_bytes}) + b"\n"


def read_header(descriptor: int, *, path: Path, name: str) -> tuple[Header, int]:
    """The header of an open file, and where the table behind it begins.

    Raises Damaged, FormatTooNew; also where the file has not the length that the header gives it, so that nothing
    larger than the file is ever read or allocated for the table.
    """
    with reading(path):
        start = os.pread(descriptor, _LONGEST, 0)
        size = os.fstat(descriptor).st_size
    line, ended, _ = start.partition(b"\n")
    if not ended:
        raise Damaged(f"encoded object {path} is damaged: its header has no end")
    document = open_document(line, name=f"the header of encoded object {path}", newest=COMPACTED)
    try:
        header = _checked(document, name=name)
    except (LookupError, ValueError) as error:
        raise Damaged(f"encoded object {path} is damaged: {error}") from error
    expected = len(line) + 1 + header.lengths_bytes + header.frames_bytes + header.rest_bytes
    if size != expected:
        raise Damaged(f"encoded object {path} has {size} bytes: expected {expected}")
    return header, len(line) + 1


def _checked(document: dict[str, Any], *, name: str) -> Header:
    header = Header(
        nbytes=fields.natural(document["nbytes"]),
        width=document["width"],
        base=None if document["base"] is None else fields.hash_name(document["base"]),
        frames_bytes=fields.natural(document["frames"]),
    )
    if type(header.width) is not int or header.width not in WIDTHS:
        raise ValueError(f"expected a width of {', '.join(map(str, WIDTHS))} bytes, found {header.width!r}")
    if header.base == name:
        raise ValueError("it is its own base")
    return header
