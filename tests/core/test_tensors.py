"""NumPy arrays of every type and layout become bytes and come back, and what shares memory stays shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import Damaged
from ckpt_tracker.records import TensorSpec
from ckpt_tracker.state.tensors import itemsize_fits, kind_named, kind_of, numpy_dtype
from ckpt_tracker.state.tree import encode

Array = npt.NDArray[Any]
RANDOM = np.random.default_rng(3)
BITS = RANDOM.integers(0, 256, 96, dtype=np.uint8)
NAMES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
NAMES += ["complex64", "complex128", ">i4", ">f8", "<M8[ns]", "<m8[s]"]

ARRAYS: dict[str, Array] = {name: BITS.view(name) for name in NAMES}
ARRAYS |= {
    "bool": BITS > 127,
    "longdouble": np.array([1, 3], np.longdouble) / 3,
    "text": np.array(["a", "wärme", ""]),
    "bytes": np.array([b"a", b"\x00b"]),
    "0-dim": np.array(2.5),
    "empty": np.empty((0, 3), np.float32),
    "empty in the middle": np.empty((2, 0, 3), np.int64),
    "one element": np.array([[7]], np.int16),
    "transposed": RANDOM.random((3, 5)).T,
    "fortran": np.asfortranarray(RANDOM.random((3, 5))),
    "every other": RANDOM.random(20)[::2],
    "backwards": RANDOM.random((4, 4))[::-1, ::-1],
    "broadcast": np.broadcast_to(np.float32(1.5), (3, 4)),
    "read-only": np.frombuffer(b"12345678", np.int32),
    "unaligned": np.frombuffer(b"x" * 17, np.uint8)[1:].view(np.float64),
    "large": RANDOM.random(20_000),
    "nan with a payload": np.array([0x7FF8000000000123, 0xFFF0000000000000], np.uint64).view(np.float64),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_comes_back_with_its_type_shape_and_bits(
    store: Store, same: Callable[[object, object], bool], array: Array
) -> None:
    """Whatever its strides were, the copy is C-contiguous, and writable."""
    loaded = store.run("r").save({"model": {"w": array}}).load("model")["w"]
    assert same(array, loaded)
    assert loaded.flags.c_contiguous
    assert loaded.flags.writeable


def test_the_saved_array_is_left_as_it_was(store: Store) -> None:
    """A save reads; it changes neither values nor strides."""
    array = RANDOM.random((3, 5)).T
    before = (array.copy(), array.strides)
    store.run("r").save({"model": {"w": array}}).wait()
    assert (array == before[0]).all()
    assert array.strides == before[1]


def test_tied_arrays_stay_tied(store: Store) -> None:
    """Two names of one memory are stored once, and come back as one array."""
    weight = np.ones((4, 4), np.float32)
    checkpoint = store.run("r").save({"model": {"embed": weight, "head": weight, "view": weight[:]}})
    loaded = checkpoint.load("model")
    assert loaded["embed"] is loaded["head"] is loaded["view"]
    assert checkpoint.nbytes == weight.nbytes


def test_views_of_one_memory_with_another_shape_are_other_arrays(store: Store) -> None:
    """A part, or the same bytes seen otherwise, comes back as a value of its own."""
    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    loaded = store.run("r").save({"model": {"all": weight, "row": weight[0], "t": weight.T}}).load("model")
    assert (loaded["row"] == weight[0]).all()
    assert (loaded["t"] == weight.T).all()
    assert not np.shares_memory(loaded["all"], loaded["row"])


def test_equal_arrays_that_are_not_one_memory_come_back_apart(store: Store) -> None:
    """They share their bytes on disk, and nothing in memory."""
    checkpoint = store.run("r").save({"model": {"a": np.ones(30_000), "b": np.ones(30_000)}})
    loaded = checkpoint.load("model")
    loaded["a"][0] = 5
    assert loaded["b"][0] == 1
    assert checkpoint.stored_bytes == 240_000


def test_empty_arrays_are_never_tied(store: Store) -> None:
    """Arrays without bytes have no memory that they could share."""
    loaded = store.run("r").save({"model": {"a": np.empty(0), "b": np.empty((3, 0))}}).load("model")
    assert (loaded["a"].shape, loaded["b"].shape) == ((0,), (3, 0))


def test_what_was_loaded_is_the_callers_own(store: Store) -> None:
    """Writing into loaded arrays changes nothing on disk."""
    checkpoint = store.run("r").save({"model": {"w": np.ones(100_000)}})
    checkpoint.load("model")["w"][:] = 7
    assert (checkpoint.load("model")["w"] == 1).all()


def test_subclasses_of_arrays_are_no_tensors() -> None:
    """A matrix or a masked array would come back as something else, so it is not taken for an array."""
    assert kind_of(np.ma.masked_array([1.0])) is None
    assert kind_of(np.zeros(1)) is kind_named("numpy")


FITTING = [
    ("float32", (2, 3), 24),
    ("bfloat16", (5,), 10),
    ("float8_e4m3fn", (5,), 5),
    ("<U2", (2,), 16),
    ("bool", (), 1),
]


@pytest.mark.parametrize(("dtype", "shape", "nbytes"), FITTING)
def test_a_declared_size_is_checked_against_type_and_shape(dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
    """One byte more or less does not fit; torch's own types are known without torch."""
    sizes = (nbytes - 1, nbytes, nbytes + 1)
    fits = [itemsize_fits(TensorSpec("torch", dtype, shape, size)) for size in sizes]
    assert fits == [False, True, False]


@pytest.mark.parametrize("name", ["O", "object", "V8", "a,b", "i4,f8", "__class__", "", "x" * 40, "(2,)i4"])
def test_a_type_that_no_checkpoint_holds_is_refused(name: str) -> None:
    """Names of types are looked at before NumPy interprets them."""
    with pytest.raises(Damaged, match="is not a"):
        numpy_dtype(name)


def test_an_unknown_kind_of_tensor_is_damaged() -> None:
    """A manifest can name NumPy and torch."""
    with pytest.raises(Damaged, match="'jax' is unknown: expected 'numpy' or 'torch'"):
        kind_named("jax")


def test_torch_tensors_without_torch_name_the_extra(python: Callable[..., str]) -> None:
    """What to install is said, and the way to read without it."""
    output = python(
        """
        import sys
        sys.modules["torch"] = None
        from ckpt_tracker.state.tensors import kind_named
        try:
            kind_named("torch")
        except ImportError as error:
            print(type(error).__name__, error)
        """
    )
    assert output.startswith("MissingExtra ")
    assert 'pip install "ckpt-tracker[torch]"' in output
    assert "as_numpy=True" in output


def test_one_tensor_is_listed_once_however_often_it_occurs() -> None:
    """The table of tensors has one entry for each memory."""
    weight = np.ones(3)
    assert len(encode({"a": weight, "b": [weight, (weight,)], "c": np.ones(3)}).leaves) == 2
