"""The tracker for Keras 3: `model.fit(..., callbacks=[CheckpointTracker("checkpoints", "mnist")])`.

An epoch is saved when every other callback has seen its end, and a continued training is put back where every
callback has seen the beginning. So a checkpoint is the same whether the training went on or ended there.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ckpt_tracker.callback import TrackerCallback
from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.errors import CheckpointNotFound, CheckpointWarning, InvalidOption, StateMismatch
from ckpt_tracker.integrations._keras import guard as _keras_guard
from ckpt_tracker.integrations._keras import random as _keras_random
from ckpt_tracker.integrations._keras.callbacks import CallbackStates
from ckpt_tracker.integrations._keras.fit import Fit

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ckpt_tracker.options import TrackerOptions
    from ckpt_tracker.store import Store

__all__ = ["CheckpointTracker"]

_logger = logging.getLogger("ckpt_tracker")


class CheckpointTracker(TrackerCallback, keras.callbacks.Callback):
    """Leaves a checkpoint after every epoch, and lets `model.fit` continue from the newest.

    It may stand anywhere in the list of callbacks. A checkpoint holds the epoch's own weights, also where
    `EarlyStopping` puts the best ones back when training ends; the last epoch of a training is always saved.
    Inside an epoch, steps and minutes in `every` are looked at between two batches, and so is SIGTERM. A training that
    is continued there reads the epoch's earlier batches once more. Of a Python generator, and with `steps_per_epoch`,
    that can't be done: such a training is saved when its epoch ends.

    `fit` called again with the same tracker goes on in the same run and restores nothing; when the script is
    restarted, the fits that were through are passed over. A new tracker continues its run from the newest checkpoint,
    in the same process too. `watch` takes callbacks that Keras does not call itself, to keep their state.

    Random numbers have to come from where their state can be had: Python, NumPy, torch, `keras.random`. The state of
    `tf.random` inside a compiled `train_step` can't. Python generators and `steps_per_epoch` hide where the data are.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        run: str | None = None,
        *,
        watch: Iterable[Any] = (),
        **options: Unpack[TrackerOptions],
    ) -> None:
        super().__init__(store, run, **options)
        if self._tracker.options.overlap:
            raise InvalidOption(
                "overlap=True: Keras computes a step and changes the weights in one call, so nothing says when a copy "
                "has to be finished. Leave it out"
            )
        self._watched = list(watch)
        # a reference that names a checkpoint says: from here on, whatever stopped it
        self._goes_on = "@" in str(options.get("resume"))
        self._fit: Fit | None = None
        self._callbacks: CallbackStates | None = None
        self._number = -1
        self._past: list[dict[str, Any]] = []
        self._checkpoint: Checkpoint | None = None
        self._rng_at_begin: dict[str, Any] = {}
        self._told: set[str] = set()
        self._overrides = self._tracker.options.overrides
        self._continued_from = ""

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Opens the run. Raises RunBusy where another training holds it."""
        interrupted = self._fit is not None
        if self._fit is not None:
            self._fit.over = True
            self.close()
        resumed = self._tracker.begin(config=_keras_guard.config(self.model, self.params or {}))
        self._fit = fit = Fit(self, self._tracker, self._watched, earlier=self._callbacks)
        self._tracker.context = _keras_guard.context(self.model, fit.data)
        self._tracker.signals.where = "before the next batch" if fit.epoch.possible else "when the epoch ends"
        if interrupted:
            self._checkpoint = self._newest()
        else:
            self._number += 1
            self._checkpoint = resumed or self._checkpoint
        self._tell(fit.limits())

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Checks that a continued training begins where it should."""
        fit = self._fit
        if fit is None:
            return
        self._begin_training()
        self._save_pending(fit, last=False)
        self._check_first(fit, epoch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Outside of Keras' own loop, the epoch's state is complete when the next one begins."""
        if self._fit is not None and not self._fit.listed:
            self._fit.pending = (epoch, dict(logs or {}))

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Outside of Keras' own loop, saves the last epoch."""
        if self._fit is not None and not self._fit.listed:
            self._save_pending(self._fit, last=True)
            self._end_training()

    # -- what the boundary calls -----------------------------------------------------------------------------

    def _begin_training(self) -> None:
        fit, checkpoint = self._fit, self._checkpoint
        if fit is None or not fit.begin():
            return
        self._callbacks = fit.callbacks
        if checkpoint is None:
            self._rng_at_begin = _keras_random.capture()
        else:
            self._resume(fit, checkpoint)
        self._tell(fit.data.limits())

    def _begin_epoch(self, epoch: int) -> None:
        if self._fit is not None:
            self._fit.epoch.begin(epoch)

    def _between_batches(self, batch: int) -> None:
        fit, tracker = self._fit, self._tracker
        if fit is None:
            return
        if fit.arrive(batch, ref=self._continued_from):
            _keras_guard.override(fit.model.inner_optimizers(), self._overrides)
            self._overrides = {}
            return
        asked = tracker.schedule.within_epochs or tracker.interruption is not None
        # the number of steps done is asked of the device only when it seems to be time
        if batch and asked and fit.epoch.possible and tracker.due(step=fit.epoch.steps(batch)):
            self._save_inside(fit, batch, reason=tracker.due(step=fit.epoch.count(batch)))

    def _begin_validation(self) -> None:
        if self._fit is not None:
            self._fit.data.begin_validation(getattr(self.model, "_eval_epoch_iterator", None))

    def _end_epoch(self, epoch: int, logs: Mapping[str, Any], *, last: bool = False) -> None:
        fit = self._fit
        if fit is None:
            return
        self._tell(_keras_random.limits(self.model))
        stopped = bool(self.model.stop_training)
        last = last or stopped or epoch + 1 >= self._epochs()
        step = fit.model.step()
        reason = self._tracker.due(epoch=epoch, step=step) or ("end" if last else None)
        if reason is not None:
            loop = {"fit": self._number, "epoch": epoch, "step": step, "stop_training": stopped, "past": self._past}
            metrics = {name: value for name, value in logs.items() if np.ndim(value) == 0}
            self._save({**fit.capture(), "loop": loop}, epoch=epoch, step=step, metrics=metrics, reason=reason)

    def _end_training(self) -> None:
        fit, self._fit = self._fit, None
        if fit is not None:
            self._past = [*self._past, fit.past()]
            self._forget_first(fit)
            fit.end()
            self._tracker.close(finished=True)

    # -- behind ----------------------------------------------------------------------------------------------

    def _resume(self, fit: Fit, checkpoint: Checkpoint) -> None:
        loop = _loop(checkpoint)
        if checkpoint.run != self.run.name:
            self._number = loop["fit"]
        if loop["fit"] > self._number:
            self._pass_over(fit, loop)
        else:
            self._checkpoint = None
            self._continue(fit, checkpoint, loop)

    def _continue(self, fit: Fit, checkpoint: Checkpoint, loop: Mapping[str, Any]) -> None:
        state = self._tracker.take_state() or checkpoint.load()
        if loop["fit"] < self._number:
            fit.rewind(state, ref=checkpoint.ref, rng=self._rng_at_begin)
            return
        _keras_guard.check(checkpoint, self._tracker.context, inside="inside" in state)
        fit.restore(state, ref=checkpoint.ref)
        self._continued_from = checkpoint.ref
        _keras_guard.override(fit.model.inner_optimizers(), self._overrides)
        if "inside" not in state:
            self._overrides = {}
        self._past = loop["past"]
        fit.first = self.model._initial_epoch = loop["epoch"] + 1
        if loop["stop_training"] and not self._goes_on:
            _logger.warning(
                "%s: a callback stopped this training at epoch %d, so nothing is trained; to train on "
                "all the same, pass resume=%r",
                *(checkpoint.ref, loop["epoch"], checkpoint.ref),
            )
            self._train_nothing(fit)
        elif fit.first >= self._epochs():
            _logger.warning(
                "%s: epoch %d was the last of the %s asked for, so nothing is trained",
                *(checkpoint.ref, loop["epoch"], self._epochs()),
            )
            self._train_nothing(fit)

    def _save_inside(self, fit: Fit, batch: int, *, reason: str | None) -> None:
        if reason is not None:
            epoch, step = fit.epoch.number - 1, fit.model.step()
            loop = {"fit": self._number, "epoch": epoch, "step": step, "stop_training": False, "past": self._past}
            state = {**fit.capture(batch=batch), "loop": loop}
            self._save(state, epoch=epoch if epoch >= 0 else None, step=step, metrics=None, reason=reason)

    def _save(self, state: Mapping[str, Any], **about: Any) -> None:
        try:
            self._tracker.save(state, **about)
        except (KeyboardInterrupt, SystemExit) as leaving:
            # Keras calls nobody on the way out of fit
            self._tracker.close(error=leaving)
            raise

    def _pass_over(self, fit: Fit, loop: Mapping[str, Any]) -> None:
        """The checkpoint is of a later fit of the script, so this one was through."""
        own = next((c for c in reversed(self.run.checkpoints()) if _loop(c)["fit"] == self._number), None)
        if own is not None:
            fit.restore(own.load(), ref=own.ref)
        else:
            fit.recall(loop["past"][self._number])
        _logger.warning(
            "fit number %d of this script was through, so nothing is trained in it%s",
            self._number + 1,
            "" if own else "; its last checkpoint is not kept, so the model stays as it is until the next fit",
        )
        self._train_nothing(fit)

    def _train_nothing(self, fit: Fit) -> None:
        fit.first = self.model._initial_epoch = max(int(min(self._epochs(), sys.maxsize)), 1)

    def _check_first(self, fit: Fit, epoch: int) -> None:
        """Keras takes the epoch to begin with from an attribute of the model that it doesn't document."""
        if fit.first not in (None, epoch):
            raise StateMismatch(
                f"the training begins at epoch {epoch}, but a checkpoint was restored that is followed "
                f"by epoch {fit.first}: pass initial_epoch={fit.first}"
            )
        self._forget_first(fit)

    def _forget_first(self, fit: Fit) -> None:
        if fit.first is not None:
            fit.first = self.model._initial_epoch = None

    def _save_pending(self, fit: Fit, *, last: bool) -> None:
        pending, fit.pending = fit.pending, None
        if pending is not None:
            self._end_epoch(*pending, last=last)

    def _epochs(self) -> float:
        return (self.params or {}).get("epochs") or math.inf

    def _newest(self) -> Checkpoint | None:
        try:
            return self.run.last()
        except CheckpointNotFound:
            return None

    def _tell(self, limits: Iterable[str]) -> None:
        for limit in limits:
            if limit not in self._told:
                self._told.add(limit)
                warnings.warn(limit, CheckpointWarning, stacklevel=4)


def _loop(checkpoint: Checkpoint) -> Mapping[str, Any]:
    if "architecture" not in checkpoint.sections:
        raise StateMismatch(
            f"{checkpoint.ref} was not made by a Keras training (it has {', '.join(checkpoint.sections)}): "
            "give this training another run name"
        )
    loop: Mapping[str, Any] = checkpoint.load("loop")
    return loop
