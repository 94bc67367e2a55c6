"""One call of `trainer.fit`: what is saved when.

An epoch is saved at the point where the next one begins, or where the training ends: schedulers, metrics and all
other callbacks are through with it by then. Inside an epoch it is between two batches, or before a validation.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from ckpt_tracker.errors import CkptTrackerError, InvalidOption, add_note
from ckpt_tracker.integrations._lightning import context as contexts
from ckpt_tracker.integrations._lightning import metrics
from ckpt_tracker.integrations._lightning import state as states
from ckpt_tracker.integrations._lightning import trainer as inner
from ckpt_tracker.integrations._lightning.front import Front
from ckpt_tracker.integrations._lightning.io import path_of
from ckpt_tracker.integrations._lightning.manual import ManualGradients
from ckpt_tracker.integrations._lightning.metrics import Moment, Validation
from ckpt_tracker.integrations._lightning.position import TrainPosition
from ckpt_tracker.integrations._lightning.random import Randomness, generators_of
from ckpt_tracker.integrations._lightning.ranks import Ranks
from ckpt_tracker.integrations._lightning.redo import Redo
from ckpt_tracker.integrations._lightning.restore import Restoring
from ckpt_tracker.integrations._lightning.signals import Signals
from ckpt_tracker.integrations._shared import generators as _generators
from ckpt_tracker.integrations._shared.overlap import Overlap
from ckpt_tracker.tracker import Tracker

_logger = logging.getLogger("ckpt_tracker")
_WORKERS = (
    "the data draw random numbers in workers that go on from epoch to epoch, where they can't be restored: "
    "a resumed training draws others, unless DataLoader(persistent_workers=False) starts them anew"
)


class Fit:
    """From `setup` to `teardown`; `number` counts the fits of one tracker."""

    def __init__(self, tracker: Tracker, trainer: Any, *, number: int) -> None:
        self.front = Front(self)
        self.validation = Validation()
        self.ranks = Ranks(trainer)
        self.signals = Signals(tracker, trainer, self.ranks)
        self.skip: str | None = None
        """Why nothing is to be trained."""
        self._tracker = tracker
        self._trainer = trainer
        self._number = number
        self._random = Randomness(trainer, say=tracker.warn_once)
        self._position = TrainPosition(
            self._between_batches, random=self._random, fetcher=lambda: trainer.fit_loop._data_fetcher
        )
        self._unwatch = inner.watch_loader(trainer, self._position.watch)
        self._redo = Redo(trainer, self._random)
        self._gradients = ManualGradients()
        self.restoring = Restoring(
            tracker,
            trainer,
            random=self._random,
            position=self._position,
            redo=self._redo,
            gradients=self._gradients,
            validation=self.validation,
        )
        self._over: Moment | None = None
        self._saving: Moment | None = None
        self._step = -1
        self._stepped = False
        """The batch before was one with an optimizer's step: no gradients are being gathered."""
        self._overlap: Overlap | None = None
        self._at_once = False
        """The model is about to be another one."""
        self._votes = False
        """In this validation all ranks have as many batches."""

    def start(self) -> None:
        """Lightning has restored what it restores, and is about to train."""
        trainer = self._trainer
        problem = self._position.problem
        if problem is not None:
            if self._tracker.schedule.within_epochs:
                raise InvalidOption(
                    f"{problem}, so no checkpoint inside an epoch can be continued: use every='1 epoch'"
                )
            self._tracker.signals.where = "at the end of the epoch"
        self._tracker.context = contexts.describe(trainer)
        self._step = trainer.global_step
        self._tracker.schedule.start(step=self._step)
        self.restoring.start()
        self._gradients.watch(trainer)
        self._redo.watch()
        if self._tracker.options.overlap and trainer.is_global_zero:
            models, optimizers = [trainer.lightning_module], trainer.optimizers
            self._overlap = Overlap(self._tracker.settle, models=models, optimizers=optimizers)
        self.signals.take_over()
        if self.skip and self.restoring.as_offered:
            trainer.should_stop = True
            _logger.warning("%s", self.skip)

    # -- the consistent points -------------------------------------------------------------------------------

    def epoch_over(self) -> None:
        """All metrics of the epoch are there; plateau schedulers and checkpoints of others are still to come."""
        trainer = self._trainer
        self._step, self._stepped = trainer.global_step, False
        self._over = self.validation.moment(trainer, trainer.current_epoch, inside=False)

    def turn(self, *, last: bool = False) -> None:
        """The epoch's state is complete. The last epoch of a training is always saved."""
        over, self._over, trainer = self._over, None, self._trainer
        if not last:
            self.restoring.epoch_begins()
        if over is None:
            return
        reason = self.signals.due(epoch=over.epoch, step=over.step) or ("end" if last else None)
        if reason:
            self._save(dataclasses.replace(over, reason=reason), at_once=last or inner.is_averaged(trainer))
        # at the end of the training the rest of it is short, and the signal is raised again after that
        if not last:
            self.signals.leave()

    def complete_averages(self) -> None:
        """Adds what was gathered in this epoch before an interruption."""
        if self.restoring.averages:
            metrics.add_averages(self._trainer, self.restoring.averages)

    def _between_batches(self) -> None:
        self.complete_averages()
        step = self._trainer.global_step
        # gradients that are being accumulated are in no state
        self._stepped = step != self._step and self._position.problem is None
        self._step = step
        if self._stepped:
            reason = self.signals.due(step=step)
            if reason is not None:
                self._save(self._inside(reason))
                self.signals.leave()

    def validation_begins(self) -> None:
        """Ranks that have as many batches can come to a decision at each."""
        if self.ranks.several and not self._trainer.sanity_checking:
            batches = sum(self._trainer.num_val_batches)
            known = batches != float("inf")
            number = int(batches) if known else -1
            most, fewest = self.ranks.highest(number), -self.ranks.highest(-number)
            self._votes = most == fewest >= 0

    def validation_goes_on(self) -> None:
        """A batch of a validation is through: one that is long is not waited for when a signal has come."""
        if self._redo.begin is None or not (self._votes or not self.ranks.several):
            return
        reason = self.signals.interrupted()
        if reason is not None and self._save_before_validation(reason):
            self.signals.leave()

    def validation_over(self) -> None:
        """Callbacks with a state are about to take up its metrics."""
        self._redo.ends()

    def failed(self, error: BaseException) -> None:
        """Saves where the state is known in spite of an error: its cause lies in the data, or in a validation."""
        if self.ranks.several or not isinstance(error, Exception):
            return
        try:
            if self._position.failed is error and self._stepped:
                self._save(
                    dataclasses.replace(
                        self._inside("exception"), random=self._random.ready(self._position.before_fetch)
                    )
                )
            elif self._redo.begin is not None and self._trainer.validating:
                self._save_before_validation("exception")
        except Exception as failed:
            add_note(error, f"ckpt_tracker: no checkpoint was saved: {failed}")

    # -- saving ----------------------------------------------------------------------------------------------

    def _inside(self, reason: str) -> Moment:
        trainer = self._trainer
        epoch = trainer.current_epoch - 1 if trainer.current_epoch else None
        return self.validation.moment(trainer, epoch, inside=True, reason=reason)

    def _save_before_validation(self, reason: str) -> bool:
        with self._redo.at_begin() as possible:
            agreed = not self.ranks.highest(int(not possible or self._position.problem is not None))
            if agreed:
                begin = self._redo.begin
                assert begin is not None
                self._save(dataclasses.replace(self._inside(reason), redo=True, random=begin["random"]))
            else:
                self._redo.ends()
        return agreed

    def settle(self) -> None:
        """What is being copied may change once this returns."""
        self._tracker.settle()

    def _save(self, moment: Moment, *, at_once: bool = False) -> None:
        self._saving, self._at_once = moment, at_once or moment.redo or moment.reason == "exception"
        try:
            path = path_of(self._tracker.store.path, "next")
            self._trainer.save_checkpoint(path, weights_only=False)
        finally:
            self._saving = None

    def add_to(self, checkpoint: dict[str, Any]) -> None:
        """On every rank: adds to Lightning's dict what it leaves out. Checkpoints of others are left alone."""
        moment, trainer = self._saving, self._trainer
        if moment is None:
            return
        states.prepare_loops(checkpoint["loops"])
        if not moment.inside:
            states.at_epoch_end(checkpoint["loops"])
            checkpoint.update(epoch=moment.epoch, global_step=moment.step)
        mine = {
            **(moment.random or self._random.capture()),
            "order": self._position.capture(inside=moment.inside),
            "validation": _generators.capture(generators_of(inner.validation_loaders(trainer))),
            "torchmetrics": metrics.metric_states(trainer.lightning_module),
            "averages": metrics.averages(trainer) if moment.inside else {},
            "gradients": self._gradients.capture(),
            "monitored": metrics.monitored(trainer),
        }
        loop = {
            "fit": self._number,
            "inside": moment.inside,
            "redo": moment.redo,
            "stopped": states.stopped_early(trainer),
            "modes": states.modes(trainer.lightning_module),
            "validation_metrics": sorted(self.validation.names),
        }
        if moment.redo:
            self._redo.put_begin(checkpoint, mine, loop)
        mine["own"] = self.ranks.own_parts(states.comparable(checkpoint))
        checkpoint[states.EXTRA] = {"loop": loop, "ranks": self.ranks.gather(mine)}

    def store(self, checkpoint: dict[str, Any]) -> bool:
        """On the first rank: makes the dict a checkpoint of the run. False where it is not the tracker that saves."""
        moment, tracker = self._saving, self._tracker
        if moment is None:
            return False
        for refused in states.drop_unstorable_hyperparameters(checkpoint):
            tracker.warn_once(refused, f"left out: {refused}")
        if self._position.workers_draw:
            tracker.warn_once("workers", _WORKERS)
        state, overlap = states.to_state(checkpoint, self._trainer), self._overlap
        told: Any = {"epoch": moment.epoch, "step": moment.step, "metrics": moment.metrics, "reason": moment.reason}
        with metrics.expecting(moment, tracker):
            if overlap is not None and tracker.overlapping and not (self._at_once or self.signals.asked):
                tracker.save_overlapped(state, steady=overlap.steady(), **told)
                return True
            saved = tracker.save(state, **told, leave=False)
        if self.signals.asked or moment.reason == "exception":
            try:
                saved.wait()
            except CkptTrackerError as error:
                if tracker.options.on_error == "raise":
                    raise
                tracker.warn_once("emergency", f"the checkpoint was not saved: {error}")
        return True

    def end(self) -> None:
        """Takes everything back that was put into the trainer."""
        self._unwatch()
        if self._overlap is not None:
            self._overlap.release()
        self._redo.release()
        self._gradients.release()
        self._position.release()
        self._trainer.callbacks = [each for each in self._trainer.callbacks if each is not self.front]
        self.signals.stop()
