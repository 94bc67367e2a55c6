"""Random states of the process: Python's, NumPy's global one, torch's on every device. Imports no framework.

Python, NumPy and newer torch seed themselves from the system. A generator that nobody has seeded or drawn from since
then is in a state that no other process can have, and that the training does not depend on: it is left out, so that two
equal trainings have equal digests.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def capture() -> dict[str, Any]:
    """The states of the generators that were seeded or used in this process."""
    return of_used(capture_all())


def capture_all() -> dict[str, Any]:
    """The states of all generators, for `restore` and `of_used`: what begins here may be the first to draw from one."""
    state: dict[str, Any] = {"python": random.getstate(), "numpy": _numpy()}
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


class _NumpyState:
    """NumPy's global state. It is asked for before each batch, and NumPy takes 30 µs to tell: so where the words that
    it draws from are what they were, and no half of a pair of normal numbers is left, the last answer is given again.
    """

    def __init__(self) -> None:
        self._words: bytes | None = None
        self._state: Any = None

    def __call__(self) -> Any:
        words = self._read()
        if words is None or words != self._words or self._state["has_gauss"]:
            self._words, self._state = words, np.random.get_state(legacy=False)
        return self._state

    def _read(self) -> bytes | None:
        """The generator's words and its place in them (https://numpy.org/doc/stable/reference/random/bit_generators);
        None for another generator than NumPy begins with, or where NumPy does not show its own.
        """
        generator = getattr(np.random, "get_bit_generator", lambda: None)()
        if type(generator) is not np.random.MT19937:
            return None
        return ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)


_MT19937_BYTES = 4 * (624 + 1)
_numpy = _NumpyState()


def of_used(state: Mapping[str, Any]) -> dict[str, Any]:
    """What `capture_all` gave earlier, as `capture` gives it: without those that are still as they were at import."""
    used = dict(state)
    if "torch" in used and _torch_is_unused():
        del used["torch"]
    python, numpy = used.pop("python", None), used.pop("numpy", None)
    if python is not None and random.getstate() != _PYTHON_AT_IMPORT:
        used["python"] = _encoded(python)
    if numpy is not None and not _same(np.random.get_state(legacy=False), _NUMPY_AT_IMPORT):
        used["numpy"] = numpy
    return used


def restore(state: Mapping[str, Any]) -> None:
    """Puts the generators back; those that the state does not name are left alone."""
    if "python" in state:
        put_python(random, state["python"])
    if "numpy" in state:
        np.random.set_state(state["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def of_python(generator: Any) -> list[Any]:
    """The state of a `random.Random`, or of the module `random`."""
    return _encoded(generator.getstate())


def put_python(generator: Any, state: Sequence[Any]) -> None:
    """The reverse of `of_python`; takes what `getstate` gives, too."""
    version, words, gauss = state
    generator.setstate((version, tuple(map(int, words)), gauss))


def _torch_is_unused() -> bool:
    """Nothing was drawn since it was seeded, and by no script: the system's seeds have 64 bits, those of people few.

    torch may have been imported long after this module.
    """
    torch = sys.modules["torch"]
    seed = torch.initial_seed()
    if seed < _SEEDS_OF_PEOPLE:
        return False
    return bool(torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state()))


def _encoded(state: Sequence[Any]) -> list[Any]:
    version, words, gauss = state
    return [version, np.array(words, dtype=np.uint32), gauss]


def _same(one: Any, other: Any) -> bool:
    """Two states of NumPy are equal: dicts of dicts, numbers and arrays."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


_SEEDS_OF_PEOPLE = 2**32


def _look_after_fork() -> None:
    global _PYTHON_AT_IMPORT
    _PYTHON_AT_IMPORT = random.getstate()


_PYTHON_AT_IMPORT = random.getstate()
_NUMPY_AT_IMPORT = np.random.get_state(legacy=False)
# Python seeds its generator anew in every fork: nobody else has seeded that one either
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_look_after_fork)
