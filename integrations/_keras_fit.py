"""One call of `fit`: everything of it that a checkpoint holds, and where it is found.

Keras hands a callback the model, and neither the other callbacks nor the data. They are read from the frames of the
`CallbackList` that is calling, and of the `fit` that called that.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from ckpt_tracker.callback import TrackerCallback
from ckpt_tracker.integrations import _keras_random
from ckpt_tracker.integrations._keras_callbacks import CallbackStates
from ckpt_tracker.integrations._keras_data import DataState
from ckpt_tracker.integrations._keras_state import ModelState

_ARGUMENTS = {"x", "validation_data", "shuffle", "steps_per_epoch", "epoch_iterator"}

_UNSEEN = (
    "the list that the tracker stands in was not found, so the other callbacks' state is not kept: "
    "give those that have one as watch=[...]"
)


class Boundary(keras.callbacks.Callback):
    """Stands behind all other callbacks: they have seen the end of an epoch before it has."""

    def __init__(self, tracker: Any) -> None:
        super().__init__()
        self.tracker = tracker

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """All callbacks have begun, and with that reset themselves."""
        self.tracker._begin_training()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """The epoch's state is complete."""
        self.tracker._end_epoch(epoch, logs or {})

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """An epoch is about to be validated."""
        self.tracker._begin_validation()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """All is over."""
        self.tracker._end_training()


class Fit:
    """A call of `fit`, from the tracker's `on_train_begin` to its end."""

    def __init__(self, tracker: Any, watched: Iterable[Any], *, earlier: CallbackStates | None) -> None:
        callbacks, arguments = _surroundings()
        self.listed = callbacks is not None
        # only a list of callbacks hands parameters out; a loop of the user's own need not have one
        self._in_keras = bool(tracker.params)
        self.model = ModelState(tracker.model)
        self.data = DataState(arguments)
        self.first: int | None = None
        self.pending: tuple[int, Mapping[str, Any]] | None = None
        self._others = [*_others(callbacks), *watched]
        self.callbacks = earlier or CallbackStates(())
        self._begun = False
        if callbacks is not None:
            _put_last(callbacks, tracker)

    def begin(self) -> bool:
        """Every callback's `on_train_begin` is through. False when that was so already."""
        if self._begun:
            return False
        self._begun = True
        self.callbacks = CallbackStates(self._others, earlier=self.callbacks)
        return True

    def past(self) -> dict[str, Any]:
        """What `fit` returns: the epochs, and the metrics of each."""
        history = self._history()
        return {"epoch": list(history.epoch), "history": dict(history.history)} if history else {}

    def recall(self, past: Mapping[str, Any]) -> None:
        """Makes `fit` return what it returned then."""
        history = self._history()
        if history is not None:
            vars(history).update(past)

    def limits(self) -> list[str]:
        """What of this fit is not kept, and what to do: one sentence each."""
        if self.listed or not self._in_keras:
            return self.data.limits()
        return [*self.data.limits(), _UNSEEN]

    def capture(self) -> dict[str, Any]:
        """Every section but `loop`."""
        state = {
            **self.model.capture(),
            "callbacks": self.callbacks.capture(apart_from=self.model.variable_ids()),
            "rng": _keras_random.capture(),
        }
        data = self.data.capture()
        return {**state, "data": data} if data else state

    def restore(self, state: Mapping[str, Any], *, ref: str) -> None:
        """Puts all sections back; random states last, because building a model draws from them."""
        self.model.restore(state, ref=ref)
        self.callbacks.restore(state["callbacks"])
        self.data.restore(state.get("data", {}))
        _keras_random.restore(state["rng"])

    def rewind(self, state: Mapping[str, Any], *, ref: str, rng: dict[str, Any]) -> None:
        """Puts back what the fit before this one left, for this one to begin again, with `rng` as it began.

        Its callbacks begin anew, and so does an optimizer that was compiled since.
        """
        self.model.restore(state, ref=ref, optimizers=self.model.step() > 0)
        _keras_random.restore(rng)

    def _history(self) -> Any:
        histories = (each for each in self._others if isinstance(each, keras.callbacks.History))
        return next(histories, None)


def _surroundings() -> tuple[keras.callbacks.CallbackList | None, dict[str, Any]]:
    """The list of callbacks that is calling, and arguments of the `fit` above it, as far as they are found."""
    frame = inspect.currentframe()
    while frame is not None:
        callbacks = frame.f_locals.get("self")
        frame = frame.f_back
        if isinstance(callbacks, keras.callbacks.CallbackList):
            local = frame.f_locals if frame is not None else {}
            # a loop of the user's own has other things under these names
            return callbacks, {name: local[name] for name in _ARGUMENTS} if local.keys() >= _ARGUMENTS else {}
    return None, {}


def _others(callbacks: keras.callbacks.CallbackList | None) -> list[Any]:
    listed = [] if callbacks is None else callbacks.callbacks
    return [each for each in listed if not isinstance(each, (Boundary, TrackerCallback))]


def _put_last(callbacks: keras.callbacks.CallbackList, tracker: Any) -> None:
    """The list is being walked through; what is appended now is reached in the same walk."""
    if not any(isinstance(each, Boundary) and each.tracker is tracker for each in callbacks.callbacks):
        callbacks.callbacks.append(Boundary(tracker))
