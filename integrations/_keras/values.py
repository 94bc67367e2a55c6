"""Attributes of callbacks and data sets as values that a checkpoint can hold, and back.

Plain values pass through. An object that *carries* state (a Keras variable, layer or metric, a random generator)
becomes that state under the mark `$inside`, and is put back into the object that the restarted script made. Code,
such as a function or a schedule, is no state.
"""

from __future__ import annotations

import contextlib
import random
import sys
import types
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from blake3 import blake3

from ckpt_tracker.disk.jsonfile import dump_sorted
from ckpt_tracker.integrations._keras.pipeline import is_tf_dataset
from ckpt_tracker.state.tree import encode

_INSIDE = "$inside"
_TENSOR = "$tensor of the backend"
_PLAIN = frozenset((bool, int, float, str, type(None)))


class NoState(Exception):
    """The value is code, or belongs to somebody else: a checkpoint has nothing to keep of it."""


def pack(value: object, *, apart_from: Collection[int] = ()) -> Any:
    """The storable form. Raises NoState; what has no form at all is passed through, for `encode` to refuse.

    `apart_from`: the ids of variables that have a section of their own.
    """
    if type(value) in (dict, list, tuple):
        return _pack_container(value, apart_from)
    variables = _variables(value)
    if variables is not None:
        if variables and all(id(each) in apart_from for each in variables):
            raise NoState
        return {_INSIDE: [as_numpy(each.value) for each in variables]}
    state = _state_inside(value)
    if state is not None:
        return {_INSIDE: state}
    if not _is_torch(value) and keras.ops.is_tensor(value):
        return {_TENSOR: as_numpy(value)}
    if callable(value) or isinstance(value, types.ModuleType) or _is_foreign(value):
        raise NoState
    return value


def unpack(stored: Any, current: object) -> Any:
    """The value to set, given what the restarted script has there now.

    Lists and dicts are filled in place, because the script may hold them too. Raises LookupError when an object
    that has to take state back is missing, or is not the one that gave it.
    """
    if type(stored) is dict and _INSIDE in stored:
        _put_inside(current, stored[_INSIDE])
        return current
    if type(stored) is dict and _TENSOR in stored:
        return keras.ops.convert_to_tensor(stored[_TENSOR])
    if type(stored) is dict:
        return _unpack_dict(stored, current)
    if type(stored) in (list, tuple):
        return _unpack_sequence(stored, current)
    return stored


def fingerprint(packed: object) -> str:
    """Equal for equal packed values. Raises UnstorableLeaf for what a checkpoint can't hold."""
    encoded = encode(packed)
    hashed = blake3(dump_sorted(encoded.skeleton))
    for leaf in encoded.leaves:
        tensor = leaf.tensor.detach().cpu() if _is_torch(leaf.tensor) else leaf.tensor
        hashed.update(np.ascontiguousarray(keras.ops.convert_to_numpy(tensor)).tobytes())
    return hashed.hexdigest()


class Changes:
    """Which attributes have changed since training began. What has changed once counts as changed ever after.

    Only that is state. The rest is what the script made: a changed script gets what it asks for now, and times
    and paths of one process stay out of the checkpoints.
    """

    def __init__(self, packed: Mapping[str, Any], *, changed: Iterable[str] = ()) -> None:
        self._at_begin = {name: fingerprint(value) for name, value in packed.items()}
        self.changed = set(changed)

    def has(self, name: str, packed: object) -> bool:
        """Whether that attribute has changed, given its value now. Raises UnstorableLeaf."""
        if self.differs(name, packed):
            self.changed.add(name)
        return name in self.changed

    def differs(self, name: str, packed: object) -> bool:
        """Whether it has changed, or is only different now. Raises UnstorableLeaf."""
        return name in self.changed or self._at_begin.get(name) != fingerprint(packed)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keras reads its own variables in a way that NumPy 2 warns of; the script can't mend that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


def as_numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """A tensor of the backend; where its memory can be read as it lies, without a copy."""
    if not _is_torch(tensor):
        return np.asarray(tensor)
    plain = tensor.device.type == "cpu" and str(tensor.dtype) != "torch.bfloat16"
    array: np.ndarray[Any, Any] = tensor.detach().numpy() if plain else keras.ops.convert_to_numpy(tensor)
    return array


def holds_variables(packed: object) -> bool:
    """Whether a Keras variable, or what has some, is in there: a new process makes it from other random numbers."""
    if type(packed) is dict and _INSIDE in packed:
        return type(packed[_INSIDE]) is list
    if type(packed) is dict:
        return any(map(holds_variables, packed.values()))
    return isinstance(packed, (list, tuple)) and any(map(holds_variables, packed))


def is_random(value: object) -> bool:
    """A random generator of NumPy, Python or torch."""
    return _state_inside(value) is not None


def _pack_container(value: Any, apart_from: Collection[int]) -> Any:
    if type(value) is not dict and _PLAIN.issuperset(map(type, value)):
        return value
    if type(value) is dict:
        return {key: pack(each, apart_from=apart_from) for key, each in value.items()}
    return type(value)(pack(each, apart_from=apart_from) for each in value)


def _unpack_dict(stored: dict[Any, Any], current: object) -> Any:
    existing = current if type(current) is dict else {}
    restored = {key: unpack(each, existing.get(key)) for key, each in stored.items()}
    existing.clear()
    existing.update(restored)
    return existing


def _unpack_sequence(stored: Any, current: object) -> Any:
    existing = list(current) if type(current) is type(stored) else []  # type: ignore[call-overload]
    existing += [None] * (len(stored) - len(existing))
    restored = [unpack(each, now) for each, now in zip(stored, existing, strict=False)]
    if type(stored) is tuple:
        return tuple(restored)
    if type(current) is list:
        current[:] = restored
        return current
    return restored


def _state_inside(value: object) -> Any:
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    if isinstance(value, random.Random):
        return value.getstate()
    if _is_torch(value, "Generator"):
        return value.get_state()  # type: ignore[attr-defined]
    return None


def _put_inside(target: object, state: Any) -> None:
    variables = _variables(target)
    if variables is not None:
        _assign(variables, state)
    elif isinstance(target, np.random.Generator):
        target.bit_generator.state = state
    elif isinstance(target, np.random.RandomState):
        target.set_state(state)
    elif isinstance(target, random.Random):
        target.setstate(state)
    elif _is_torch(target, "Generator"):
        target.set_state(state)  # type: ignore[attr-defined]
    else:
        raise LookupError


def _assign(variables: list[Any], arrays: list[Any]) -> None:
    shapes = [tuple(each.shape) for each in variables]
    if shapes != [tuple(each.shape) for each in arrays]:
        raise LookupError
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _variables(value: object) -> list[Any] | None:
    if isinstance(value, keras.Variable):
        return [value]
    if isinstance(value, keras.random.SeedGenerator):
        return [value.state]
    if isinstance(value, (keras.Layer, keras.metrics.Metric, keras.optimizers.Optimizer)):
        return list(value.variables)
    return None


def _is_foreign(value: object) -> bool:
    """Data sets and other callbacks have a state of their own, kept elsewhere or not at all."""
    torch = sys.modules.get("torch")
    loader = () if torch is None else (torch.utils.data.DataLoader,)
    return is_tf_dataset(value) or isinstance(value, (keras.callbacks.Callback, keras.utils.PyDataset, *loader))


def _is_torch(value: object, name: str = "Tensor") -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, name))
