"""Passes over a tf.data.Dataset: as many as were begun are begun again, and its shuffling is where it was.

A shuffle takes its next order for every iterator that is made over it, used or not; the orders follow from the seed
alone. Keras makes one or two iterators an epoch, so they are counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from ckpt_tracker.integrations._keras.pipeline import cached, draws_in_parallel, generators, seeds

_made: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


class Passes:
    """The iterators that this process has made over one data set while it trained."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.counted = False
        self.seeds = seeds(dataset)
        self.in_parallel = draws_in_parallel(dataset)
        self._generators = generators(dataset)

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

    def capture(self, *, complete: bool = False) -> dict[str, Any]:
        """How many there were, the seeds that their orders follow from, and the state of their generators."""
        state = {"passes": _made.get(self.dataset, 0), "seeds": self.seeds}
        return {**state, "generators": [each.numpy() for each in self._generators]} if self._generators else state

    def restore(self, state: Mapping[str, Any], *, complete: bool = False) -> bool:
        """Makes as many again. False when the order can't be the same: too many were made, or the seeds differ."""
        first = _made.get(self.dataset, 0)
        for number in range(first, state["passes"]):
            iterator = iter(self.dataset)
            if number == 0 and cached(self.dataset):
                # what comes first out of a shuffle in front of a cache is what stays in it
                for _ in iterator:
                    pass
        _made[self.dataset] = max(first, state["passes"])
        stored = state.get("generators", [])
        for variable, array in zip(self._generators, stored, strict=False):
            variable.assign(array)
        same = self.seeds == state["seeds"] and len(stored) == len(self._generators)
        return bool(same and first <= state["passes"])

    @property
    def seeded(self) -> bool:
        """Whatever draws by a seed has one."""
        return [0, 0] not in (self.seeds or [])


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
