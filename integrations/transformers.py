"""The tracker for Hugging Face Transformers: `Trainer(..., callbacks=[CheckpointTracker("checkpoints", "mnli")])`.

`trainer.train()` then continues by itself; `trainer.train(resume_from_checkpoint=tracker.hf_dir("last"))` says so. Set
`save_strategy="no"`, unless the Trainer is to write checkpoints of its own beside.
"""

from __future__ import annotations

import logging
import os
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from ckpt_tracker.callback import TrackerCallback
from ckpt_tracker.errors import CheckpointWarning, InvalidOption, add_note
from ckpt_tracker.integrations._transformers import ranks
from ckpt_tracker.integrations._transformers import trainer as inner
from ckpt_tracker.integrations._transformers.fit import Fit
from ckpt_tracker.integrations._transformers.source import Source

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ckpt_tracker.options import TrackerOptions
    from ckpt_tracker.store import Store

    _Base = object
else:
    inner.require_transformers()
    from transformers import TrainerCallback as _Base

__all__ = ["CheckpointTracker"]

_log = logging.getLogger("ckpt_tracker")


class CheckpointTracker(TrackerCallback, _Base):
    """Leaves a checkpoint after every epoch, and lets `trainer.train()` continue from the newest.

    A `resume_from_checkpoint` given to `train` wins; True is the newest too. Callbacks that export their state, such as
    EarlyStoppingCallback, get it back. Inside an epoch (`every="500 steps"`) the data begin where they were, whatever
    random numbers are drawn as they are loaded.

    `train` called again with the same tracker goes on in the same run and restores nothing; when the script is
    restarted, the trainings that were through are passed over.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        run: str | None = None,
        **options: Unpack[TrackerOptions],
    ) -> None:
        super().__init__(store, run, **options)
        self._fit: Fit | None = None
        self._number = 0
        self._trainers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._source = Source(self._tracker)

    def attach(self, trainer: Any) -> None:
        """Joins a Trainer that was made without this callback; one that was made with it needs no call."""
        callbacks = trainer.callback_handler.callbacks
        if any(isinstance(each, CheckpointTracker) and each is not self for each in callbacks):
            raise InvalidOption("a Trainer takes one CheckpointTracker: use keep= to keep by several metrics")
        inner.require_whole_checkpoints(trainer)
        if self not in callbacks:
            trainer.add_callback(self)
        if trainer not in self._trainers:
            self._trainers.add(trainer)
            inner.wrap_train(trainer, self._train)
            inner.wrap_fetch(trainer, self._fetch)
            inner.wrap_load(trainer, self._put_model)

    def hf_dir(self, reference: str = "last") -> str | None:
        """A temporary folder for `resume_from_checkpoint=`, laid out as a Trainer writes it.

        `reference` is "last", "best", another part of a reference such as "v12", or a whole one. For "last" and "best"
        it is None where there is none yet, with which `train` starts from scratch. Removed with the tracker.
        """
        folder = self._source.folder(reference)
        return folder.path if folder else None

    # -- the Trainer's hooks, in the order of their calls ----------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The Trainer is made."""
        trainer = inner.calling_trainer()
        if trainer is not None:
            self.attach(trainer)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All that the Trainer restores is restored."""
        if self._fit is not None:
            self._fit.begin()
        elif not state.is_hyper_param_search:
            raise InvalidOption(
                "the tracker was added to a Trainer that was made without it: "
                "give it in Trainer(callbacks=[tracker]), or call tracker.attach(trainer) before train"
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The epoch before is evaluated."""
        if self._fit is not None:
            self._fit.begin_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The Trainer has read all that it reads of a checkpoint."""
        if self._fit is not None and not getattr(args, "auto_find_batch_size", False):
            # else it may begin again
            self._source.forget()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An optimizer step is done."""
        if self._fit is not None:
            self._fit.end_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The steps of an epoch are done."""
        if self._fit is not None:
            self._fit.end_epoch(stops=control.should_training_stop)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Metrics of an evaluation."""
        if self._fit is not None:
            self._fit.evaluated(metrics or {})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Metrics of the training."""
        if self._fit is not None:
            self._fit.logged(logs or {})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Waits until all checkpoints are durable, and gives the run back."""
        fit, self._fit = self._fit, None
        if fit is None:
            return
        fit.end()
        if not fit.trained and state.is_world_process_zero:
            _log.warning(
                "run %s is at step %d of %d: nothing to train", self.run.name, state.global_step, state.max_steps
            )
        self._number += 1
        self._tracker.close(finished=not fit.signalled)

    # -- behind ----------------------------------------------------------------------------------------------

    def _train(self, trainer: Any, train: inner.Train, given: Any, trial: Any) -> Any:
        """Stands in for `trainer.train`."""
        if trial is not None:
            warnings.warn("trials of hyperparameter_search are not recorded", CheckpointWarning, stacklevel=3)
            return train(given)
        inner.put_last(trainer, self)
        resume = ranks.from_first(lambda: self._source.begin(trainer, given, number=self._number))
        if resume is not None and not os.path.isdir(resume.path):
            raise InvalidOption(f"this process does not see {resume.path}: set TMPDIR to a folder that all nodes share")
        self._fit = Fit(self._tracker, trainer, number=self._number, resume=resume)
        if not self._tracker.active:
            # not the first process, which begins the run, and with it to watch
            self._tracker.signals.start()
        try:
            return train(resume.path if resume else given)
        except BaseException as error:
            self._interrupt(error)
            raise
        finally:
            self._tracker.signals.stop()
            self._source.forget()

    def _fetch(self, fetch: inner.Fetch, batches: Any) -> Any:
        """Stands in for what brings a step's data."""
        return fetch(batches) if self._fit is None else self._fit.fetch(fetch, batches)

    def _put_model(self, folder: str) -> bool:
        """Stands in for what loads the model from the folder given to `train`."""
        return self._fit is not None and self._fit.put_model(folder)

    def _interrupt(self, error: BaseException) -> None:
        """Gives the run back. `train` called again continues from the newest checkpoint."""
        fit, self._fit = self._fit, None
        if fit is not None:
            try:
                fit.fail(error)
            except Exception as failed:
                add_note(error, f"ckpt_tracker: {failed}")
            fit.leave()
            self._source.interrupted = True
        self._tracker.close(error=error)
