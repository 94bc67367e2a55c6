"""What two checkpoints differ in: the leaves, and how far their tensors are apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store, comparison
from ckpt_tracker.comparison import Difference, Distance, SavedState, differences, measured
from ckpt_tracker.errors import CheckpointGone

MODEL: dict[str, Any] = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(2), "scale": 2.5}


def _saved(store: Store, state: dict[str, Any]) -> SavedState:
    record = store.run("r").save(state).record
    return SavedState.read(store.layout, store.objects, record)


def _compared(store: Store, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Difference]:
    first, second = _saved(store, one), _saved(store, other)
    return {each.path: measured(each, first, second) for each in differences(first, second)}


def test_equal_states_have_no_differences(store: Store) -> None:
    """Whatever else lies in their manifests."""
    assert _compared(store, {"model": MODEL}, {"model": {**MODEL, "w": MODEL["w"].copy()}}) == {}


def test_a_tensor_is_measured(store: Store) -> None:
    """How many elements differ, and by how much at most: absolute, relative, over the whole tensor."""
    other = MODEL["w"].copy()
    other[0, 1], other[1, 2] = 1.5, 10.0
    found = _compared(store, {"model": MODEL}, {"model": {**MODEL, "w": other}})
    assert [*found] == ["model.w"]
    assert (found["model.w"].section, found["model.w"].first) == ("model", "float32 [2, 3]")
    distance = found["model.w"].distance
    assert distance is not None
    assert (distance.elements, distance.differing, distance.nans) == (6, 2, (0, 0))
    assert (distance.max_absolute, distance.max_relative) == (5.0, 0.5)
    assert distance.relative_l2 == pytest.approx(math.sqrt(25.25 / 55))


def test_values_that_are_not_finite_count_as_differing_only(store: Store) -> None:
    """NaN is equal to the same NaN; −0.0 is not 0.0, and not apart from it."""
    one = np.array([np.nan, 1.0, 0.0, np.inf, 3.0])
    other = np.array([np.nan, np.nan, -0.0, -np.inf, 3.0])
    found = _compared(store, {"model": {"w": one}}, {"model": {"w": other}})
    assert found["model.w"].distance == Distance(5, 3, 0.0, 0.0, 0.0, (1, 2), (1, 1))


DTYPES = ["bool", "uint8", "int64", "float16", "float64", ">f4", "complex64", ">c16", "U3", "M8[s]"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_type_are_counted(store: Store, dtype: str) -> None:
    """What has numbers is measured; of the rest it is known how many elements differ."""
    one = np.array([0, 1, 0, 1]).astype(dtype)
    other = np.array([0, 0, 0, 1]).astype(dtype)
    distance = _compared(store, {"m": {"w": one}}, {"m": {"w": other}})["m.w"].distance
    assert distance is not None
    assert (distance.elements, distance.differing) == (4, 1)
    if np.dtype(dtype).kind in "biufc":
        assert distance.max_absolute == 1.0
    else:
        assert math.isnan(distance.max_absolute)


def test_a_long_tensor_is_read_in_stretches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are over all of them."""
    monkeypatch.setattr(comparison, "_STRETCH", 1000)
    one, other = np.ones(40_000), np.ones(40_000)
    other[[5, 1000, 39_999]] = 1.5, 2.0, 4.0
    distance = _compared(store, {"m": {"w": one}}, {"m": {"w": other}})["m.w"].distance
    assert distance == Distance(40_000, 3, 3.0, 0.75, pytest.approx(math.sqrt(10.25 / 40_000)), (0, 0))


def test_other_leaves_are_shown(store: Store) -> None:
    """By their paths; a leaf that only one of the two has, and a tensor of another shape, are differences as well."""
    one = {"model": MODEL, "loop": {"epoch": 3, "seen": (1, 2), "best": None}}
    other = {
        "model": {**MODEL, "w": MODEL["w"].T.copy(), "scale": 3.0},
        "loop": {"epoch": 4, "seen": (1, 2, 3), "best": None},
        "rng": {"state": np.zeros(3, dtype=np.uint32)},
    }
    found = _compared(store, one, other)
    assert {path: (each.first, each.second, each.distance) for path, each in found.items()} == {
        "model.w": ("float32 [2, 3]", "float32 [3, 2]", None),
        "model.scale": ("2.5", "3.0", None),
        "loop.epoch": ("3", "4", None),
        "loop.seen[2]": (None, "3", None),
        "rng.state": (None, "uint32 [3]", None),
    }
    assert [path for path, each in found.items() if each.is_tensor] == ["model.w", "rng.state"]


def test_containers_of_another_kind_are_a_difference(store: Store) -> None:
    """A list is no tuple, though their members are equal."""
    found = _compared(store, {"loop": {"seen": [1, 2]}, "m": {}}, {"loop": {"seen": (1, 2)}, "m": {}})
    assert [*found] == ["loop"]


def test_a_checkpoint_that_was_deleted_is_said_to_be_gone(store: Store) -> None:
    """Its manifest, and so its tensors."""
    checkpoint = store.run("r").save({"model": MODEL}).wait()
    store.layout.manifests("r").joinpath("000001.json").unlink()
    with pytest.raises(CheckpointGone):
        SavedState.read(store.layout, store.objects, checkpoint.record)


def test_a_missing_object_is_said_to_be_gone(store: Store) -> None:
    """When the difference is measured; that there is one is known without it."""
    first, second = _saved(store, {"m": {"w": np.zeros(9)}}), _saved(store, {"m": {"w": np.ones(9)}})
    (found,) = differences(first, second)
    for name in store.objects.names():
        store.objects.delete([name])
    with pytest.raises(CheckpointGone, match=r"m\.w"):
        measured(found, first, second)


def test_encoded_tensors_are_measured_as_raw_ones(store: Store) -> None:
    """A compaction changes nothing of what is told, whatever the length of a stretch."""
    pytest.importorskip("zstandard")
    rng = np.random.default_rng(0)
    base = rng.standard_normal(200_001).astype(np.float32)
    states = [{"model": {"w": base + step * np.float32(1e-3), "b": base[:3] + step}} for step in range(2)]
    first, second = (_saved(store, state) for state in states)
    before = [measured(each, first, second) for each in differences(first, second)]
    assert store.compact(store.plan_compaction()).objects
    assert [measured(each, first, second) for each in differences(first, second)] == before
    assert len(before) == 2
