"""Random numbers that are drawn in a DataLoader's workers, where they outlive what a checkpoint can restore.

Workers are seeded when they are started. Those of an ordinary loader are started at each epoch's begin, which a resumed
training repeats; persistent ones, and those of a loader that is put to its place, go on with states of their own.
"""

from __future__ import annotations

import multiprocessing
import random
from typing import Any

_LOOKED_AT = 8


class WorkerWatch:
    """Looks, in the workers of a DataLoader, whether they draw random numbers. To be made before they are started."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._plain = loader.collate_fn
        self._drawn = multiprocessing.RawValue("b", 0)
        loader.collate_fn = _Looking(self._plain, self._drawn)

    @property
    def drawn(self) -> bool:
        """Some worker has drawn random numbers."""
        return bool(self._drawn.value)

    def release(self) -> None:
        """Leaves the loader as it was; its workers keep looking."""
        self._loader.collate_fn = self._plain


class _Looking:
    """What a worker calls with the samples of a batch: compares the random states of its first batches."""

    def __init__(self, plain: Any, drawn: Any) -> None:
        self._plain = plain
        self._drawn = drawn
        self._before: Any = None
        self._left = _LOOKED_AT

    def __call__(self, samples: Any) -> Any:
        batch = self._plain(samples)
        if self._left:
            self._left -= 1
            now = _states()
            if self._before not in (None, now):
                self._drawn.value = 1
            self._before = now
        return batch


def _states() -> tuple[Any, ...]:
    import numpy as np
    import torch

    state: Any = np.random.get_state()
    return (random.getstate(), state[1].tobytes(), state[2], torch.get_rng_state().numpy().tobytes())
