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
from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.errors import CheckpointNotFound, CheckpointWarning, InvalidOption
from ckpt_tracker.integrations import _stateful
from ckpt_tracker.integrations import _transformers_ranks as ranks
from ckpt_tracker.integrations import _transformers_state as states
from ckpt_tracker.integrations import _transformers_trainer as inner
from ckpt_tracker.integrations._transformers_fit import Fit, Resume
from ckpt_tracker.integrations._transformers_folder import Folder, loop_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ckpt_tracker.store import Store
    from ckpt_tracker.options import TrackerOptions

    _Base = object
else:
    inner.require_transformers()
    from transformers import TrainerCallback as _Base

__all__ = ["CheckpointTracker"]

_log = logging.getLogger("ckpt_tracker")


class CheckpointTracker(TrackerCallback, _Base):
    """Leaves a checkpoint after every epoch, and lets `trainer.train()` continue from the newest.

    A `resume_from_checkpoint` given to `train` wins. Callbacks that export their state, such as EarlyStoppingCallback,
    get it back. Inside an epoch (`every="500 steps"`) it continues as exactly as a Trainer can: not when loading the
    training data draws random numbers.

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
        self._name = run
        self._fit: Fit | None = None
        self._number = 0
        self._trainers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._resume: Checkpoint | None = None
        self._interrupted = False
        self._folders: dict[str, Folder] = {}
        self._passing: str | None = None
        resume = str(options.get("resume", "auto"))
        self._never = resume == "never"
        # a reference that names a checkpoint says: from here on, whatever stopped it
        self._goes_on = "@" in resume

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

    def hf_dir(self, reference: str = "last") -> str | None:
        """A temporary folder for `resume_from_checkpoint=`, laid out as a Trainer writes it.

        `reference` is "last", "best", another part of a reference such as "v12", or a whole one. For "last" and "best"
        it is None where there is none yet, with which `train` starts from scratch. Removed with the tracker.
        """
        checkpoint = self._find(reference)
        if checkpoint is None:
            return None
        skip = reference == "last" and loop_of(checkpoint).get("stopped", False)
        return self._folder(checkpoint, checkpoint.load(), skip=skip).path

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
        """The step before is evaluated."""
        if self._fit is not None:
            self._fit.begin_step()
            self._forget_folder(args)

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
        self._tracker.close(finished=True)

    # -- behind ----------------------------------------------------------------------------------------------

    def _train(self, trainer: Any, train: inner.Train, given: Any, trial: Any) -> Any:
        """Stands in for `trainer.train`."""
        if trial is not None:
            warnings.warn("trials of hyperparameter_search are not recorded", CheckpointWarning, stacklevel=3)
            return train(given)
        inner.put_last(trainer, self)
        resume = ranks.from_first(lambda: self._begin(trainer, given))
        if resume is not None and not os.path.isdir(resume.path):
            raise InvalidOption(f"this process does not see {resume.path}: set TMPDIR to a folder that all nodes share")
        self._passing = None if resume is None or resume.path == given else resume.path
        self._fit = Fit(self._tracker, trainer, number=self._number, resume=resume)
        try:
            return train(resume.path if resume else given)
        except BaseException as error:
            self._interrupt(error)
            raise
        finally:
            self._forget_folder()

    def _begin(self, trainer: Any, given: Any) -> Resume | None:
        """Takes the run, and says what to continue from."""
        self._take_run(trainer.args)
        try:
            folder = self._given(given) if given else self._choose()
            if folder is None:
                return None
            _stateful.check_tensors(_stateful.take(trainer.model), folder.model, name="model")
            return Resume(folder.path, folder.rest, skip=folder.skip)
        except BaseException as error:
            self._tracker.close(error=error)
            raise

    def _take_run(self, args: Any) -> None:
        if self._tracker.active:
            return
        resumed = self._tracker.begin(config=states.config(args))
        self._name = self.run.name
        if resumed is not None:
            self._resume = resumed
        elif self._interrupted and not self._never:
            self._resume = next(reversed(self.run.checkpoints()), None)
        self._interrupted = False

    def _given(self, path: Any) -> Folder | None:
        """The script says where to continue from: a folder of ours, or one that the Trainer wrote."""
        folder = self._folders.get(str(path))
        self._resume = None
        self._tracker.take_state()
        self._continue_from(folder.checkpoint if folder else None)
        return folder

    def _choose(self) -> Folder | None:
        resume = self._resume
        if resume is None:
            return None
        loop = loop_of(resume)
        number = loop.get("fit", 0)
        self._continue_from(resume)
        if number > self._number:
            return self._passed_over(resume)
        self._resume = None
        if number < self._number:
            return None
        skip = loop.get("stopped", False) and not self._goes_on
        if skip:
            _log.warning(
                "%s was stopped early, so nothing is trained: resume=%r trains on from there", resume.ref, resume.ref
            )
        return self._folder(resume, self._tracker.take_state() or resume.load(), skip=skip)

    def _passed_over(self, resume: Checkpoint) -> Folder:
        """An earlier process was already in a later training of the script."""
        _log.warning("training %d of run %s was finished before: it is passed over", self._number + 1, resume.run)
        for checkpoint in reversed(self.run.checkpoints()):
            if loop_of(checkpoint).get("fit") == self._number:
                return self._folder(checkpoint, checkpoint.load(), skip=True)
        _log.warning("no checkpoint of it is kept: its model is that of %s", resume.ref)
        return self._folder(resume, resume.load(), skip=True)

    def _folder(self, checkpoint: Checkpoint, state: dict[str, Any], *, skip: bool) -> Folder:
        folder = Folder(checkpoint, state, skip=skip)
        self._folders[folder.path] = folder
        return folder

    def _forget_folder(self, args: Any = None) -> None:
        """The Trainer has read it, unless it may begin again."""
        if self._passing is None or getattr(args, "auto_find_batch_size", False):
            return
        folder = self._folders.pop(self._passing, None)
        self._passing = None
        if folder is not None:
            folder.remove()

    def _continue_from(self, checkpoint: Checkpoint | None) -> None:
        self._tracker.resumed_from = checkpoint
        self.run.continue_from(checkpoint)

    def _interrupt(self, error: BaseException) -> None:
        """Gives the run back. `train` called again continues from the newest checkpoint."""
        fit, self._fit = self._fit, None
        if fit is not None:
            fit.leave()
            self._interrupted = True
        self._tracker.close(error=error)

    def _find(self, reference: str) -> Checkpoint | None:
        if self._tracker.active:
            self.run.writer().drain()
        whole = reference
        if "@" not in reference:
            if self._name is None:
                return None
            monitor = self._tracker.monitor
            by = f":{monitor.metric}:{monitor.mode}" if monitor and reference == "best" else ""
            whole = f"{self._name}@{reference}{by}"
        try:
            return self.store[whole]
        except CheckpointNotFound:
            if reference in ("last", "best"):
                return None
            raise
