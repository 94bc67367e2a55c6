"""Encoding an object: its bytes, perhaps as a difference to those of a base, become the content of an encoded file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from ckpt_tracker.encoding.differences import difference
from ckpt_tracker.encoding.frames import pack
from ckpt_tracker.encoding.header import BLOCK, Header
from ckpt_tracker.encoding.planes import elements, split

if TYPE_CHECKING:
    from ckpt_tracker.encoding.source import Source
    from ckpt_tracker.state.tensors import Bytes


@dataclass(frozen=True)
class Encoded:
    """The content of an encoded file, in pieces."""

    header: Header
    chunks: tuple[bytes | Bytes, ...]
    hash: str
    """Of the raw bytes that were read."""

    @property
    def nbytes(self) -> int:
        """Of the file."""
        return sum(map(len, self.chunks))


def encode(source: Source, *, width: int, base: Source | None = None, base_name: str | None = None) -> Encoded:
    """Encodes an object of elements of `width` bytes; what is no whole element at its end stands as it is.

    `base`, as long as the object, is what the difference is taken to. In memory are the encoded bytes and two blocks.
    """
    frames: list[bytes | Bytes] = []
    hasher = blake3()
    rest = source.nbytes % width
    for start in range(0, source.nbytes - rest, BLOCK * width):
        data = _read(source, start, min(BLOCK * width, source.nbytes - rest - start))
        hasher.update(memoryview(data))
        frames += encode_block(data, width=width, base=None if base is None else _read(base, start, len(data)))
    end = _read(source, source.nbytes - rest, rest)
    hasher.update(memoryview(end))
    lengths = np.fromiter(map(len, frames), dtype="<u4", count=len(frames))
    header = Header(source.nbytes, width, base_name, int(lengths.sum(dtype=np.int64)))
    return Encoded(header, (header.dump(), lengths.tobytes(), *frames, end), hasher.hexdigest())


def encode_block(data: Bytes, *, width: int, base: Bytes | None = None) -> list[bytes | Bytes]:
    """The frames of whole elements: their planes, lowest byte first."""
    values = elements(data, width=width)
    if base is not None:
        values = difference(values, elements(base, width=width))
    return [pack(plane) for plane in split(values)]


def _read(source: Source, start: int, nbytes: int) -> Bytes:
    data = np.empty(nbytes, dtype=np.uint8)
    source.read_into(data, start)
    return data
