"""Tensors that are copied in a thread, up to the moment at which they change."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ckpt_tracker.state.overlap import SMALL
from ckpt_tracker.state.staging import StagingBuffer
from ckpt_tracker.state.tensors import NumpyKind
from ckpt_tracker.state.tree import EncodedState, TensorLeaf


@dataclass(eq=False)
class Gated(NumpyKind):
    """NumPy's kind, which copies once it is allowed to."""

    gate: threading.Event = field(default_factory=threading.Event)

    def copy_into(self, tensor: Any, buffer: Any) -> None:
        """After the gate has opened."""
        assert self.gate.wait(60)
        super().copy_into(tensor, buffer)


def _state(*tensors: Any, kind: NumpyKind) -> EncodedState:
    return EncodedState(
        list(range(len(tensors))), tuple(TensorLeaf(kind, each, kind.describe(each)) for each in tensors)
    )


def _addresses(*tensors: Any) -> frozenset[int]:
    return frozenset(each.ctypes.data for each in tensors)


def test_a_steady_tensor_is_copied_after_capture_has_returned() -> None:
    """And is whole once `finish` returns, without anything that changed."""
    weights, kind = np.arange(SMALL, dtype=np.float32), Gated()
    captured = StagingBuffer().capture(_state(weights, kind=kind), steady=_addresses(weights))
    assert captured.copying is not None
    assert not captured.data[0].any()
    kind.gate.set()
    assert captured.copying.finish() is None
    assert np.array_equal(captured.data[0].view(np.float32), weights)


def test_a_change_during_the_copy_is_found() -> None:
    """Through memory that nobody counts the changes of."""
    weights, kind = np.arange(SMALL, dtype=np.float32), Gated()
    captured = StagingBuffer().capture(_state(weights, kind=kind), steady=_addresses(weights))
    weights += 1
    kind.gate.set()
    assert captured.copying is not None
    assert captured.copying.finish() == f"a float32 tensor of shape [{SMALL}]"


def test_a_change_that_is_taken_back_is_found() -> None:
    """As when averaged weights stand in their place for a while, and meanwhile are copied."""
    weights, original = np.zeros(SMALL, dtype=np.float32), np.arange(SMALL, dtype=np.float32)
    weights[:] = original

    @dataclass(eq=False)
    class Swapping(Gated):
        def copy_into(self, tensor: Any, buffer: Any) -> None:
            weights[:] = 0
            super().copy_into(tensor, buffer)

    kind = Swapping()
    kind.gate.set()
    captured = StagingBuffer().capture(_state(weights, kind=kind), steady=_addresses(weights))
    assert captured.copying is not None
    captured.copying._thread.join()
    weights[:] = original
    assert captured.copying.finish() == f"a float32 tensor of shape [{SMALL}]"


def test_what_is_not_steady_and_what_is_small_is_copied_at_once() -> None:
    """It may change the moment that `capture` returns."""
    tensors = (np.ones(SMALL, np.uint8), np.ones(SMALL - 1, np.uint8))
    captured = StagingBuffer().capture(_state(*tensors, kind=NumpyKind()), steady=_addresses(tensors[1]))
    assert captured.copying is None
    assert all(each.all() for each in captured.data)


def test_an_error_of_the_copy_is_raised_where_it_is_waited_for() -> None:
    """It does not end in the thread."""

    class Broken(NumpyKind):
        def copy_into(self, tensor: Any, buffer: Any) -> None:
            raise MemoryError("none left")

    weights = np.ones(SMALL, np.uint8)
    captured = StagingBuffer().capture(_state(weights, kind=Broken()), steady=_addresses(weights))
    assert captured.copying is not None
    with pytest.raises(MemoryError, match="none left"):
        captured.copying.finish()
