"""One call of `train`: what happens to its state at which hook.

The Trainer logs, evaluates and steps a plateau scheduler after `on_step_end` and `on_epoch_end`; so a state is complete
when the next step or epoch begins, or when the training says its last words.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

from ckpt_tracker.errors import CheckpointWarning
from ckpt_tracker.integrations import _random
from ckpt_tracker.integrations import _transformers_ranks as ranks
from ckpt_tracker.integrations import _transformers_state as states
from ckpt_tracker.integrations import _transformers_trainer as inner
from ckpt_tracker.tracker import Tracker


@dataclass(frozen=True)
class Resume:
    """What a training continues from: a folder for `train`, and what the Trainer does not find in it."""

    path: str
    rest: Mapping[str, Any]
    skip: bool = False
    """Nothing is to be trained."""


class Fit:
    """From the call of `train` to its end."""

    def __init__(self, tracker: Tracker, trainer: Any, *, number: int, resume: Resume | None) -> None:
        self.trained = False
        self._tracker = tracker
        self._trainer = trainer
        self._number = number
        self._given = resume
        self._resume: Resume | None = None
        self._epochs = 0
        self._ended: bool | None = None
        self._metrics: dict[str, tuple[int, Any]] = {}
        self._evaluated: int | None = None
        self._start: dict[str, Any] = {}
        self._began = 0
        self._random: dict[str, Any] | None = None
        self._draws: bool | None = None
        self._eval_on_start = False

    # -- in the order of the hooks ---------------------------------------------------------------------------

    def begin(self) -> None:
        """The Trainer has restored model, optimizer, scheduler and its own state, and is about to begin an epoch."""
        trainer, resume = self._trainer, self._given
        # with auto_find_batch_size a Trainer may begin again
        self._resume, self._ended, self._metrics = resume, None, {}
        self._epochs = int(trainer.state.epoch or 0)
        if resume is not None:
            loop = resume.rest["loop"]
            self._epochs = loop["epoch"]
            if resume.skip:
                inner.put_step(trainer, loop["trainer"]["global_step"])
            trainer.current_flos = 0
            trainer.state.best_model_checkpoint = states.best_folder(trainer)
            # an uninterrupted training evaluates at its start only
            self._eval_on_start, trainer.args.eval_on_start = trainer.args.eval_on_start, False
        self._tracker.schedule.start(step=trainer.state.global_step)

    def begin_epoch(self) -> None:
        """The epoch before is complete; the Trainer has yet to restore the random states and to ask for data."""
        self._settle()
        resume, self._resume = self._resume, None
        if resume is not None:
            self._restore(resume.rest)
        self._start = {"rng": _random.capture(), **states.of_loader(self._loader)}
        self._began = self._trainer.state.global_step
        self.trained = True

    def end_step(self) -> None:
        """The step is done, and not yet logged."""
        if self._tracker.schedule.within_epochs and self._draws is None:
            self._random = _random.capture()

    def begin_step(self) -> None:
        """The step before is complete, and the data of this one loaded."""
        if not self._tracker.schedule.within_epochs:
            return
        self._watch_draws()
        step = self._trainer.state.global_step
        if step == self._began:
            # the epoch has begun, and its first data are loaded: a restart would begin it once more
            return
        reason = ranks.from_first(lambda: self._tracker.due(step=step))
        if reason is not None:
            evaluated = self._evaluated == step
            at_step = {name: value for name, (at, value) in self._metrics.items() if at == step}
            self._save(reason, epoch=self._epochs - 1, metrics=at_step if evaluated else None, inside=True)

    def end_epoch(self, *, stops: bool) -> None:
        """All steps are done; unless the training `stops`, which it may do inside the epoch."""
        whole = not stops or float(self._trainer.state.epoch).is_integer()
        self._epochs += whole
        self._ended = whole
        self._random = None

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """An evaluation inside the training."""
        self._evaluated = self._trainer.state.global_step
        self.logged(metrics)

    def logged(self, logs: Mapping[str, Any]) -> None:
        """The Trainer's log: losses, an evaluation's metrics, or its last words."""
        if states.is_summary(logs):
            # after this the Trainer may load its best model
            self._settle(last=True)
            return
        step, self._random = self._trainer.state.global_step, None
        for name, value in states.lasting(logs).items():
            if name != "epoch" and (isinstance(value, Number) or hasattr(value, "item")):
                self._metrics[name] = (step, value)

    def end(self) -> None:
        """The training is over."""
        self._settle(last=True)
        if not self.trained and self._resume is not None:
            # what the script does next is to find the random states that the training left
            _random.restore(self._resume.rest["rng"])
        self.leave()

    def leave(self) -> None:
        """Puts back what was changed for the time of the training. Idempotent."""
        if self._eval_on_start:
            self._trainer.args.eval_on_start, self._eval_on_start = True, False

    # -- behind ----------------------------------------------------------------------------------------------

    @property
    def _loader(self) -> Any:
        return self._trainer.callback_handler.train_dataloader

    def _restore(self, rest: Mapping[str, Any]) -> None:
        self.leave()
        states.put_callbacks(self._trainer.callback_handler.callbacks, rest["callbacks"])
        first = {"rng": rest["rng"], "data": rest["data"], "loss": rest["loop"]["loss"]}
        ranked = [first, *rest.get("ranks", [])]
        rank = self._trainer.args.process_index
        own = ranked[rank] if rank < len(ranked) else first
        states.put_loader(self._loader, own["data"])
        if rank < len(ranked):
            inner.put_running_loss(self._trainer, own["loss"])
            # inside an epoch the Trainer restores the random states only after the order of the data has been drawn
            _random.restore(own["data"].get("rng", own["rng"]))

    def _settle(self, *, last: bool = False) -> None:
        """Saves the epoch that has ended, if it is due and not done yet."""
        whole, self._ended = self._ended, None
        if whole is None:
            return
        step, epoch = self._trainer.state.global_step, self._epochs - 1
        finished = epoch if whole else None
        reason = ranks.from_first(lambda: self._tracker.due(epoch=finished, step=step) or ("end" if last else None))
        if reason is not None:
            metrics = {name: value for name, (_, value) in self._metrics.items()}
            self._save(reason, epoch=epoch, metrics=metrics, inside=not whole, stopped=last and self._is_stopped())
        self._metrics = {}

    def _is_stopped(self) -> bool:
        """A callback stopped the training before its last step."""
        state = self._trainer.state
        return bool(self._trainer.control.should_training_stop and state.global_step < state.max_steps)

    def _save(
        self, reason: str, *, epoch: int, metrics: Mapping[str, Any] | None, inside: bool, stopped: bool = False
    ) -> None:
        trainer = self._trainer
        data = self._start if inside else states.of_loader(self._loader)
        each = {"rng": _random.capture(), "data": data, "loss": inner.running_loss(trainer)}
        own, *others = ranks.gather(each)
        if not trainer.is_world_process_zero():
            return
        loop = {"fit": self._number, "epoch": self._epochs, "stopped": stopped, "loss": own["loss"]}
        state = {
            **states.large(trainer),
            "rng": own["rng"],
            "loop": {**loop, "trainer": states.of_trainer(trainer)},
            "data": own["data"],
            "callbacks": states.of_callbacks(trainer.callback_handler.callbacks),
        }
        if others:
            state["ranks"] = others
        step = trainer.state.global_step
        self._tracker.save(state, epoch=epoch if epoch >= 0 else None, step=step, metrics=metrics, reason=reason)

    def _watch_draws(self) -> None:
        """Nothing but the loading of data lies between the end of a step and this, unless it was evaluated."""
        before, self._random = self._random, None
        if before is None or self._draws is not None:
            return
        self._draws = not _same(before, _random.capture())
        if self._draws:
            warnings.warn(
                "the training data draw random numbers as they are loaded, and a Trainer that continues inside an "
                "epoch does not load the samples before it again: every='1 epoch' continues exactly",
                CheckpointWarning,
                stacklevel=2,
            )


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping):
        return all(_same(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)):
        return all(map(_same, first, second))
    if isinstance(first, float) and math.isnan(first):
        return True
    same = first == second
    return bool(same.all()) if hasattr(same, "all") else bool(same)
