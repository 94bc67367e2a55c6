"""Random states of the process: Python's, NumPy's global one, torch's on every device. Imports no framework.

Python and NumPy seed themselves from the system. A generator that nobody has seeded or drawn from since this module was
imported is in a state that no other process can have, and that the training does not depend on: it is left out,
so that two equal trainings have equal digests.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np


def capture() -> dict[str, Any]:
    """The states of the generators that were seeded or used in this process."""
    state: dict[str, Any] = {}
    python = random.getstate()
    if python != _PYTHON_AT_IMPORT:
        version, words, gauss = python
        state["python"] = [version, np.array(words, dtype=np.uint32), gauss]
    numpy = np.random.get_state(legacy=False)
    if not _same(numpy, _NUMPY_AT_IMPORT):
        state["numpy"] = numpy
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: dict[str, Any]) -> None:
    """Puts the generators back; those that the state does not name are left alone."""
    if "python" in state:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(int(word) for word in words), gauss))
    if "numpy" in state:
        np.random.set_state(state["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


def _same(one: Any, other: Any) -> bool:
    """Two states of NumPy are equal: dicts of dicts, numbers and arrays."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


_PYTHON_AT_IMPORT = random.getstate()
_NUMPY_AT_IMPORT = np.random.get_state(legacy=False)
