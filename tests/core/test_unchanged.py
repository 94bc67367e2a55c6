"""A large tensor that the staging buffer holds as it is is not copied and hashed again; nothing else passes for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import SaveFailed
from ckpt_tracker.files.objects import ObjectWriter
from ckpt_tracker.state.overlap import SMALL
from ckpt_tracker.state.staging import StagingBuffer
from ckpt_tracker.state.tensors import NumpyKind
from ckpt_tracker.state.tree import encode

ELEMENTS = SMALL
State = dict[str, Any]


def _weights(*values: float) -> State:
    return {"model": {f"w{index}": np.full(ELEMENTS, value, np.float32) for index, value in enumerate(values)}}


def _last_changed() -> State:
    state = _weights(1.0, 2.0)
    state["model"]["w1"].view(np.uint8)[-1] ^= 1
    return state


SEQUENCES: dict[str, list[State]] = {
    "nothing": [_weights(1.0, 2.0), _weights(1.0, 2.0)],
    "one tensor, and back": [_weights(1.0, 2.0), _weights(1.0, 3.0), _weights(1.0, 2.0)],
    "one bit": [_weights(1.0, 2.0), _last_changed()],
    "the sign of a zero": [_weights(0.0), _weights(-0.0)],
    "places change": [_weights(1.0, 2.0), _weights(2.0, 1.0)],
    "the first one goes": [_weights(1.0, 2.0), _weights(2.0)],
    "one comes": [_weights(1.0), _weights(1.0, 1.0), _weights(1.0)],
    "the last one is cut, and grows": [{"model": {"w": np.ones(ELEMENTS * times)}} for times in (2, 1, 2)],
    "the type": [_weights(1.0), {"model": {"w0": _weights(1.0)["model"]["w0"].view(np.int32)}}],
    "the section": [{"optimizer": _weights(1.0)["model"]}, _weights(1.0)],
    "the shape": [_weights(1.0), {"model": {"w0": _weights(1.0)["model"]["w0"].reshape(2, -1)}}],
    "the order in memory": [
        {"model": {"w0": np.arange(ELEMENTS).reshape(2, -1)}},
        {"model": {"w0": np.arange(ELEMENTS).reshape(2, -1).T.copy().T}},
    ],
}


@pytest.mark.parametrize("states", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_each_checkpoint_is_what_it_would_be_alone(
    store: Store, tmp_path: Path, same: Callable[[object, object], bool], states: list[State]
) -> None:
    """Whatever changes from one save to the next: saved into a store of its own, it has the same digest."""
    saved = [store.run("r").save(state) for state in states]
    for number, (state, checkpoint) in enumerate(zip(states, saved, strict=True)):
        with Store(tmp_path / f"alone {number}") as alone:
            assert checkpoint.digest == alone.run("r").save(state).digest
        assert same(state, checkpoint.load())


def _hashes(buffer: StagingBuffer, state: object) -> tuple[str | None, ...]:
    captured = buffer.capture(encode(state))
    buffer.release()
    return captured.hashes


def test_what_is_there_keeps_its_hash_until_it_is_overwritten() -> None:
    """And small tensors, which cost nothing, and those whose hash nobody gave, have none."""
    buffer, state = StagingBuffer(), {**_weights(1.0, 2.0), "small": np.zeros(9)}
    assert _hashes(buffer, state) == (None, None, None)
    assert _hashes(buffer, state) == (None, None, None)
    buffer.keep(["first", "second", "third"])
    assert _hashes(buffer, {**_weights(1.0, 3.0), "small": np.zeros(9)}) == ("first", None, None)
    assert _hashes(buffer, state) == (None, None, None)


def test_a_capture_that_failed_leaves_nothing_to_compare_with() -> None:
    """Some of its tensors may have been copied."""

    class Broken(NumpyKind):
        def copy_into(self, tensor: Any, buffer: Any) -> None:
            buffer[:8] = 0
            raise MemoryError("none left")

    buffer, state = StagingBuffer(), _weights(1.0, 2.0)
    _hashes(buffer, state)
    buffer.keep(["first", "second"])
    other = encode(_weights(1.0, 3.0))
    for leaf in other.leaves:
        object.__setattr__(leaf, "kind", Broken())
    with pytest.raises(MemoryError):
        buffer.capture(other)
    assert _hashes(buffer, state) == (None, None)


def test_a_save_that_failed_is_hashed_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it wrote is not taken for written."""
    run, state = store.run("r"), _weights(1.0, 2.0)
    with monkeypatch.context() as broken:
        broken.setattr(ObjectWriter, "_flush", lambda self: (_ for _ in ()).throw(OSError("the disk is gone")))
        with pytest.raises(SaveFailed, match="the disk is gone"):
            run.save(state).wait()
    assert run.save(state).stored_bytes == 2 * 4 * ELEMENTS
    assert not store.verify(deep=True).findings


def test_an_object_that_was_deleted_meanwhile_is_written_again(store: Store) -> None:
    """Its hash is known, and its bytes are still in the buffer."""
    run, state = store.run("r"), _weights(1.0, 2.0)
    run.save(state).wait()
    name = next(iter(store.objects.names()))
    store.objects.path(name).unlink()
    assert run.save(state).stored_bytes == 4 * ELEMENTS
    assert not store.verify(deep=True).findings


def test_weights_that_do_not_change_are_still_no_numbers(store: Store) -> None:
    """Each checkpoint says so, and those after the NaN has gone do not."""
    run, bad, good = store.run("r"), _weights(1.0, math.nan), _weights(1.0, 2.0)
    moments = {"optimizer": bad["model"]}
    told = [dict(run.save(state).wait().record.nonfinite) for state in (moments, bad, bad, good, good, bad)]
    assert told == [{}, {"model.w1": "nan"}, {"model.w1": "nan"}, {}, {}, {"model.w1": "nan"}]
