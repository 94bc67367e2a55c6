"""Encoding an object: its bytes, perhaps as a difference to those of a base, become the content of an encoded file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckpt_tracker.encoding.differences import difference
from ckpt_tracker.encoding.frames import pack
from ckpt_tracker.encoding.header import BLOCK, Header
from ckpt_tracker.encoding.planes import elements, split

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes


@dataclass(frozen=True)
class Encoded:
    """The content of an encoded file, in pieces."""

    header: Header
    chunks: tuple[bytes | Bytes, ...]

    @property
    def nbytes(self) -> int:
        """Of the file."""
        return sum(map(len, self.chunks))


def encode(data: Bytes, *, width: int, base: Bytes | None = None, base_name: str | None = None) -> Encoded:
    """Encodes an object of elements of `width` bytes; what is no whole element at its end stands as it is.

    `base`, of the same length, is what the difference is taken to.
    """
    whole = len(data) - len(data) % width
    frames: list[bytes | Bytes] = []
    for start in range(0, whole, BLOCK * width):
        stop = min(start + BLOCK * width, whole)
        frames += encode_block(data[start:stop], width=width, base=None if base is None else base[start:stop])
    lengths = np.fromiter(map(len, frames), dtype="<u4", count=len(frames))
    header = Header(len(data), width, base_name, int(lengths.sum(dtype=np.int64)))
    return Encoded(header, (header.dump(), lengths.tobytes(), *frames, data[whole:]))


def encode_block(data: Bytes, *, width: int, base: Bytes | None = None) -> list[bytes | Bytes]:
    """The frames of whole elements: their planes, lowest byte first."""
    values = elements(data, width=width)
    if base is not None:
        values = difference(values, elements(base, width=width))
    return [pack(plane) for plane in split(values)]
