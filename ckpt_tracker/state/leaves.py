"""JSON forms of the Python values that are neither plain JSON nor tensors nor containers of state.

A form is an object with one member whose name starts with `$`. Classes are looked up by name only to rebuild enums,
named tuples and dataclasses, and only in modules that are already imported or belong to the frameworks: reading
a checkpoint never imports, and so never runs, a module that the checkpoint names.
"""

from __future__ import annotations

import base64
import datetime
import enum
import importlib
import logging
import math
import pathlib
import sys
from typing import Any

from ckpt_tracker.errors import Damaged, MissingExtra, StateMismatch

_log = logging.getLogger("ckpt_tracker")
_KNOWN_PACKAGES = frozenset(
    (
        *("accelerate", "collections", "keras", "lightning", "lightning_fabric", "numpy", "peft"),
        *("pytorch_lightning", "torch", "torchmetrics", "transformers"),
    )
)
_INT64 = range(-(2**63), 2**64)
_MOST_DIGITS = 2**18


def encode_leaf(value: object) -> Any:
    """The JSON form of a leaf. Raises TypeError for what has none."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Flag):
        return {"$flag": [lasting_name(type(value)), _hex(value.value)]}
    if isinstance(value, enum.Enum):
        return {"$enum": [lasting_name(type(value)), value.name]}
    plain = _encode_plain(value)
    if plain is not None:
        return plain
    for module, encode in (("numpy", _encode_numpy), ("torch", _encode_torch)):
        if module in sys.modules and (form := encode(value)) is not None:
            return form
    raise TypeError


def decode_leaf(tag: str, body: Any) -> object:
    """The value of a tagged form; without torch, its own are plain Python. Raises Damaged for an unknown tag."""
    if tag in ("$size", "$dtype", "$device"):
        try:
            from ckpt_tracker.state.torch_tensors import decode_value
        except ImportError:
            return tuple(body) if tag == "$size" else body
        return decode_value(tag, body)
    decode = _DECODERS.get(tag)
    if decode is None:
        raise Damaged(f"form {tag!r} is unknown to this version of ckpt_tracker")
    return decode(body)


def class_name(cls: type) -> str:
    """`module:QualifiedName`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def lasting_name(cls: type) -> str:
    """The name by which `class_named` finds the class again. Raises TypeError where none would."""
    name = class_name(cls)
    try:
        class_named(name, base=object)
    except (StateMismatch, MissingExtra):
        raise TypeError(f"{name} can't be found by its name") from None
    return name


def class_named(name: str, *, base: type) -> Any:
    """The class of that name, which must derive from `base`.

    Raises StateMismatch where it can't be had, MissingExtra where its framework is not installed.
    """
    module_name, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module_name) or _imported(module_name, name)
    for depth, part in enumerate(qualified.split(".")):
        # from a module to a class, and on to classes inside it: an attribute of anything else may be code
        found = getattr(found, part, None) if depth == 0 or isinstance(found, type) else None
    if not (isinstance(found, type) and issubclass(found, base)):
        name, module_name = name[:200], module_name[:200]
        raise StateMismatch(
            f"the checkpoint holds a {name}, which is not imported here: import {module_name} before loading"
        )
    return found


def _imported(module: str, name: str) -> Any:
    """A module of the frameworks; None for any other. Their `__main__` modules are programs."""
    package, *parts = module.split(".")
    if package not in _KNOWN_PACKAGES or not all(part.isidentifier() and part[:2] != "__" for part in parts):
        return None
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise MissingExtra(f"the checkpoint holds a {name[:200]}, and {package} is not installed") from error
    except Exception:
        # what a framework's module needs besides may be missing in any way
        _log.debug("%s can't be imported", module, exc_info=True)
    return None


