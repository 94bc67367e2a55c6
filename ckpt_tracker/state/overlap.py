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

from ckpt_tracker.state.glances import Glance
from ckpt_tracker.state.tree import TensorLeaf

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes

SMALL = 64 * 1024
"""Tensors below this many bytes are copied at once: that takes no longer than to watch them."""


@dataclass(frozen=True)
class Watched:
    """A live tensor on its way into the staging buffer, and how it was when that began."""

    leaf: TensorLeaf
    target: Bytes
    seen: Glance

    @property
    def unchanged(self) -> bool:
        """The tensor is as it was, as far as can be seen."""
        return self.leaf.kind.glance(self.leaf.tensor) == self.seen


def watch(leaf: TensorLeaf, target: Bytes, steady: frozenset[int]) -> Watched | None:
    """The tensor as it is now; None where it has to be copied at once.

    `steady` holds the addresses of tensors that stay as they are until the training says otherwise.
    """
    if not steady or leaf.spec.nbytes < SMALL:
        return None
    seen = leaf.kind.glance(leaf.tensor)
    return Watched(leaf, target, seen) if seen is not None and seen.address in steady else None


class Copying:
    """Copies in a thread of its own, inside `transfer`, from when it is made."""

    def __init__(self, parts: Sequence[Watched], transfer: AbstractContextManager[object]) -> None:
        self._parts = parts
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
        changed = self._changed or next((part for part in self._parts if not part.unchanged), None)
        if changed is None:
            return None
        spec = changed.leaf.spec
        return f"a {spec.dtype} tensor of shape {list(spec.shape)}"

    def _copy(self) -> None:
        try:
            with self._transfer:
                for part in self._parts:
                    before = part.unchanged
                    part.leaf.kind.copy_into(part.leaf.tensor, part.target)
                    if not (before and part.unchanged):
                        self._changed = part
                        return
        except BaseException as error:
            self._error = error
