"""Copying tensors in a thread while the training computes, up to the moment at which it would change them.

Nobody but the training knows when that is: it waits first. That nothing changed before is checked as well: torch counts
the changes of a tensor, and of bytes in some places of each it is looked whether they are the same, because a change
through `.data` is not counted.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_tracker.state.tree import TensorLeaf

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes

SMALL = 64 * 1024
"""Tensors below this many bytes are copied at once: that takes no longer than to watch them."""
_PLACES = 64


@dataclass(frozen=True)
class Watched:
    """A live tensor on its way into the staging buffer, and how it was when that began."""

    leaf: TensorLeaf
    memory: Bytes
    target: Bytes
    version: int
    look: bytes

    @property
    def unchanged(self) -> bool:
        """The tensor is as it was, as far as can be seen."""
        return _version(self.leaf.tensor) == self.version and _look(self.memory) == self.look


def watch(leaf: TensorLeaf, target: Bytes, steady: frozenset[int]) -> Watched | None:
    """The tensor as it is now; None where it has to be copied at once.

    `steady` holds the addresses of tensors that stay as they are until the training says otherwise.
    """
    if not steady or leaf.spec.nbytes < SMALL:
        return None
    memory = leaf.kind.memory(leaf.tensor)
    if memory is None or memory.ctypes.data not in steady:
        return None
    return Watched(leaf, memory, target, _version(leaf.tensor), _look(memory))


class Copying:
    """Copies in a thread of its own, from when it is made."""

    def __init__(self, parts: Sequence[Watched]) -> None:
        self._parts = parts
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._copy, name="ckpt_tracker copy", daemon=True)
        self._thread.start()

    def finish(self) -> str | None:
        """Waits until all is copied; returns what changed meanwhile, or None. Raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        for part in self._parts:
            if not part.unchanged:
                spec = part.leaf.spec
                return f"a {spec.dtype} tensor of shape {list(spec.shape)}"
        return None

    def _copy(self) -> None:
        try:
            for part in self._parts:
                part.leaf.kind.copy_into(part.leaf.tensor, part.target)
        except BaseException as error:
            self._error = error


def _version(tensor: Any) -> int:
    version: int = getattr(tensor, "_version", 0)
    return version


def _look(memory: Bytes) -> bytes:
    # an odd step comes by every byte of a number
    return memory[:: len(memory) // _PLACES | 1].tobytes()
