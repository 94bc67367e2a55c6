"""One call of `fit`: everything of it that a checkpoint holds, and where it is found.

Keras hands a callback the model, and neither the other callbacks nor the data. They are read from the frames of the
`CallbackList` that is calling, and of the `fit` that called that.
"""

from __future__ import annotations

import inspect
import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from ckpt_tracker.callback import TrackerCallback
from ckpt_tracker.errors import CheckpointWarning, StateMismatch
from ckpt_tracker.integrations._keras import random as _keras_random
from ckpt_tracker.integrations._keras.callbacks import CallbackStates
from ckpt_tracker.integrations._keras.data import DataState
from ckpt_tracker.integrations._keras.inside import EpochUnderWay
from ckpt_tracker.integrations._keras.state import ModelState
from ckpt_tracker.tracker import Tracker

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

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """All callbacks have seen the beginning of the epoch."""
        self.tracker._begin_epoch(epoch)

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

    def __init__(self, callback: Any, tracker: Tracker, watched: Iterable[Any], *, earlier: CallbackStates | None):
        callbacks, arguments = _surroundings()
        self.over = False
        self.thread = threading.get_ident()
        self.listed = callbacks is not None
        # only a list of callbacks hands parameters out; a loop of the user's own need not have one
        self._in_keras = bool(callback.params)
        self.model = ModelState(callback.model)
        self.data = DataState(arguments)
        self.epoch = EpochUnderWay(self.model, self.data, callback._between_batches)
        self.first: int | None = None
        self.pending: tuple[int, Mapping[str, Any]] | None = None
        self._others = [*_others(callbacks), *watched]
        self.callbacks = earlier or CallbackStates(())
        self._begun = False
        if callbacks is not None:
            boundary = _put_last(callbacks, callback)
            weakref.finalize(boundary, _left, self, tracker).atexit = False

    def begin(self) -> bool:
        """Every callback's `on_train_begin` is through. False when that was so already."""
        if self._begun:
            return False
        self._begun = True
        self.callbacks = CallbackStates(self._others, earlier=self.callbacks)
        return True

    def end(self) -> None:
        """Keras has told every callback that the training ends."""
        self.over = True
        self.epoch.release()

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
        """What of this fit can't be kept, and what to do; of the data, `data` says it."""
        return [] if self.listed or not self._in_keras else [_UNSEEN]

    def capture(self, *, batch: int = 0) -> dict[str, Any]:
        """Every section but `loop`: at an epoch's end, or before a batch inside one."""
        callbacks = self.callbacks.capture(apart_from=self.model.variable_ids(), inside=batch > 0)
        state = {**self.model.capture(), "callbacks": callbacks}
        if batch:
            state = {**state, **self.epoch.capture(batch)}
            state["inside"]["changed"] = self.callbacks.all_changed()
        else:
            state = {**state, "rng": _keras_random.capture(), "data": self.data.capture()}
        return state if state["data"] else {name: each for name, each in state.items() if name != "data"}

    def restore(self, state: Mapping[str, Any], *, ref: str) -> None:
        """Puts all sections back; random states last, because building a model draws from them."""
        if "inside" in state and not self.epoch.possible:
            raise StateMismatch(
                f"{ref} was taken inside an epoch, and these data can't be read again up to there: go on with data of "
                "the same kind, without steps_per_epoch, or from a checkpoint of an epoch's end"
            )
        self._restore_model(state, ref=ref)
        self.data.restore(state.get("data", {}), complete=state.get("inside", {}).get("first", False))
        _keras_random.restore(state["rng"])
        self.epoch.resume(state)

    def arrive(self, batch: int, *, ref: str) -> bool:
        """Puts back what a continued epoch has before that batch. False where there is nothing to put back."""
        state = self.epoch.arrive()
        if state is None:
            return False
        if batch != state["inside"]["batch"]:
            raise StateMismatch(f"{ref} was taken before batch {state['inside']['batch']}, and {batch} follows here")
        self._restore_model(state, ref=ref)
        self.model.restore_metrics(state["inside"]["metrics"], ref=ref)
        _keras_random.restore(state["rng"])
        self.epoch.count(batch)
        return True

    def rewind(self, state: Mapping[str, Any], *, ref: str, rng: dict[str, Any]) -> None:
        """Puts back what the fit before this one left, for this one to begin again, with `rng` as it began.

        Its callbacks begin anew, and so does an optimizer that was compiled since.
        """
        self.model.restore(state, ref=ref, optimizers=self.model.step() > 0)
        _keras_random.restore(rng)

    def _restore_model(self, state: Mapping[str, Any], *, ref: str) -> None:
        self.model.restore(state, ref=ref)
        changed = state["inside"]["changed"] if "inside" in state else state["callbacks"]
        self.callbacks.restore(state["callbacks"], changed=changed)

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


def _put_last(callbacks: keras.callbacks.CallbackList, tracker: Any) -> Boundary:
    """The list is being walked through; what is appended now is reached in the same walk."""
    for each in callbacks.callbacks:
        if isinstance(each, Boundary) and each.tracker is tracker:
            return each
    boundary = Boundary(tracker)
    callbacks.callbacks.append(boundary)
    return boundary


def _left(fit: Fit, tracker: Tracker) -> None:
    """The list of callbacks is gone. Where `on_train_end` has not come, an error ended the fit: gives the run back.

    Elsewhere than in the thread that trained, nothing may wait for what the background still has to write.
    """
    if fit.over or threading.get_ident() != fit.thread:
        return
    fit.over = True
    left = RuntimeError("fit was left by an error")
    tracker.close(error=left)
    for note in getattr(left, "__notes__", ()):
        warnings.warn(note, CheckpointWarning, stacklevel=2)
