"""Where the raw bytes of an object come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes


class Source(Protocol):
    """An open object: its own file, or an encoded one."""

    nbytes: int
    """Of the object, raw."""

    def read_into(self, target: Bytes, offset: int) -> None:
        """Fills `target` with the bytes from `offset` on, which there must be. Raises Damaged."""

    def close(self) -> None:
        """Gives its descriptors back."""
