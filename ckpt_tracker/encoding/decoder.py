"""Decoding: an open encoded file gives any stretch of the object's bytes, block by block.

Whoever reads an object checks what he gets against its hash; here it is only seen to that nothing exceeds what the
header declares.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ckpt_tracker.disk.plain_files import reading
from ckpt_tracker.encoding.differences import undo
from ckpt_tracker.encoding.frames import check_installed, unpack
from ckpt_tracker.encoding.header import BLOCK, read_header
from ckpt_tracker.encoding.planes import elements, join
from ckpt_tracker.errors import Damaged

if TYPE_CHECKING:
    import numpy.typing as npt

    from ckpt_tracker.encoding.source import Source
    from ckpt_tracker.state.tensors import Bytes


class EncodedSource:
    """An object's bytes out of its encoded file. It closes the descriptor that it is given, and the base's source."""

    def __init__(self, descriptor: int, path: Path, *, name: str, blocks: dict[tuple[str, int], Bytes]) -> None:
        self._descriptor = descriptor
        self._path = path
        self._name = name
        # of what was read in part: the small tensors of a pack lie in one block
        self._blocks = blocks
        self.base: Source | None = None
        """To be set before anything is read, where the header names one."""
        try:
            self.header, self._table_start = read_header(descriptor, path=path, name=name)
        except BaseException:
            os.close(descriptor)
            raise
        self.nbytes = self.header.nbytes

    def close(self) -> None:
        """Gives the descriptors back."""
        os.close(self._descriptor)
        if self.base is not None:
            self.base.close()

    def read_into(self, target: Bytes, offset: int) -> None:
        """Fills `target` with the object's bytes from `offset` on. Raises Damaged, MissingExtra."""
        check_installed()
        size, whole = self.header.block_bytes, self.nbytes - self.header.rest_bytes
        stop = offset + len(target)
        for first in range(offset - offset % size, min(stop, whole), size) if offset < whole else ():
            last = min(first + size, whole)
            if offset <= first and last <= stop:
                self._decode(first, target[first - offset : last - offset])
            else:
                start, end = max(first, offset), min(last, stop)
                target[start - offset : end - offset] = self._block(first, last)[start - first : end - first]
        if stop > whole:
            start = max(whole, offset)
            target[start - offset :] = self._stored(self._rest_start + start - whole, stop - start)

    def _block(self, first: int, last: int) -> Bytes:
        block = self._blocks.get((self._name, first))
        if block is None:
            block = np.empty(last - first, dtype=np.uint8)
            self._decode(first, block)
            self._blocks[self._name, first] = block
        return block

    def _decode(self, first: int, out: Bytes) -> None:
        """The block that begins at that byte of the object."""
        values = elements(out, width=self.header.width)
        join(list(self._planes(first, len(values))), values)
        if self.base is not None:
            before = np.empty(len(out), dtype=np.uint8)
            self.base.read_into(before, first)
            undo(values, elements(before, width=self.header.width))

    def _planes(self, first: int, length: int) -> Iterator[Bytes]:
        width = self.header.width
        frame = first // (BLOCK * width) * width
        ends = self._ends[frame : frame + width + 1].tolist()
        data = memoryview(self._stored(self._table_start + self.header.lengths_bytes + ends[0], ends[-1] - ends[0]))
        for start, end in pairwise(ends):
            try:
                yield unpack(data[start - ends[0] : end - ends[0]], length)
            except Damaged as error:
                raise Damaged(f"encoded object {self._path} is damaged: {error}") from error

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """Where each frame ends, and before them a 0, from the end of the table on."""
        header = self.header
        lengths = self._stored(self._table_start, header.lengths_bytes).view("<u4")
        ends = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=ends[1:])
        if ends[-1] != header.frames_bytes or lengths.max(initial=0) > BLOCK:
            raise Damaged(f"encoded object {self._path} is damaged: its frames have not the lengths that it declares")
        return ends

    @property
    def _rest_start(self) -> int:
        return self._table_start + self.header.lengths_bytes + self.header.frames_bytes

    def _stored(self, start: int, nbytes: int) -> Bytes:
        """Bytes of the file."""
        data = np.empty(nbytes, dtype=np.uint8)
        done = 0
        with reading(self._path):
            while done < nbytes and (count := os.preadv(self._descriptor, [memoryview(data)[done:]], start + done)):
                done += count
        if done != nbytes:
            raise Damaged(f"encoded object {self._path} became shorter while it was read")
        return data
