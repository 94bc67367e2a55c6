"""Where a `keras.utils.PyDataset` or a torch DataLoader stands: its attributes, and its random generators.

A data set that shuffles has its order in an attribute. What changes from epoch to epoch and can say where it stands
(numbers, index arrays, random generators) is kept; what merely holds the data is not.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from ckpt_tracker.errors import CheckpointWarning
from ckpt_tracker.integrations._keras import random as _keras_random
from ckpt_tracker.integrations._keras.values import Changes, NoState, as_numpy, fingerprint, is_random, pack, unpack

_INTEGERS = "$list of int"
_SEEDS = "$seeds"


class Attributes:
    """The attributes of a PyDataset, or the generators of a torch DataLoader."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._name = type(data).__name__
        self._values = carriers(data)
        positions = {name: _position(each) for name, each in self._values.items()}
        self._changes = Changes({name: each for name, each in positions.items() if each is not None})
        self._orders = {name: _order(each) for name, each in self._values.items()}
        self._warned = False

    def capture(self, *, complete: bool = False) -> dict[str, Any]:
        """What has changed since training began, and says where the data stand; all that does, where `complete`."""
        state = {}
        for name, value in self._values.items():
            position = _position(value)
            if position is None:
                self._warn_if_moved(name, value)
            elif complete or self._changes.has(name, position):
                state[name] = position
        return state

    def restore(self, state: Mapping[str, Any], *, complete: bool = False) -> None:
        """Sets it again, as far as the data have it. What is `complete` is what training begins with."""
        if complete:
            self._changes = Changes(state)
        else:
            self._changes.changed.update(state)
        for name, stored in state.items():
            if name in self._values:
                self._values[name] = _put(stored, self._values[name])

    def draws(self) -> frozenset[str]:
        """The random generators that loading a batch moves. One is loaded for that, and they are put back."""
        before = {name: _position(each) for name, each in self._values.items() if is_random(each) or _seeds(each)}
        try:
            moved = _keras_random.moved_by(self._load)
        except Exception:  # the user's code, which the training is about to call too
            moved = frozenset()
        own = [
            name for name, state in before.items() if fingerprint(_position(self._values[name])) != fingerprint(state)
        ]
        for name in own:
            _put(before[name], self._values[name])
        return moved.union(f"{self._name}.{name}" for name in own)

    def _load(self) -> None:
        if isinstance(self._data, keras.utils.PyDataset):
            self._data[0]
        elif self._data.num_workers == 0 and hasattr(self._data.dataset, "__getitem__"):
            self._data.dataset[0]

    def _warn_if_moved(self, name: str, value: object) -> None:
        if self._warned or _order(value) == self._orders.get(name):
            return
        self._warned = True
        warnings.warn(
            f"{self._name}.{name} changes from epoch to epoch and is not kept, so a continued training "
            "sees its samples in another order: let that order be an array or a list of integers",
            CheckpointWarning,
            stacklevel=2,
        )


def carriers(data: object) -> dict[str, Any]:
    """Where a data source keeps its position. Of a PyDataset these are its live attributes."""
    if isinstance(data, keras.utils.PyDataset):
        attributes: dict[str, Any] = vars(data)
        return attributes
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(data, torch.utils.data.DataLoader):
        return {}
    holders = (data, data.sampler, getattr(data.batch_sampler, "sampler", None))
    generators = {id(each): each for each in (getattr(h, "generator", None) for h in holders) if each}
    return {f"generator{n or ''}": each for n, each in enumerate(generators.values())}


def _position(value: object) -> Any:
    """The storable form of what can say where a data set stands; None for anything else, such as the data."""
    if value is None or type(value) in (bool, int, float):
        return {"value": value}
    if type(value) is np.ndarray and value.ndim == 1 and value.dtype.kind in "iub":
        return {"value": value}
    if type(value) is list and value and all(type(each) is int for each in value):
        return {_INTEGERS: np.asarray(value)}
    if isinstance(value, keras.Layer):
        # layers that alter samples draw from their own seeds, and their weights are no position
        return {_SEEDS: [as_numpy(each.value) for each in _seeds(value)]} if _seeds(value) else None
    if isinstance(value, (list, tuple, dict, str, np.ndarray)):
        return None
    try:
        packed = pack(value)
    except NoState:
        return None
    return packed if packed is not value else None


def _put(position: Any, current: Any) -> Any:
    """The value to set, given what is there now."""
    if _SEEDS in position:
        for variable, array in zip(_seeds(current), position[_SEEDS], strict=False):
            variable.assign(array)
        return current
    if _INTEGERS in position:
        return unpack(position[_INTEGERS].tolist(), current)
    return unpack(position.get("value", position), current)


def _seeds(value: object) -> list[Any]:
    """The states of the seed generators in a layer."""
    if not isinstance(value, keras.Layer):
        return []
    return [each for each in value.variables if each.path.endswith("seed_generator_state")]


def _order(value: object) -> int | None:
    """Changes when a list or an array of samples is shuffled; only looks at some rows of an array."""
    if type(value) is list:
        return hash(tuple(map(id, value)))
    if type(value) is np.ndarray and value.ndim and value.dtype.kind != "O":
        return hash(value[:: max(1, len(value) // 64)].tobytes())
    return None
