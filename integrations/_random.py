"""Random states of the process: Python's, NumPy's global one, torch's on every device. Imports no framework."""

from __future__ import annotations

import random
import sys
from typing import Any


def capture() -> dict[str, Any]:
    """The states of the generators that are loaded in this process."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        state["python"] = [version, numpy.array(words, dtype=numpy.uint32), gauss]
        state["numpy"] = numpy.random.get_state(legacy=False)
    else:
        state["python"] = [version, list(words), gauss]
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: dict[str, Any]) -> None:
    """Puts the generators back; those that the state does not name are left alone."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(int(word) for word in words), gauss))
    if "numpy" in state:
        import numpy

        numpy.random.set_state(state["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
