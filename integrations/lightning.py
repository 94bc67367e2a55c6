"""The tracker for Lightning: `Trainer(callbacks=[CheckpointTracker("checkpoints", "mnist")])`, and `trainer.fit`.

For `lightning` and `pytorch_lightning`. The state of the training is Lightning's own checkpoint dict, taken by
`trainer.save_checkpoint` and put back by `fit`, with what Lightning leaves out of it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ckpt_tracker.callback import TrackerCallback
from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.errors import CheckpointNotFound, InvalidOption
from ckpt_tracker.integrations._lightning import state as states
from ckpt_tracker.integrations._lightning import trainer as inner
from ckpt_tracker.integrations._lightning.fit import Fit
from ckpt_tracker.integrations._lightning.flavour import (
    flavoured,
    plain,
    require_flavour,
    require_lightning,
)
from ckpt_tracker.integrations._lightning.io import Address, StoreIO, open_paths_as_files, path_of
from ckpt_tracker.store import Store

require_lightning()

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.callbacks import Checkpoint as _Base
    from typing_extensions import Unpack

    from ckpt_tracker.options import TrackerOptions
else:
    # what is imported later is added when a tracker is made
    _Base = flavoured(object, "Checkpoint", loaded_only=True)

__all__ = ["CheckpointTracker"]


class CheckpointTracker(TrackerCallback, _Base):
    """Leaves a checkpoint after every epoch, and lets `trainer.fit` continue from the newest.

    It stands in for Lightning's default ModelCheckpoint, and leaves one that the script has made alone. A path given
    to `fit` wins over what the tracker would restore; `tracker.ckpt_path` is the one that it would.

    `fit` called again with the same tracker goes on in the same run and restores nothing; when the script is
    restarted, the fits that were through are passed over.
    """

    def __new__(cls, *args: Any, **options: Any) -> CheckpointTracker:  # noqa: PYI034 - Self came with Python 3.11
        made: CheckpointTracker = object.__new__(flavoured(cls, "Checkpoint"))
        return made

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        run: str | None = None,
        **options: Unpack[TrackerOptions],
    ) -> None:
        super().__init__(store, run, **options)
        open_paths_as_files()
        self._fit: Fit | None = None
        self._number = 0
        self._resume: Checkpoint | None = None
        self._interrupted = False
        self._path_known = False
        resume = str(options.get("resume", "auto"))
        self._never = resume == "never"
        # a reference that names a checkpoint says: from here on, whatever stopped it
        self._goes_on = "@" in resume

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled, as for processes that are spawned, by the class that can be imported."""
        made: Any = super().__reduce_ex__(protocol)
        _, (cls, *_), *rest = made
        return (_anew, (plain(cls),), *rest)

    # -- what scripts ask a ModelCheckpoint for --------------------------------------------------------------

    @property
    def ckpt_path(self) -> str | None:
        """What to pass as `trainer.fit(..., ckpt_path=)`; None where there is nothing to continue. Takes the run."""
        self._begin({})
        self._path_known = True
        return path_of(self.store.path, self._resume.ref) if self._resume else None

    @property
    def best_model_path(self) -> str:
        """What `trainer.test(ckpt_path="best")` loads; empty where there is no best."""
        best = self._best()
        return path_of(self.store.path, best.ref) if best else ""

    @property
    def best_model_score(self) -> torch.Tensor | None:
        """The monitored metric of the best checkpoint."""
        import torch

        best, monitor = self._best(), self._tracker.monitor
        return torch.tensor(best.metrics[monitor.metric]) if best and monitor else None

    # -- Lightning's hooks, in the order of their calls ------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Opens the run when `fit` begins. Raises RunBusy where another training holds it."""
        require_flavour(self, trainer)
        _require_alone(self, trainer)
        fitting = stage == "fit" and not trainer.fast_dev_run and not inner.is_tuning(trainer)
        if fitting:
            inner.require_whole_checkpoints(trainer)
        io = trainer.strategy.checkpoint_io
        trainer.strategy.checkpoint_io = StoreIO(io, save=self._store_checkpoint, load=self._load)
        if fitting:
            self._start_fit(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Learns whether ours is restored, or a file that `fit` was given."""
        if self._fit is not None and not self._fit.restoring.taken_up(checkpoint):
            self._tracker.continue_from(None)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Model and callbacks are restored, loops and optimizers are about to be."""
        if self._fit is not None:
            self._fit.restoring.before_training_state()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """All that Lightning restores is restored."""
        if self._fit is not None:
            self._fit.start()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Metrics from here on are those of a validation."""
        if self._fit is not None and not trainer.sanity_checking:
            self._fit.validation.started(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """The validation's metrics are there."""
        if self._fit is not None and not trainer.sanity_checking:
            self._fit.validation.ended(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The epoch's metrics are there."""
        if self._fit is not None:
            self._fit.epoch_over()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Completes the state, where it is the tracker that saves."""
        if self._fit is not None:
            self._fit.add_to(checkpoint)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Gives the run back. `fit` called again continues from the newest checkpoint."""
        fit, self._fit = self._fit, None
        if fit is None:
            return
        self._interrupted = True
        try:
            # what the tracker itself needs of the fit is still there
            self._fit = fit
            fit.failed(exception)
        finally:
            self._fit = None
            fit.end()
            self._tracker.close(error=exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Waits until all checkpoints are durable, and gives the run back."""
        fit, self._fit = self._fit, None
        if fit is not None:
            self._number += 1
            fit.end()
            self._tracker.close(finished=True)
            # the other ranks may ask for the best at once
            fit.ranks.wait()

    # -- behind ----------------------------------------------------------------------------------------------

    def _start_fit(self, trainer: Any, pl_module: Any) -> None:
        self._fit = fit = Fit(self._tracker, trainer, number=self._number)
        others = [each for each in trainer.callbacks if each is not self]
        trainer.callbacks = [fit.front, *others, self]
        plan = None
        if trainer.is_global_zero:
            self._begin({**pl_module.hparams, **getattr(trainer.datamodule, "hparams", {})})
            plan = (self.run.name, *self._choose())
        fit.signals.start()
        self._tracker.name, ref, skip = fit.ranks.of_first(plan)
        by_path, self._path_known = self._path_known and not inner.can_inject(trainer), False
        if ref is not None:
            checkpoint = self._load(Address(None, ref))
            inner.require_shapes(pl_module, checkpoint["state_dict"])
            fit.restoring.offer(checkpoint, path=path_of(self.store.path, ref), by_path=by_path)
        fit.skip = skip

    def _begin(self, config: dict[str, Any]) -> None:
        if self._tracker.active:
            return
        resumed = self._tracker.begin(config=config)
        if resumed is not None:
            self._resume = resumed
        elif self._interrupted and not self._never:
            self._resume = next(reversed(self.run.checkpoints()), None)
            self._tracker.continue_from(self._resume)
        self._interrupted = False

    def _choose(self) -> tuple[str | None, str | None]:
        """The checkpoint to restore for this fit, and, when nothing is to be trained, why."""
        resume = self._resume
        if resume is None:
            return None, None
        loop = states.loop_of(resume)
        if loop["fit"] > self._number:
            return self._passed_over(resume)
        self._resume = None
        if loop["fit"] < self._number:
            return None, None
        skip = None
        if loop["stopped"] and not self._goes_on:
            skip = f"{resume.ref} was stopped early, so nothing is trained: resume='{resume.ref}' trains on from there"
        return resume.ref, skip

    def _passed_over(self, resume: Checkpoint) -> tuple[str | None, str]:
        """An earlier process was already in a later fit of the script."""
        skip = f"fit {self._number + 1} of run {resume.run!r} was finished before: it is passed over"
        for checkpoint in reversed(self.run.checkpoints()):
            if states.loop_of(checkpoint)["fit"] == self._number:
                return checkpoint.ref, skip
        return None, f"{skip}, and no checkpoint of it is kept: the model is as the script made it"

    def _load(self, address: Address) -> dict[str, Any]:
        loaded = states.to_checkpoint(self._state_at(*address), ref=address.reference)
        if self._fit is not None:
            self._fit.restoring.localize(loaded, ref=address.reference)
        return loaded

    def _state_at(self, place: str | None, ref: str) -> dict[str, Any]:
        if place not in (None, str(self.store.path)):
            if self._fit is not None:
                self._tracker.continue_from(None)
            with Store(place, create=False) as store:
                return dict(store[ref].load())
        checkpoint, resumed = self.store[ref], self._tracker.resumed_from
        state: dict[str, Any] = {}
        if resumed is not None and resumed.ref == checkpoint.ref:
            state = self._tracker.take_state()
        elif self._fit is not None:
            self._tracker.continue_from(checkpoint)
        return state or dict(checkpoint.load())

    def _store_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._fit is None or not self._fit.store(checkpoint):
            raise InvalidOption("the tracker alone saves to its store: give trainer.save_checkpoint a file's path")

    def _best(self) -> Checkpoint | None:
        monitor, name = self._tracker.monitor, self._tracker.name
        if monitor is None or name is None:
            return None
        try:
            return self.store.find_run(name).best(monitor.metric, monitor.mode)
        except CheckpointNotFound:
            return None


def _anew(cls: type[CheckpointTracker]) -> CheckpointTracker:
    return cls.__new__(cls)


def _require_alone(tracker: CheckpointTracker, trainer: Any) -> None:
    if any(isinstance(each, CheckpointTracker) and each is not tracker for each in trainer.callbacks):
        raise InvalidOption("a Trainer takes one CheckpointTracker: use keep= to keep by several metrics")
