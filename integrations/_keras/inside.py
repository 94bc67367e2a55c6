"""Inside an epoch: what a checkpoint between two batches holds besides, and how `fit` gets there again.

Keras begins each epoch with its first batch. So an epoch that was left begins as it began then, with its random states
and its data; the batches up to the checkpoint are read and thrown away; and then everything is put back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations._keras import random as _keras_random
from ckpt_tracker.integrations._keras.data import DataState
from ckpt_tracker.integrations._keras.state import ModelState

_TURNS = "_enumerate_iterator"


class EpochUnderWay:
    """The epoch that a fit is in: how it began, and how many of its batches are done.

    `between` is called between two batches: with the number of those that are done, before the next one is loaded.
    """

    def __init__(self, model: ModelState, data: DataState, between: Callable[[int], None]) -> None:
        self.number = -1
        self._model = model
        self._data = data
        self._between = between
        self._first = True
        self._start: dict[str, Any] = {}
        self._continued: Mapping[str, Any] | None = None
        self._counted = (0, 0)
        self._turns: Any = getattr(data.iterator, _TURNS, None)
        if self.possible:
            setattr(data.iterator, _TURNS, self._watched_turns)

    @property
    def possible(self) -> bool:
        """Whether the data of this fit can be read again up to a batch."""
        return self._turns is not None and self._data.repeatable

    def release(self) -> None:
        """Leaves Keras' iterator as it was found."""
        if self.possible:
            vars(self._data.iterator).pop(_TURNS, None)

    def begin(self, number: int) -> None:
        """Every callback has seen the epoch's beginning, and no data are read yet."""
        self.number = number
        if self._continued is not None:
            _keras_random.restore(self._continued["inside"]["rng"])
        if self.possible:
            # what the data are before the first epoch, training has not changed, and a new process makes otherwise
            data = copy.deepcopy(self._data.capture(complete=self._first))
            self._start = {"rng": _keras_random.capture(), "data": data, "first": self._first}
        self._first = False
        self._counted = (self._model.applications(), 0)

    def steps(self, batch: int) -> int:
        """Optimizer steps done before that batch, as far as they can be known without asking the device."""
        applications, at = self._counted
        return (applications + batch - at) // self._model.accumulation()

    def count(self, batch: int) -> int:
        """Optimizer steps done, asked of the device: fewer where some were left out, as their gradients overflowed."""
        self._model.synchronize()
        self._counted = (self._model.applications(), batch)
        return self._model.step()

    def capture(self, batch: int) -> dict[str, Any]:
        """The sections `inside`, `rng` and `data`."""
        start, ahead = self._start, self._data.drawn_ahead
        # how far such a generator is ahead of the training hangs on chance; reading the data again moves it
        rng = {name: state for name, state in _keras_random.capture().items() if name not in ahead}
        metrics = self._model.metrics()
        inside = {"batch": batch, "rng": start["rng"], "first": start["first"], "metrics": metrics}
        return {"inside": inside, "rng": rng, "data": start["data"]}

    def resume(self, state: Mapping[str, Any]) -> None:
        """The next epoch follows that state, or goes on inside where it was taken; its data are put back already."""
        inside = state.get("inside")
        self._first = bool(inside and inside["first"])
        self._continued = state if inside else None

    def arrive(self) -> Mapping[str, Any] | None:
        """The state to put back before the first batch that a continued epoch trains on."""
        continued, self._continued = self._continued, None
        return continued

    def _watched_turns(self) -> Iterator[tuple[int, int, Any]]:
        """Of each turn that Keras takes, the first and the last batch, and where it is to get them from."""
        done = self._continued["inside"]["batch"] if self._continued is not None else 0
        for first, last, data in self._turns():
            if first < done:
                for number in range(first, last + 1):
                    self._model.build_metrics(_next(data, number, done))
            else:
                self._between(first)
                yield first, last, data


def _next(data: Iterator[Any], number: int, batches: int) -> Any:
    try:
        return next(data)
    except StopIteration as error:
        raise StateMismatch(
            f"the checkpoint was taken after {batches} batches of an epoch, and these data end after {number}: "
            "use the same data and batch size"
        ) from error
