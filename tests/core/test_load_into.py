"""Restoring into the tensors that a training has already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Checkpoint, Store
from ckpt_tracker.errors import CheckpointGone, Damaged, InvalidOption
from ckpt_tracker.files.object_folder import _CHUNK

pytestmark = pytest.mark.usefixtures("loading_threads")
LARGE = _CHUNK + 1000


def _state(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "model": {"large": random.random(LARGE // 8), "small": random.random((3, 4)), "empty": np.empty(0)},
        "optimizer": {"state": {0: {"step": random.random(()), "bytes": random.integers(0, 255, 100, np.uint8)}}},
        "loop": {"epoch": seed},
    }


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    """A checkpoint of `_state(1)`."""
    with Store(tmp_path / "store") as store:
        return store.run("r").save(_state(1)).wait()


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(_equal(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


def test_live_arrays_are_overwritten_and_stand_in_the_result(saved: Checkpoint) -> None:
    """Large and small, inside dicts with any keys; what is no tensor is the checkpoint's."""
    live = _state(2)
    weights, step = live["model"]["large"], live["optimizer"]["state"][0]["step"]
    result = saved.load(into=live)
    assert _equal(result, _state(1))
    assert result["model"]["large"] is weights
    assert result["optimizer"]["state"][0]["step"] is step
    assert weights[-1] == _state(1)["model"]["large"][-1]


def test_a_section_is_read_into_a_section(saved: Checkpoint) -> None:
    """The live tree is that of the section."""
    live = _state(2)["model"]
    result = saved.load("model", into=live)
    assert _equal(result, _state(1)["model"])
    assert result["small"] is live["small"]


def test_what_does_not_fit_is_left_alone(saved: Checkpoint) -> None:
    """Another shape or type, other strides, read-only memory, nothing at all: such a tensor comes back as its own."""
    live = _state(2)
    transposed = np.zeros((4, 3)).T
    frozen = np.zeros(LARGE // 8)
    frozen.flags.writeable = False
    live["model"].update(small=transposed, large=frozen)
    live["optimizer"]["state"][0] = {"bytes": np.zeros(100, np.int8)}
    assert _equal(saved.load(into=live), _state(1))
    assert not transposed.any()
    assert not frozen.any()
    assert not live["optimizer"]["state"][0]["bytes"].any()


def test_one_live_array_does_not_take_two_saved_ones(saved: Checkpoint) -> None:
    """Nor do two that overlap: the second would destroy the first."""
    live = _state(2)
    memory = np.zeros(LARGE // 8 + 8)
    live["model"].update(large=memory[: LARGE // 8], small=memory[8:20].reshape(3, 4))
    assert _equal(saved.load(into=live), _state(1))
    assert not memory.any()


def test_arrays_that_are_tied_stay_tied(tmp_path: Path) -> None:
    """The same two names on both sides are one tensor; a live pair that is not tied is left alone."""
    shared = np.arange(5.0)
    with Store(tmp_path / "tied") as store:
        checkpoint = store.run("r").save({"model": {"a": shared, "b": shared}}).wait()
    live = np.zeros(5)
    result = checkpoint.load(into={"model": {"a": live, "b": live}})
    assert result["model"]["a"] is result["model"]["b"] is live
    assert live[4] == 4
    apart = {"model": {"a": np.zeros(5), "b": np.zeros(5)}}
    result = checkpoint.load(into=apart)
    assert result["model"]["a"] is result["model"]["b"]
    assert not apart["model"]["a"].any()


def test_a_missing_object_is_found_before_anything_is_changed(saved: Checkpoint, tmp_path: Path) -> None:
    """The training's state is as it was."""
    for path in (tmp_path / "store" / "objects").glob("*/*"):
        if path.stat().st_size < 1000:
            path.unlink()
    live = _state(2)
    with pytest.raises(CheckpointGone, match="can't be read"):
        saved.load(into=live)
    assert _equal(live, _state(2))


def test_damaged_bytes_are_found(saved: Checkpoint, tmp_path: Path) -> None:
    """In the last chunk too."""
    path = max((tmp_path / "store" / "objects").glob("*/*"), key=lambda each: each.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match=r"model\.large is damaged"):
        saved.load(into=_state(2))


def test_arrays_instead_of_tensors_can_not_be_asked_for_as_well(saved: Checkpoint) -> None:
    """The live tensors are what they are."""
    with pytest.raises(InvalidOption, match="leave as_numpy out"):
        saved.load(into=_state(2), as_numpy=True)
