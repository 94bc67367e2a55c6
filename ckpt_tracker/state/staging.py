"""Capture: the state's tensors are copied into one reused, page-aligned buffer before the loop can change them.

The first touch of fresh memory costs about four times the copy itself (page faults), so the buffer is kept from
save to save. It is free again once the background writer has made its tensors durable; an earlier capture waits.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_tracker.records import TensorSpec
from ckpt_tracker.state.overlap import Copying, watch
from ckpt_tracker.state.tree import EncodedState, TensorLeaf

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes, TensorKind

_PAGE = mmap.PAGESIZE
_LINE = 64


@dataclass(frozen=True)
class CapturedState:
    """A state that nothing can change any more, until its buffer is released."""

    skeleton: Any
    specs: tuple[TensorSpec, ...]
    data: tuple[Bytes, ...]
    """The bytes of each tensor, in the order of `specs`."""
    copying: Copying | None = None
    """Some of them are still on their way."""


class StagingBuffer:
    """One buffer, as large as the largest state captured so far; for one captured state at a time."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._free = threading.Semaphore(1)

    def capture(self, state: EncodedState, *, steady: frozenset[int] = frozenset()) -> CapturedState:
        """Copies every tensor; waits first for the previous captured state to be released.

        Large ones at `steady` addresses are copied in a thread, which the result's `copying` stands for.
        """
        self._free.acquire()
        try:
            specs = tuple(leaf.spec for leaf in state.leaves)
            memory, starts = self._places(specs)
            data = tuple(memory[start : start + spec.nbytes] for start, spec in zip(starts, specs, strict=True))
            watched = [watch(leaf, target, steady) for leaf, target in zip(state.leaves, data, strict=True)]
            rest = zip(state.leaves, starts, watched, strict=True)
            self._copy(memory, [(leaf, start) for leaf, start, late in rest if late is None])
            later = [late for late in watched if late is not None]
            copying = Copying(later, self._transfer(_by_kind(late.leaf for late in later))) if later else None
        except BaseException:
            self._free.release()
            raise
        return CapturedState(state.skeleton, specs, data, copying)

    def release(self) -> None:
        """The captured state is not needed any more. Called once for each capture, from any thread."""
        self._free.release()

    def _copy(self, memory: Bytes, leaves: Sequence[tuple[TensorLeaf, int]]) -> None:
        """Copies them to where each one starts."""
        starts: dict[TensorKind, list[int]] = {}
        for leaf, start in leaves:
            starts.setdefault(leaf.kind, []).append(start)
        tensors = _by_kind(leaf for leaf, _ in leaves)
        with self._transfer(tensors):
            for kind, each in tensors.items():
                kind.copy_all(each, memory, starts[kind])

    def _transfer(self, tensors: dict[TensorKind, list[Any]]) -> AbstractContextManager[object]:
        """What they are copied in; each library has a part in it."""
        assert self._memory is not None
        return _joined([kind.transfer(each, self._memory) for kind, each in tensors.items()])

    def _places(self, specs: tuple[TensorSpec, ...]) -> tuple[Bytes, list[int]]:
        """The memory, and where in it each tensor starts."""
        import numpy as np

        starts, end = [], 0
        for spec in specs:
            # large tensors start on a page, so that they can leave the buffer by direct I/O
            alignment = _PAGE if spec.nbytes >= _PAGE else _LINE
            end = -(-end // alignment) * alignment
            starts.append(end)
            end += spec.nbytes
        return np.frombuffer(self._at_least(end), dtype=np.uint8), starts

    def _at_least(self, nbytes: int) -> mmap.mmap:
        if self._memory is None or len(self._memory) < nbytes:
            # the old buffer goes back to the system when its last slice does
            self._memory = mmap.mmap(-1, max(1, -(-nbytes // _PAGE)) * _PAGE)
        return self._memory


def _by_kind(leaves: Iterable[TensorLeaf]) -> dict[TensorKind, list[Any]]:
    tensors: dict[TensorKind, list[Any]] = {}
    for leaf in leaves:
        tensors.setdefault(leaf.kind, []).append(leaf.tensor)
    return tensors


@contextlib.contextmanager
def _joined(transfers: Sequence[AbstractContextManager[object]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for each in transfers:
            stack.enter_context(each)
        yield
