"""Capture: the state's tensors are copied into one reused, page-aligned buffer before the loop can change them.

The first touch of fresh memory costs about four times the copy itself (page faults), so the buffer is kept from
save to save. It is free again once the background writer has made its tensors durable; an earlier capture waits.
What is in it by then is compared with: a large tensor that did not change is neither copied nor hashed again.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckpt_tracker.records import TensorSpec
from ckpt_tracker.state.overlap import SMALL, Copying, Part, watch
from ckpt_tracker.state.tree import EncodedState

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
    hashes: tuple[str | None, ...]
    """The hash of each tensor that is as it was in the save before; None for the others."""
    copying: Copying | None = None
    """Some of them are still on their way."""

    def arrived(self, copying: Copying) -> CapturedState:
        """The same once that has finished, and nothing has changed meanwhile."""
        hashes = list(self.hashes)
        for part in copying.same:
            hashes[part.index] = part.kept
        return replace(self, hashes=tuple(hashes), copying=None)


class StagingBuffer:
    """One buffer, as large as the largest state captured so far; for one captured state at a time."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._free = threading.Semaphore(1)
        self._specs: tuple[TensorSpec, ...] = ()
        self._hashes: tuple[str, ...] = ()

    def capture(self, state: EncodedState, *, steady: frozenset[int] = frozenset()) -> CapturedState:
        """Copies every tensor that is not there as it is; waits first for the previous captured state to be released.

        Large ones at `steady` addresses are copied in a thread, which the result's `copying` stands for.
        """
        self._free.acquire()
        try:
            specs = tuple(leaf.spec for leaf in state.leaves)
            memory, starts = self._places(specs)
            data = tuple(memory[start : start + spec.nbytes] for start, spec in zip(starts, specs, strict=True))
            parts = list(map(Part, range(len(specs)), state.leaves, data, self._take_hashes(specs)))
            watched = [watch(part, steady) for part in parts]
            at_once = [part for part, late in zip(parts, watched, strict=True) if late is None]
            same = {part.index: part.kept for part in at_once if part.same}
            self._copy(memory, starts, [part for part in at_once if part.index not in same])
            later = [late for late in watched if late is not None]
            copying = Copying(later, self._transfer(_by_kind(late.part for late in later))) if later else None
        except BaseException:
            self._free.release()
            raise
        return CapturedState(state.skeleton, specs, data, tuple(map(same.get, range(len(specs)))), copying)

    def keep(self, hashes: Sequence[str]) -> None:
        """The hashes of the captured state's tensors, for the next one to be compared with."""
        self._hashes = tuple(hashes)

    def release(self) -> None:
        """The captured state is not needed any more. Called once for each capture, from any thread."""
        self._free.release()

    def _take_hashes(self, specs: tuple[TensorSpec, ...]) -> Sequence[str | None]:
        """The hash of what lies at each large tensor's place, where that is such a tensor; they are not there after."""
        # equal specs have equal places
        hashes = self._hashes if self._specs == specs else ()
        self._specs, self._hashes = specs, ()
        if not hashes:
            return [None] * len(specs)
        return [name if spec.nbytes >= SMALL else None for name, spec in zip(hashes, specs, strict=True)]

    def _copy(self, memory: Bytes, starts: Sequence[int], parts: Iterable[Part]) -> None:
        """Copies them to where each one starts."""
        by_kind = _by_kind(parts)
        with self._transfer(by_kind):
            for kind, each in by_kind.items():
                kind.copy_all([part.leaf.tensor for part in each], memory, [starts[part.index] for part in each])

    def _transfer(self, by_kind: Mapping[TensorKind, Sequence[Part]]) -> AbstractContextManager[object]:
        """What they are copied in; each library has a part in it."""
        memory = self._memory
        assert memory is not None
        return _joined([kind.transfer([part.leaf.tensor for part in each], memory) for kind, each in by_kind.items()])

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


def _by_kind(parts: Iterable[Part]) -> dict[TensorKind, list[Part]]:
    found: dict[TensorKind, list[Part]] = {}
    for part in parts:
        found.setdefault(part.leaf.kind, []).append(part)
    return found


@contextlib.contextmanager
def _joined(transfers: Sequence[AbstractContextManager[object]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for each in transfers:
            stack.enter_context(each)
        yield