def _encode_plain(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return _encode_str(value)
    if kind is int:
        return value if value in _INT64 else {"$int": _hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    encode = _ENCODERS.get(kind)
    return None if encode is None else encode(value)


def _encode_str(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"$str": _base64(value.encode("utf-8", "surrogatepass"))}
    return value


def _hex(value: int) -> str:
    if value.bit_length() > 4 * _MOST_DIGITS - 8:
        raise TypeError
    return hex(value)


def _int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits, 16)


def _float(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError(f"{text[:30]!r} is no float that JSON can't hold")
    return float(text)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _float_text(value: float) -> str:
    return value.hex()


def _bounds(*values: object) -> list[object]:
    if any(value is not None and (type(value) is not int or value not in _INT64) for value in values):
        raise TypeError
    return list(values)


def _three(body: Any) -> Any:
    if len(body) != 3 or any(each is not None and type(each) is not int for each in body):
        raise ValueError("a start, a stop and a step were expected")
    return body


_ENCODERS: dict[type, Any] = {
    bytes: lambda value: {"$bytes": _base64(value)},
    bytearray: lambda value: {"$bytearray": _base64(bytes(value))},
    complex: lambda value: {"$complex": [_float_text(value.real), _float_text(value.imag)]},
    range: lambda value: {"$range": _bounds(value.start, value.stop, value.step)},
    slice: lambda value: {"$slice": _bounds(value.start, value.stop, value.step)},
    datetime.datetime: lambda value: {"$datetime": value.isoformat()},
    datetime.date: lambda value: {"$date": value.isoformat()},
    datetime.timedelta: lambda value: {"$timedelta": [value.days, value.seconds, value.microseconds]},
    pathlib.PosixPath: lambda value: {"$path": str(value)},
    pathlib.WindowsPath: lambda value: {"$path": str(value)},
    type(Ellipsis): lambda value: {"$ellipsis": True},
}


def _encode_numpy(value: object) -> Any:
    import numpy as np

    if isinstance(value, np.generic) and value.dtype.kind in "biufcSUmM":
        return {"$npscalar": [value.dtype.str, _base64(value.tobytes())]}
    if isinstance(value, np.dtype) and value.kind in "biufcSUmM":
        return {"$npdtype": value.str}
    return None


def _encode_torch(value: object) -> Any:
    from ckpt_tracker.state.torch_tensors import encode_value

    return encode_value(value)


def _decode_numpy_scalar(body: Any) -> object:
    import numpy as np

    from ckpt_tracker.state.tensors import numpy_dtype

    dtype, data = numpy_dtype(body[0]), _bytes(body[1])
    # as an array's element text would lose trailing zeros, and the bytes of an empty one are a zero
    if dtype.kind == "S":
        return np.bytes_(data[: dtype.itemsize])
    if dtype.kind == "U":
        order = "utf-32-be" if dtype.str[0] == ">" else "utf-32-le"
        return np.str_(data[: dtype.itemsize].decode(order, "surrogatepass"))
    return np.frombuffer(data, dtype=dtype)[0]


def _decode_numpy_dtype(body: Any) -> object:
    from ckpt_tracker.state.tensors import numpy_dtype

    return numpy_dtype(body)


def _decode_enum(body: Any) -> object:
    return class_named(body[0], base=enum.Enum)[body[1]]


def _decode_flag(body: Any) -> object:
    return class_named(body[0], base=enum.Flag)(_int(body[1]))


_DECODERS: dict[str, Any] = {
    "$int": _int,
    "$float": _float,
    "$str": lambda body: _bytes(body).decode("utf-8", "surrogatepass"),
    "$bytes": _bytes,
    "$bytearray": lambda body: bytearray(_bytes(body)),
    "$complex": lambda body: complex(float.fromhex(body[0]), float.fromhex(body[1])),
    "$range": lambda body: range(*_three(body)),
    "$slice": lambda body: slice(*_three(body)),
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$timedelta": lambda body: datetime.timedelta(*body),
    "$path": pathlib.Path,
    "$ellipsis": lambda body: ...,
    "$npscalar": _decode_numpy_scalar,
    "$npdtype": _decode_numpy_dtype,
    "$enum": _decode_enum,
    "$flag": _decode_flag,
}
