"""One call of `trainer.fit`: what is restored when, and what is saved when.

An epoch is saved at the point where the next one begins, or where the training ends: schedulers, metrics and all
other callbacks are through with it by then. A resumed training gets its random states at that same point.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations import _lightning_metrics as metrics
from ckpt_tracker.integrations import _lightning_state as states
from ckpt_tracker.integrations import _lightning_trainer as inner
from ckpt_tracker.integrations._lightning_flavour import flavoured
from ckpt_tracker.integrations._lightning_io import path_of
from ckpt_tracker.integrations._lightning_metrics import Moment, Validation
from ckpt_tracker.integrations._lightning_position import (
    TrainPosition,
    capture_random,
    generator_states,
    restore_generators,
    restore_random,
)
from ckpt_tracker.tracker import Tracker

_logger = logging.getLogger("ckpt_tracker")


class Fit:
    """From `setup` to `teardown`; `number` counts the fits of one tracker."""

    def __init__(self, tracker: Tracker, trainer: Any, *, number: int) -> None:
        self.front = Front(self)
        self.validation = Validation()
        self.skip: str | None = None
        """Why nothing is to be trained."""
        self._tracker = tracker
        self._trainer = trainer
        self._number = number
        # restoring
        self._offered: str | None = None
        self._decided = False
        self._taken: dict[str, Any] | None = None
        self._resume: dict[str, Any] | None = None
        self._averages: dict[str, dict[str, Any]] = {}
        # saving
        self._position = TrainPosition(self._between_batches)
        self._over: Moment | None = None
        self._saving: Moment | None = None
        self._step = -1

    # -- restoring, in the order of the calls ----------------------------------------------------------------

    def offer(self, checkpoint: dict[str, Any], *, path: str, by_path: bool) -> None:
        """Hands Lightning what to restore, unless `fit` was given a path; with `by_path` it must have been."""
        self._offered = path
        if not by_path:
            inner.inject(self._trainer, checkpoint)

    def taken_up(self, checkpoint: dict[str, Any]) -> bool:
        """Lightning restores `checkpoint`: ours, by itself or by its path, or a file of its own. True for ours.

        Only the first counts: a learning-rate finder restores what it found.
        """
        if not self._decided:
            self._decided = True
            self._resume = checkpoint.get(states.EXTRA)
            self._taken = checkpoint if self._resume else None
            if self._trainer.ckpt_path not in (None, self._offered):
                self.skip = None
        return self._resume is not None

    def before_training_state(self) -> None:
        """A learning-rate finder that ran just now has taken the loaded checkpoint out with its own."""
        if self._taken is not None:
            inner.inject(self._trainer, self._taken)

    def start(self) -> None:
        """Lightning has restored what it restores: model, callbacks, loops, optimizers, schedulers."""
        trainer, taken, resume = self._trainer, self._taken, self._resume
        if self._offered and not self._decided:
            raise inner.not_restored(trainer)
        self._taken = None
        self._step = trainer.global_step
        self._tracker.schedule.start(step=self._step)
        self._watch_position()
        if resume is None or taken is None:
            if self._position.draws_early() and trainer.current_epoch == 0:
                inner.draw_order(trainer)
        elif resume["loop"]["inside"]:
            self._continue_epoch(taken["loops"]["fit_loop"], resume)
        else:
            inner.begin_epoch(trainer.fit_loop, taken["loops"]["fit_loop"])
        if self.skip:
            trainer.should_stop = True
            _logger.warning("%s", self.skip)

    def _continue_epoch(self, counters: dict[str, Any], resume: dict[str, Any]) -> None:
        mine = self._mine(resume)
        batches = counters["epoch_loop.batch_progress"]["current"]["completed"]
        inner.continue_epoch(self._trainer, counters)
        undo = inner.skip_validation(self._trainer)

        def before_next_batch() -> None:
            undo()
            self._averages = dict(mine["averages"])
            self._restore_rest()

        self._position.watch(inner.train_loader(self._trainer))
        self._position.resume(mine["order"], batches=batches, then=before_next_batch)

    def _restore_rest(self) -> None:
        """What Lightning knows nothing of, at the very point where it was captured."""
        trainer, resume, self._resume = self._trainer, self._resume, None
        assert resume is not None
        mine = self._mine(resume)
        states.restore_modes(trainer.lightning_module, resume["loop"]["modes"])
        metrics.restore_metric_states(trainer.lightning_module, mine["torchmetrics"])
        trainer.callback_metrics.update(resume["loop"]["monitored"])
        self.validation.names = set(resume["loop"]["validation_metrics"])
        if mine["validation"]:
            inner.load_validation(trainer)
            restore_generators(mine["validation"], trainer.val_dataloaders)
        restore_random(mine, trainer.train_dataloader)

    def _mine(self, resume: dict[str, Any]) -> dict[str, Any]:
        """This rank's part of what was gathered from all."""
        trainer, ranks = self._trainer, resume["ranks"]
        if len(ranks) != trainer.world_size:
            raise StateMismatch(
                f"the checkpoint was saved by {len(ranks)} process(es), and this training has {trainer.world_size}: "
                "random states and data order belong to as many processes as there were"
            )
        mine: dict[str, Any] = ranks[trainer.global_rank]
        return mine

    def check_restored(self) -> None:
        """Raises StateMismatch where Lightning did not come by the point at which the rest is restored."""
        if self._resume is not None:
            raise StateMismatch(
                "a batch begins and the random states are not restored: this Lightning comes by other hooks than "
                "the ones in ckpt_tracker's constraints.txt, use one of those"
            )

    # -- saving ----------------------------------------------------------------------------------------------

    def epoch_over(self) -> None:
        """All metrics of the epoch are there; plateau schedulers and checkpoints of others are still to come."""
        trainer = self._trainer
        self._step = trainer.global_step
        due = self._tracker.due(epoch=trainer.current_epoch, step=self._step)
        reason = inner.agree(trainer, due)
        self._over = self.validation.moment(trainer, trainer.current_epoch, reason, inside=False)

    def turn(self, *, last: bool = False) -> None:
        """The epoch's state is complete. The last epoch of a training is always saved."""
        over, self._over = self._over, None
        if self._resume is not None and not self._resume["loop"]["inside"] and not last:
            self._restore_rest()
        if over is not None and (over.reason or last):
            self._save(dataclasses.replace(over, reason=over.reason or "end of training"))
        if not last:
            self._watch_position()

    def complete_averages(self) -> None:
        """Adds what was gathered in this epoch before an interruption."""
        if self._averages:
            metrics.add_averages(self._trainer, self._averages)

    def _watch_position(self) -> None:
        if self._tracker.schedule.within_epochs:
            self._position.watch(inner.train_loader(self._trainer))

    def _between_batches(self) -> None:
        self.complete_averages()
        trainer, step = self._trainer, self._trainer.global_step
        # gradients that are being accumulated are in no state
        if step == self._step or not self._tracker.schedule.within_epochs:
            return
        self._step = step
        reason = inner.agree(trainer, self._tracker.due(step=step))
        if reason is not None and not inner.restores_at_epochs_only(trainer):
            epoch = trainer.current_epoch - 1 if trainer.current_epoch else None
            self._save(self.validation.moment(trainer, epoch, reason, inside=True))

    def _save(self, moment: Moment) -> None:
        self._saving = moment
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
        if not moment.inside:
            states.at_epoch_end(checkpoint["loops"])
            checkpoint.update(epoch=moment.epoch, global_step=moment.step)
        mine = {
            **capture_random(trainer.train_dataloader),
            "order": self._position.capture() if moment.inside else None,
            "validation": generator_states(trainer.val_dataloaders),
            "torchmetrics": metrics.metric_states(trainer.lightning_module),
            "averages": metrics.averages(trainer) if moment.inside else {},
        }
        loop = {
            "fit": self._number,
            "inside": moment.inside,
            "stopped": states.stopped_early(trainer),
            "modes": states.modes(trainer.lightning_module),
            "monitored": metrics.monitored(trainer),
            "validation_metrics": sorted(self.validation.names),
        }
        checkpoint[states.EXTRA] = {"loop": loop, "ranks": inner.gather(trainer, mine)}

    def store(self, checkpoint: dict[str, Any]) -> bool:
        """On the first rank: makes the dict a checkpoint of the run. False where it is not the tracker that saves."""
        moment = self._saving
        if moment is None:
            return False
        for refused in states.drop_unstorable_hyperparameters(checkpoint):
            self._tracker.warn_once(refused, f"left out: {refused}")
        with metrics.expecting(moment, self._tracker):
            self._tracker.save(
                states.to_state(checkpoint, self._trainer),
                epoch=moment.epoch,
                step=moment.step,
                metrics=moment.metrics,
                reason=moment.reason,
            )
        return True

    def end(self) -> None:
        """Takes everything back that was put into the trainer."""
        self._position.release()
        self._trainer.callbacks = [each for each in self._trainer.callbacks if each is not self.front]


class Front:
    """Stands before all other callbacks; the tracker itself, being a Checkpoint, stands behind them."""

    def __new__(cls, fit: Fit) -> Front:  # noqa: PYI034 - Self came with Python 3.11
        made: Front = object.__new__(flavoured(cls, "Callback"))
        return made

    def __init__(self, fit: Fit) -> None:
        self._fit = fit

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The epoch before is over, and nothing of this one has happened."""
        self._fit.turn()

    def on_train_batch_start(self, *args: Any) -> None:
        """Everything must be restored by now."""
        self._fit.check_restored()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The epoch's averages are about to be looked at."""
        self._fit.complete_averages()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """There is no next epoch."""
        self._fit.turn(last=True)
