"""What a `fit` restores besides what Lightning does, and at which points.

Random states are put back where they were captured: before an epoch's begin, before the next batch, or before the
validation that is to be done once more.
"""

from __future__ import annotations

from typing import Any

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations._lightning import context as contexts
from ckpt_tracker.integrations._lightning import metrics
from ckpt_tracker.integrations._lightning import state as states
from ckpt_tracker.integrations._lightning import trainer as inner
from ckpt_tracker.integrations._lightning.manual import ManualGradients
from ckpt_tracker.integrations._lightning.metrics import Validation
from ckpt_tracker.integrations._lightning.position import TrainPosition
from ckpt_tracker.integrations._lightning.random import Randomness, generators_of, restore_generators
from ckpt_tracker.integrations._lightning.ranks import put_own_parts
from ckpt_tracker.integrations._lightning.redo import Redo
from ckpt_tracker.integrations._shared import overrides as _overrides
from ckpt_tracker.tracker import Tracker


class Restoring:
    """What one `fit` goes on from, until it has all of it."""

    def __init__(
        self,
        tracker: Tracker,
        trainer: Any,
        *,
        random: Randomness,
        position: TrainPosition,
        redo: Redo,
        gradients: ManualGradients,
        validation: Validation,
    ) -> None:
        self.averages: dict[str, dict[str, Any]] = {}
        """What `self.log(..., on_epoch=True)` had gathered in the epoch that goes on."""
        self._tracker = tracker
        self._trainer = trainer
        self._random = random
        self._position = position
        self._redo = redo
        self._gradients = gradients
        self._validation = validation
        self._offered: str | None = None
        self._decided = False
        self._taken: dict[str, Any] | None = None
        self._resume: dict[str, Any] | None = None

    # -- in the order of the calls ---------------------------------------------------------------------------

    def localize(self, checkpoint: dict[str, Any], *, ref: str) -> None:
        """Puts in what this rank had of its own. Raises StateMismatch where there were more or fewer ranks."""
        extra, trainer = checkpoint[states.EXTRA], self._trainer
        contexts.check_ranks(ref, was=len(extra["ranks"]), now=trainer.world_size)
        put_own_parts(checkpoint, extra["ranks"][trainer.global_rank]["own"])

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
        return self._resume is not None

    @property
    def as_offered(self) -> bool:
        """No path was given to `fit` that wins over what was offered."""
        return self._trainer.ckpt_path in (None, self._offered)

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
        if resume is None or taken is None:
            return
        inside, ref = resume["loop"]["inside"], self._tracker.resumed_from
        if ref is not None:
            contexts.check(ref, self._tracker.context, inside=inside)
        states.put_model(trainer.lightning_module, taken, self._mine(resume)["own"])
        if inside:
            self._continue_epoch(taken["loops"]["fit_loop"], resume)
        else:
            self._position.begin_with(self._mine(resume)["order"])
            inner.begin_epoch(trainer.fit_loop, taken["loops"]["fit_loop"])
        inner.start_averaging(trainer)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        _overrides.apply(trainer.optimizers, schedulers, self._tracker.options.overrides)

    def epoch_begins(self) -> None:
        """Before anything of it: the point at which the end of the epoch before was captured."""
        resume = self._resume
        if resume is not None and not resume["loop"]["inside"]:
            self._rest()

    def epoch_ends(self) -> None:
        """The training goes on without the validation that it was to do once more: there is none now."""
        if self._redo.pending:
            self._redo.restore_now()

    def check(self) -> None:
        """Raises StateMismatch where Lightning did not come by the point at which the rest is restored."""
        if self._resume is not None:
            raise StateMismatch(
                "a batch begins and the random states are not restored: this Lightning comes by other hooks than "
                "the ones in ckpt_tracker's constraints.txt, use one of those"
            )

    # -- behind ----------------------------------------------------------------------------------------------

    def _continue_epoch(self, counters: dict[str, Any], resume: dict[str, Any]) -> None:
        mine = self._mine(resume)
        batches = counters["epoch_loop.batch_progress"]["current"]["completed"]
        inner.continue_epoch(self._trainer, counters)
        if resume["loop"].get("redo"):
            self._redo.again(self._rest_inside)
            self._position.resume(mine["order"], batches=batches, then=self._after_redo)
            return
        undo = inner.skip_validation(self._trainer)

        def before_next_batch(now: dict[str, Any]) -> None:
            undo()
            self._rest_inside()

        self._position.resume(mine["order"], batches=batches, then=before_next_batch)

    def _after_redo(self, now: dict[str, Any]) -> None:
        """The order of the data is drawn again after the validation, whose random states are to stay."""
        if self._redo.pending:
            self._redo.restore_now()
        else:
            self._random.restore(now)

    def _rest_inside(self) -> None:
        assert self._resume is not None
        self.averages = dict(self._mine(self._resume)["averages"])
        # the end of the epoch is one like any other: Lightning would leave plateau schedulers out
        self._trainer.fit_loop._restarting = False
        self._rest()

    def _rest(self) -> None:
        """What Lightning knows nothing of, at the very point where it was captured."""
        trainer, resume, self._resume = self._trainer, self._resume, None
        assert resume is not None
        mine = self._mine(resume)
        states.restore_modes(trainer.lightning_module, resume["loop"]["modes"])
        metrics.restore_metric_states(trainer.lightning_module, mine["torchmetrics"])
        self._gradients.restore(mine["gradients"])
        trainer.callback_metrics.update(mine["monitored"])
        self._validation.names = set(resume["loop"]["validation_metrics"])
        if mine["validation"]:
            inner.load_validation(trainer)
            found = generators_of(trainer.val_dataloaders)
            restore_generators(found, mine["validation"], say=self._tracker.warn_once)
        self._random.restore(mine)

    def _mine(self, resume: dict[str, Any]) -> dict[str, Any]:
        """This rank's part of what was gathered from all."""
        mine: dict[str, Any] = resume["ranks"][self._trainer.global_rank]
        return mine
