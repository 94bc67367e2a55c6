"""Tensors of any library as bytes, and back.

A *tensor kind* knows one library's tensors: what they are (`TensorSpec`), when two of them are the same memory
seen the same way, how to copy one into a buffer, and how to make one from bytes. NumPy's is here; torch's is in
`torch_tensors`, and is loaded only where torch already is (saving) or where a torch tensor is to come back (loading).
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from functools import cache, lru_cache
from mmap import mmap
from typing import TYPE_CHECKING, Any, Protocol

from ckpt_tracker.errors import Damaged, MissingExtra
from ckpt_tracker.records import TensorSpec
from ckpt_tracker.state.glances import Glance, glance_at

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

# NumPy takes far more for a type, expressions among it, and warns of some
_DTYPE = re.compile(
    r"bool|u?int(8|16|32|64)|(float|complex)\d{2,3}|longdouble|clongdouble"
    r"|[<>|=][biufcmMSU]\d{1,10}(\[\d{0,9}[a-zA-Zμ]{1,2}\])?"
)
_ML_DTYPE = re.compile(r"bfloat16|float[468]_\w{1,16}|u?int[124]")
_MOST_DIMENSIONS = 64
_PLAIN_KINDS = "biufc"
_OTHER_KINDS = "mMSU"


class TensorKind(Protocol):
    """How one library's tensors become bytes, and come back."""

    def describe(self, tensor: Any) -> TensorSpec:
        """What it is. Raises TypeError, saying what it is instead, for a form that has no plain bytes."""

    def identity(self, tensor: Any) -> Hashable | None:
        """Equal for tensors that are one memory seen the same way (tied weights); None where that can't be."""

    def copy_into(self, tensor: Any, buffer: Bytes) -> None:
        """Writes the tensor's C-contiguous bytes into `buffer`, which is exactly as long."""

    def copy_all(self, tensors: Sequence[Any], memory: Bytes, starts: Sequence[int]) -> None:
        """The same for each, from its start in `memory` on: starts and the length are multiples of a number's bytes."""

    def build(self, spec: TensorSpec, data: Bytes) -> Any:
        """The tensor that `data` holds; it may keep `data` as its memory."""

    def allocate(self, nbytes: int) -> Bytes:
        """Fresh memory for a tensor of so many bytes."""

    def memory(self, tensor: Any) -> Bytes | None:
        """The tensor's own bytes, to be written; None where they are not C-contiguous, or not in this memory."""

    def glance(self, tensor: Any) -> Glance | None:
        """How the tensor is now, to be compared with how it is later; None where that can't be told."""

    def transfer(self, tensors: Sequence[Any], memory: mmap) -> AbstractContextManager[object]:
        """What copies of these tensors into `memory` are made in, from any thread, as the tensors are now or later.

        They have arrived when it is left. The memory may be made ready for them, which takes its time once.
        """


class NumpyKind:
    """NumPy arrays, with the extra number types of ml_dtypes (bfloat16, float8, …)."""

    def describe(self, tensor: npt.NDArray[Any]) -> TensorSpec:
        """A TensorSpec of kind `numpy`. Raises TypeError for object and structured arrays."""
        dtype = tensor.dtype
        if dtype.kind in _PLAIN_KINDS and dtype.isnative:
            name = dtype.name
        elif dtype.kind in _PLAIN_KINDS or dtype.kind in _OTHER_KINDS:
            name = dtype.str
        elif dtype.type.__module__.split(".")[0] == "ml_dtypes":
            name = dtype.name
        else:
            raise TypeError(f"a NumPy array of dtype {dtype}")
        return TensorSpec("numpy", name, tensor.shape, tensor.nbytes)

    def identity(self, tensor: npt.NDArray[Any]) -> Hashable | None:
        """The array's address, type, shape and strides; None for an empty one."""
        if tensor.nbytes == 0:
            return None
        return ("numpy", tensor.ctypes.data, tensor.dtype.str, tensor.shape, tensor.strides)

    def copy_into(self, tensor: npt.NDArray[Any], buffer: Bytes) -> None:
        """Copies element by element in C order."""
        import numpy as np

        np.copyto(buffer.view(tensor.dtype).reshape(tensor.shape), tensor)

    def copy_all(self, tensors: Sequence[npt.NDArray[Any]], memory: Bytes, starts: Sequence[int]) -> None:
        """One after the other."""
        for tensor, start in zip(tensors, starts, strict=True):
            self.copy_into(tensor, memory[start : start + tensor.nbytes])

    def build(self, spec: TensorSpec, data: Bytes) -> npt.NDArray[Any]:
        """An array over `data` itself."""
        return data.view(numpy_dtype(spec.dtype)).reshape(spec.shape)

    def allocate(self, nbytes: int) -> Bytes:
        """NumPy's own."""
        import numpy as np

        return np.empty(nbytes, dtype=np.uint8)

    def memory(self, tensor: npt.NDArray[Any]) -> Bytes | None:
        """The array's bytes."""
        import numpy as np

        if not tensor.nbytes or not tensor.flags.c_contiguous or not tensor.flags.writeable:
            return None
        return tensor.reshape(-1).view(np.uint8)

    def glance(self, tensor: npt.NDArray[Any]) -> Glance | None:
        """At the array's bytes."""
        memory = self.memory(tensor)
        return None if memory is None else glance_at(memory)

    def transfer(self, tensors: Sequence[npt.NDArray[Any]], memory: mmap) -> AbstractContextManager[object]:
        """Nothing to do."""
        return contextlib.nullcontext()


