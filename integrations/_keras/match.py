"""Which variable of a Keras model takes which array of a checkpoint, or why they don't fit.

Keras numbers its layers anew for each model of a process (`dense`, `dense_1`, …), so where the paths differ a variable
is found by its position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import keras
import numpy as np

from ckpt_tracker.errors import StateMismatch

Array = np.ndarray[Any, Any]
_SHOWN = 5


def unique(paths: Sequence[str]) -> list[str]:
    """A second variable of the same path is called `path#2`."""
    seen: dict[str, int] = {}
    names = []
    for path in paths:
        seen[path] = seen.get(path, 0) + 1
        names.append(path if seen[path] == 1 else f"{path}#{seen[path]}")
    return names


def match(section: str, stored: Mapping[str, Array], live: Sequence[Any], ref: str) -> list[tuple[Any, Array]]:
    """Each variable with its array. Raises StateMismatch, naming those that differ."""
    paths = unique([variable.path for variable in live])
    arrays = [stored[path] for path in paths] if set(paths) == set(stored) else [*stored.values()]
    if len(arrays) == len(live) and all(map(_fits, live, arrays)):
        return list(zip(live, arrays, strict=True))
    raise StateMismatch(
        f"{ref} does not fit this model's {section} "
        f"({len(stored)} variables in the checkpoint, {len(live)} here):\n"
        + "\n".join(_differences(stored, dict(zip(paths, live, strict=True))))
        + "\nUse the model that made the checkpoint, or another run name for this one"
    )


def _fits(variable: Any, array: Array) -> bool:
    if tuple(variable.shape) != array.shape:
        return False
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if dtype == array.dtype.name:
        return True
    # counters and seeds are of another integer type in each backend
    whole = "int" in dtype and array.dtype.kind in "iu"
    return whole and np.array_equal(array.astype(dtype), array)


def _differences(stored: Mapping[str, Array], live: Mapping[str, Any]) -> list[str]:
    if stored.keys() & live.keys():
        rows = [(path, path) for path in dict.fromkeys([*stored, *live])]
    else:
        rows = list(zip_longest(stored, live, fillvalue=""))
    lines = [
        f"  checkpoint: {_shown(before, stored)}; here: {_shown(now, live)}"
        for before, now in rows
        if not (before in stored and now in live and _fits(live[now], stored[before]))
    ]
    more = len(lines) - _SHOWN
    return lines[:_SHOWN] + ([f"  and {more} more"] if more > 0 else [])


def _shown(path: str, variables: Mapping[str, Any]) -> str:
    if path not in variables:
        return "nothing"
    variable = variables[path]
    return f"{path} {tuple(variable.shape)} {keras.backend.standardize_dtype(variable.dtype)}"
