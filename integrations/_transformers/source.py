"""Where the trainings of a script continue from: the checkpoint, and the folder by which a Trainer gets it."""

from __future__ import annotations

import logging
from typing import Any

from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.errors import CheckpointNotFound
from ckpt_tracker.integrations._shared import stateful as _stateful
from ckpt_tracker.integrations._transformers import state as states
from ckpt_tracker.integrations._transformers import trainer as inner
from ckpt_tracker.integrations._transformers.fit import Resume
from ckpt_tracker.integrations._transformers.folder import Folder, loop_of
from ckpt_tracker.tracker import Tracker

_log = logging.getLogger("ckpt_tracker")


class Source:
    """Of one tracker, over all the trainings that are told it."""

    def __init__(self, tracker: Tracker) -> None:
        self.interrupted = False
        """The last training in this process did not come to its end, so the next one continues it."""
        self._tracker = tracker
        self._resume: Checkpoint | None = None
        self._folders: dict[str, Folder] = {}
        self._lent: str | None = None
        # a reference that names a checkpoint says: from here on, whatever stopped it
        self._goes_on = "@" in tracker.options.resume

    def begin(self, trainer: Any, given: Any, *, number: int) -> Resume | None:
        """Takes the run for the script's training of that number, and says what it continues from.

        `given` is the script's `resume_from_checkpoint`. True means the run's newest checkpoint, where there is one.
        """
        self._take_run(trainer.args)
        try:
            if given and not (given is True and self._resume is not None):
                folder = self._given(given, trainer.args)
            else:
                folder = self._choose(trainer, number=number)
                self._lent = folder.path if folder else None
            if folder is None:
                return None
            _stateful.check_tensors(_stateful.take(trainer.model), folder.model, name="model")
            return Resume(folder.path, folder.rest, skip=folder.skip, large=folder.large)
        except BaseException as error:
            self._tracker.close(error=error)
            raise

    def folder(self, reference: str) -> Folder | None:
        """A folder of the checkpoint that is meant; None where "last" or "best" is meant and there is none."""
        checkpoint = self._find(reference)
        if checkpoint is None:
            return None
        skip = reference == "last" and loop_of(checkpoint).get("stopped", False)
        return self._folder(checkpoint, checkpoint.load(), skip=skip)

    def forget(self) -> None:
        """The Trainer has read the folder, unless it is one of the script's own."""
        lent, self._lent = self._lent, None
        folder = self._folders.pop(lent, None) if lent else None
        if folder is not None:
            folder.remove()

    # -- behind ----------------------------------------------------------------------------------------------

    def _take_run(self, args: Any) -> None:
        if self._tracker.active:
            return
        resumed = self._tracker.begin(config=states.config(args))
        if resumed is not None:
            self._resume = resumed
        elif self.interrupted and self._tracker.options.resume != "never":
            self._resume = next(reversed(self._tracker.run.checkpoints()), None)
        self.interrupted = False

    def _given(self, path: Any, args: Any) -> Folder | None:
        """The script says where to continue from: a folder of ours, or one that the Trainer wrote."""
        folder = self._folders.get(str(path))
        self._resume = None
        self._tracker.take_state()
        self._tracker.continue_from(folder.checkpoint if folder else None)
        if folder is not None and not folder.skip and _is_done(args, folder.rest["loop"]["trainer"]):
            return self._folder(folder.checkpoint, folder.checkpoint.load(), skip=True)
        return folder

    def _choose(self, trainer: Any, *, number: int) -> Folder | None:
        resume = self._resume
        if resume is None:
            return None
        loop = loop_of(resume)
        self._tracker.continue_from(resume)
        if loop.get("fit", 0) > number:
            return self._passed_over(trainer, resume, number=number)
        self._resume = None
        if loop.get("fit", 0) < number:
            return None
        stopped = loop.get("stopped", False) and not self._goes_on
        if stopped:
            _log.warning(
                "%s was stopped early, so nothing is trained: resume=%r trains on from there", resume.ref, resume.ref
            )
        skip = stopped or _is_done(trainer.args, loop.get("trainer", {}))
        state = self._tracker.take_state() or resume.load()
        return self._folder(resume, state, skip=skip, whole=inner.loads_alone(trainer))

    def _passed_over(self, trainer: Any, resume: Checkpoint, *, number: int) -> Folder:
        """An earlier process was already in a later training of the script."""
        _log.warning("training %d of run %s was finished before: it is passed over", number + 1, resume.run)
        for checkpoint in reversed(self._tracker.run.checkpoints()):
            if loop_of(checkpoint).get("fit") == number:
                break
        else:
            checkpoint = resume
            _log.warning("no checkpoint of it is kept: its model is that of %s", resume.ref)
        return self._folder(checkpoint, checkpoint.load(), skip=True, whole=inner.loads_alone(trainer))

    def _folder(self, checkpoint: Checkpoint, state: dict[str, Any], *, skip: bool, whole: bool = True) -> Folder:
        folder = Folder(checkpoint, state, skip=skip, whole=whole)
        self._folders[folder.path] = folder
        return folder

    def _find(self, reference: str) -> Checkpoint | None:
        tracker = self._tracker
        if tracker.active:
            tracker.run.writer().drain()
        whole = reference
        if "@" not in reference:
            if tracker.name is None:
                return None
            monitor = tracker.monitor
            by = f":{monitor.metric}:{monitor.mode}" if monitor and reference == "best" else ""
            whole = f"{tracker.name}@{reference}{by}"
        try:
            return tracker.store[whole]
        except CheckpointNotFound:
            if reference in ("last", "best"):
                return None
            raise


def _is_done(args: Any, state: dict[str, Any]) -> bool:
    """The training had come to the last step that `args` want. A Trainer would train one more, inside an epoch."""
    step = state.get("global_step", 0)
    if args.max_steps > 0:
        return bool(step >= args.max_steps)
    return bool(step >= state.get("max_steps", step + 1) and (state.get("epoch") or 0) >= args.num_train_epochs)
