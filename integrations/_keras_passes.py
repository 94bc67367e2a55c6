"""Passes over a tf.data.Dataset: as many as were begun are begun again, and its shuffling is where it was.

A shuffle takes its next order for every iterator that is made over it, used or not; the orders follow from the seed
alone. Keras makes one or two iterators an epoch, so they are counted.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

_made: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_SHUFFLE, _CACHE = "_ShuffleDataset", "CacheDataset"


class Passes:
    """The iterators that this process has made over one data set while it trained."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.counted = False

    def count_in(self, epoch_iterator: Any) -> None:
        """Counts what Keras makes from now on: in the one place each backend takes its iterators from."""
        adapter = getattr(epoch_iterator, "data_adapter", None)
        for holder, name in ((epoch_iterator, "_distributed_dataset"), (adapter, "_dataset")):
            dataset = getattr(holder, name, None)
            if dataset is not None:
                if not isinstance(dataset, _Counted):
                    setattr(holder, name, _Counted(dataset, self.dataset))
                self.counted = True
                return

    def capture(self) -> dict[str, Any]:
        """How many there were, and the seeds that their orders follow from."""
        return {"passes": _made.get(self.dataset, 0), "seeds": self.seeds()}

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Makes as many again. False when the order can't be the same: too many were made, or the seeds differ."""
        first = _made.get(self.dataset, 0)
        for number in range(first, state["passes"]):
            iterator = iter(self.dataset)
            if number == 0 and self._cached():
                # what comes first out of a shuffle in front of a cache is what stays in it
                for _ in iterator:
                    pass
        _made[self.dataset] = max(first, state["passes"])
        return bool(first <= state["passes"] and self.seeds() == state["seeds"])

    def seeds(self) -> list[list[int]] | None:
        """Two numbers for each shuffle of the pipeline, both 0 where it has no seed. None where that is hidden."""
        try:
            return [
                [int(step._seed), int(step._seed2)] for step in _steps(self.dataset) if type(step).__name__ == _SHUFFLE
            ]
        except AttributeError:
            return None

    def seeded(self) -> bool:
        """Every shuffle of the pipeline has a seed."""
        return [0, 0] not in (self.seeds() or [])

    def _cached(self) -> bool:
        return any(type(step).__name__ == _CACHE for step in _steps(self.dataset))


class _Counted:
    """Stands for a data set and counts its iterators; all else it leaves to the data set."""

    def __init__(self, dataset: Any, counted_for: Any) -> None:
        self._dataset = dataset
        self._counted_for = counted_for

    def __iter__(self) -> Iterator[Any]:
        _made[self._counted_for] = _made.get(self._counted_for, 0) + 1
        return iter(self._dataset)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


def is_tf_dataset(data: object) -> bool:
    """Imports nothing: where TensorFlow isn't loaded there are none."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(data, tensorflow.data.Dataset)


def _steps(dataset: Any) -> Iterator[Any]:
    """The data set and everything that it is made from."""
    yield dataset
    for each in dataset._inputs():
        yield from _steps(each)