def kind_of(value: object) -> TensorKind | None:
    """The kind that handles `value`, or None when it is no tensor. Imports nothing that isn't loaded already."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray:
        return kind_named("numpy")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return kind_named("torch")
    return None


@cache
def kind_named(name: str) -> TensorKind:
    """The kind of that name. Raises MissingExtra for torch where it isn't installed, Damaged for an unknown one."""
    if name == "numpy":
        return NumpyKind()
    if name != "torch":
        raise Damaged(f"tensor kind {name!r} is unknown: expected 'numpy' or 'torch'")
    try:
        from ckpt_tracker.state.torch_tensors import TorchKind
    except ImportError as error:
        raise MissingExtra(
            "the checkpoint holds torch tensors and torch is not installed: "
            'pip install "ckpt-tracker[torch]", or load with as_numpy=True'
        ) from error
    return TorchKind()


@lru_cache(maxsize=256)
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy type of that name. Raises Damaged for one that can't be in a checkpoint."""
    import numpy as np

    if _ML_DTYPE.fullmatch(name):
        return _ml_dtype(name)
    if not _DTYPE.fullmatch(name):
        raise Damaged(f"{name[:60]!r} is not a type of plain tensors")
    try:
        return np.dtype(name)
    except (TypeError, ValueError) as error:
        raise Damaged(f"{name!r} is not a tensor type that NumPy knows") from error


def itemsize_fits(spec: TensorSpec) -> bool:
    """The shape and type take exactly the bytes that the spec declares: checked before anything is allocated."""
    if len(spec.shape) > _MOST_DIMENSIONS:
        return False
    # also a shape without elements must be one that NumPy and torch can hold
    extent = _itemsize(spec.dtype)
    for length in spec.shape:
        extent *= length or 1
        if extent >= 2**63:
            return False
    return spec.nbytes == (0 if 0 in spec.shape else extent)


@lru_cache(maxsize=256)
def _itemsize(name: str) -> int:
    if not isinstance(name, str):
        raise Damaged(f"{name!r} is not a tensor type")
    return _torch_only_itemsize(name) or numpy_dtype(name).itemsize


def _torch_only_itemsize(name: str) -> int | None:
    """Types that NumPy lacks, so that checking a manifest needs neither torch nor ml_dtypes."""
    if name.startswith("float8"):
        return 1
    return {"bfloat16": 2, "complex32": 4, "float4_e2m1fn_x2": 1}.get(name)


def _ml_dtype(name: str) -> np.dtype[Any]:
    import numpy as np

    try:
        import ml_dtypes
    except ImportError as error:
        message = f"NumPy has no {name} of its own: pip install ml_dtypes, or load without as_numpy"
        raise MissingExtra(message) from error
    scalar = getattr(ml_dtypes, name, None)
    if not (isinstance(scalar, type) and issubclass(scalar, np.generic)):
        raise Damaged(f"{name!r} is not a tensor type that NumPy or ml_dtypes knows")
    dtype: np.dtype[Any] = np.dtype(scalar)
    return dtype
