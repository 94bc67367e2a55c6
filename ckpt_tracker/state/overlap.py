"""Copying tensors in a thread while the training computes, up to the moment at which it would change them.

Nobody but the training knows when that is: it waits first. That nothing changed before is checked as well, by a glance
at each tensor before and after: around its own copy, as a change may be taken back later, and at the end, as a change
that has only just begun is not seen. A glance sees what torch counts, and what is as large as a fair part of a tensor.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_tracker.state.comparing import same_bytes
from ckpt_tracker.state.glances import Glance
from ckpt_tracker.state.tree import TensorLeaf

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes

SMALL = 64 * 1024
"""Tensors below this many bytes are copied at once: that takes no longer than to watch them, or to compare them."""


@dataclass(frozen=True)
class Part:
    """A live tensor, and its place in the staging buffer."""

    index: int
    leaf: TensorLeaf
    target: Bytes
    kept: str | None
    """The hash of what is there already; None where that is unknown."""

    @property
    def same(self) -> bool:
        """What is there already is the tensor as it is now."""
        if self.kept is None:
            return False
        memory = self.leaf.kind.memory(self.leaf.tensor)
        return memory is not None and same_bytes(memory, self.target)


@dataclass(frozen=True)
class Watched:
    """A part that is on its way, and how its tensor was when that began."""

    part: Part
    seen: Glance

    @property
    def unchanged(self) -> bool:
        """The tensor is as it was, as far as can be seen."""
        return self.part.leaf.kind.glance(self.part.leaf.tensor) == self.seen


def watch(part: Part, steady: frozenset[int]) -> Watched | None:
    """The tensor as it is now; None where it has to be copied at once.

    `steady` holds the addresses of tensors that stay as they are until the training says otherwise.
    """
    leaf = part.leaf
    if not steady or leaf.spec.nbytes < SMALL:
        return None
    seen = leaf.kind.glance(leaf.tensor)
    return Watched(part, seen) if seen is not None and seen.address in steady else None


class Copying:
    """Copies in a thread of its own, inside `transfer`, from when it is made."""

    def __init__(self, watched: Sequence[Watched], transfer: AbstractContextManager[object]) -> None:
        self.same: list[Part] = []
        """Those that were there already, once it has finished."""
        self._watched = watched
        self._transfer = transfer
        self._error: BaseException | None = None
        self._changed: Watched | None = None
        self._thread = threading.Thread(target=self._copy, name="ckpt_tracker copy", daemon=True)
        self._thread.start()

    def finish(self) -> str | None:
        """Waits until all is copied; returns what changed meanwhile, or None. Raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        changed = self._changed or next((each for each in self._watched if not each.unchanged), None)
        if changed is None:
            return None
        spec = changed.part.leaf.spec
        return f"a {spec.dtype} tensor of shape {list(spec.shape)}"

    def _copy(self) -> None:
        try:
            with self._transfer:
                for each in self._watched:
                    before, part = each.unchanged, each.part
                    if part.same:
                        self.same.append(part)
                    else:
                        part.leaf.kind.copy_into(part.leaf.tensor, part.target)
                    if not (before and each.unchanged):
                        self._changed = each
                        return
        except BaseException as error:
            self._error = error
