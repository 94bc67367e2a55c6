"""Whether weights are numbers: a look at the bits of a captured state, while its bytes lie in the staging buffer.

In IEEE 754 a value is NaN or infinite exactly when all bits of its exponent are set, so the largest bit pattern of
either sign tells. Two reductions over integers find it, for every type alike, also those that NumPy has no arithmetic
for, at a multiple of the speed at which the same bytes are hashed. What the 8-bit types have is listed at
https://onnx.ai/onnx/technical/float8.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ckpt_tracker.records import TensorSpec
from ckpt_tracker.state.tree import tensor_paths

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ckpt_tracker.state.tensors import Bytes

NonFinite = Literal["nan", "inf"]
SECTION = "model"
"""The section that is looked at: what makes predictions."""
_MOST_NAMED = 10
_CHUNK = 512 * 1024
# type → bytes of one number, and the pattern of +infinity; of a type without infinities that of its first NaN
_PATTERNS = {
    "float16": (2, 0x7C00),
    "bfloat16": (2, 0x7F80),
    "float32": (4, 0x7F80_0000),
    "float64": (8, 0x7FF0_0000_0000_0000),
    "complex32": (2, 0x7C00),
    "complex64": (4, 0x7F80_0000),
    "complex128": (8, 0x7FF0_0000_0000_0000),
    "float8_e5m2": (1, 0x7C),
    "float8_e4m3": (1, 0x78),
    "float8_e3m4": (1, 0x70),
    "float8_e4m3fn": (1, 0x7F),
}
_BIG_ENDIAN = {">f2": "float16", ">f4": "float32", ">f8": "float64", ">c8": "complex64", ">c16": "complex128"}
# their one NaN is what would be minus zero
_MINUS_ZERO_IS_NAN = ("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz")


def weights(skeleton: Any) -> list[int]:
    """The tensors of section `model`, by their indexes."""
    return [index for index, _ in tensor_paths(skeleton.get(SECTION))]


def nonfinite(
    skeleton: Any, specs: Sequence[TensorSpec], data: Sequence[Bytes], *, sound: frozenset[int] = frozenset()
) -> dict[str, NonFinite]:
    """The tensors of section `model` that hold NaN (`nan`), or infinities and no NaN (`inf`), by path; at most ten.

    A tensor of zeros and minus infinities alone is an attention mask, and is none of them. Those that are `sound` are
    not looked at.
    """
    found: dict[str, NonFinite] = {}
    for index, path in tensor_paths(skeleton.get(SECTION), SECTION):
        kind = None if index in sound else _kind(specs[index].dtype, data[index])
        if kind is not None:
            found.setdefault(path, kind)
            if len(found) == _MOST_NAMED:
                break
    return found


def _kind(dtype: str, data: Bytes) -> NonFinite | None:
    """What a tensor holds. Types of more than 64 bits a number are not looked at."""
    if dtype in _MINUS_ZERO_IS_NAN:
        return "nan" if len(data) and int(data.view("int8").min()) == -128 else None
    size, pattern = _PATTERNS.get(_BIG_ENDIAN.get(dtype, dtype), (0, 0))
    order = ">" if dtype in _BIG_ENDIAN else "="
    if not size or not any(
        int(chunk.view(f"{order}i{size}").max()) >= pattern
        or int(chunk.view(f"{order}u{size}").max()) >= _sign(size) + pattern
        for chunk in (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))
    ):
        return None
    bits = data.view(f"{order}u{size}").astype(f"u{size}", copy=False)
    return _told_apart(bits, size, pattern, infinite=dtype != "float8_e4m3fn")


def _sign(size: int) -> int:
    return 1 << (8 * size - 1)


def _told_apart(
    bits: npt.NDArray[np.unsignedinteger[Any]], size: int, pattern: int, *, infinite: bool
) -> NonFinite | None:
    """What a tensor holds of which some value reaches the pattern; None for a mask."""
    if not infinite or ((bits & bits.dtype.type(_sign(size) - 1)) > pattern).any():
        return "nan"
    is_mask = bool(((bits == _sign(size) + pattern) | (bits == 0)).all())
    return None if is_mask else "inf"
