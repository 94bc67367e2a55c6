"""One call of `train`: what happens to its state at which hook.

The Trainer logs, evaluates and steps a plateau scheduler after `on_step_end` and `on_epoch_end`; so a state is complete
when the data of the next step are asked for, when the next epoch begins, or when the training says its last words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

from ckpt_tracker.integrations._shared import overrides as _overrides
from ckpt_tracker.integrations._shared.overlap import Overlap
from ckpt_tracker.integrations._transformers import guard, ranks
from ckpt_tracker.integrations._transformers import state as states
from ckpt_tracker.integrations._transformers import trainer as inner
from ckpt_tracker.integrations._transformers.epoch import Epoch
from ckpt_tracker.tracker import Tracker


@dataclass(frozen=True)
class Resume:
    """What a training continues from: a folder for `train`, and what the Trainer does not find in it."""

    path: str
    rest: Mapping[str, Any]
    skip: bool = False
    """Nothing is to be trained."""
    large: dict[str, Any] = field(default_factory=dict)
    """What is not in the folder, to save the writing of it: model, optimizer and scheduler. Taken out as it is used."""

    @property
    def inside(self) -> bool:
        """It was taken inside an epoch."""
        return "start" in self.rest["data"]


class Fit:
    """From the call of `train` to its end."""

    def __init__(self, tracker: Tracker, trainer: Any, *, number: int, resume: Resume | None) -> None:
        self.trained = False
        self.signalled = False
        """A checkpoint was saved because of a signal."""
        self._tracker = tracker
        self._trainer = trainer
        self._number = number
        self._given = resume
        self._resume: Resume | None = None
        self._epochs = 0
        self._ended: bool | None = None
        self._metrics: dict[str, tuple[int, Any]] = {}
        self._evaluated: int | None = None
        self._epoch: Epoch
        self._began = 0
        self._eval_on_start = False
        self._overlap: Overlap | None = None

    # -- in the order of the hooks ---------------------------------------------------------------------------

    def put_model(self, path: str) -> bool:
        """The Trainer is about to load the model from that folder. False where it has to do so itself."""
        given = self._given
        if given is None or path != given.path or "model" not in given.large:
            return False
        states.put_model(self._trainer, given.large.pop("model"))
        return True

    def begin(self) -> None:
        """The Trainer has restored model, optimizer, scheduler and its own state, and is about to begin an epoch."""
        trainer, resume = self._trainer, self._given
        # with auto_find_batch_size a Trainer may begin again
        self._epoch = Epoch(self._tracker, trainer)
        self._resume, self._ended, self._metrics = resume, None, {}
        self._epochs = int(trainer.state.epoch or 0)
        self._begin_overlap()
        self._tracker.context = guard.facts(trainer, trainer.callback_handler.train_dataloader)
        if resume is not None:
            self._begin_resumed(resume)
        self._tracker.schedule.start(step=trainer.state.global_step)

    def begin_epoch(self) -> None:
        """The epoch before is complete; the Trainer has yet to restore the random states and to ask for data."""
        self._settle()
        resume, self._resume = self._resume, None
        if resume is not None:
            self._restore(resume)
        self._epoch.begin()
        self._began = self._trainer.state.global_step
        self.trained = True

    def fetch(self, fetch: inner.Fetch, batches: Any) -> Any:
        """The step before is complete, and the data of the next are asked for, with `fetch`, from `batches`."""
        step, feed = self._trainer.state.global_step, self._epoch.feed(batches, epoch=self._epochs)
        if step != self._began and not feed.ended:
            reason = self._agree(lambda: self._tracker.due(step=step))
            if reason is not None:
                at_step = {name: value for name, (at, value) in self._metrics.items() if at == step}
                self._save(reason, metrics=at_step if self._evaluated == step else None, inside=True)
        return fetch(feed)

    def end_step(self) -> None:
        """An optimizer step is done, and not yet logged."""
        state = self._trainer.state
        progress = self._epoch.progress(steps=state.max_steps * self._trainer.args.gradient_accumulation_steps)
        if progress is not None:
            state.epoch = self._epochs + progress

    def end_epoch(self, *, stops: bool) -> None:
        """All steps are done; unless the training `stops`, which it may do inside the epoch."""
        whole = not stops or float(self._trainer.state.epoch).is_integer()
        self._epochs += whole
        self._ended = whole

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
        step = self._trainer.state.global_step
        for name, value in states.lasting(logs).items():
            if name != "epoch" and (isinstance(value, Number) or hasattr(value, "item")):
                self._metrics[name] = (step, value)

    def end(self) -> None:
        """The training is over."""
        self._settle(last=True)
        if not self.trained and self._resume is not None:
            # what the script does next is to find the random states that the training left
            self._epoch.end(self._of_this_process(self._resume))
        self.leave()

    def fail(self, error: BaseException) -> None:
        """The training is over because of `error`: where the data raised it, all is as it was before the step."""
        changed = self._trainer.state.global_step != self._began
        if self.trained and changed and self._epoch.failed_with(error) and not ranks.together():
            self._save("exception", metrics=None, inside=True, leave=False)

    def leave(self) -> None:
        """Puts back what was changed for the time of the training. Idempotent."""
        self._put_back_arguments()
        if self._overlap is not None:
            self._overlap.release()

    # -- behind ----------------------------------------------------------------------------------------------

    def _begin_overlap(self) -> None:
        """Where asked for, has the optimizer's steps wait for what is being copied."""
        if self._overlap is not None:
            self._overlap.release()
        trainer, tracker = self._trainer, self._tracker
        if tracker.options.overlap and trainer.is_world_process_zero():
            optimizers = [inner.optimizer(trainer)]
            self._overlap = Overlap(tracker.settle, models=[trainer.model], optimizers=optimizers)

    def _begin_resumed(self, resume: Resume) -> None:
        trainer, loop = self._trainer, resume.rest["loop"]
        if resume.large:
            states.put_optimizer(trainer, resume.large)
            resume.large.clear()
        if resume.skip:
            inner.put_step(trainer, loop["trainer"]["global_step"])
        else:
            ranks.from_first(lambda: guard.compare(self._tracker, inside=resume.inside))
        self._epochs = loop["epoch"]
        self._metrics = {name: tuple(each) for name, each in loop.get("metrics", {}).items()}
        trainer.current_flos = 0
        states.name_callbacks(trainer)
        trainer.state.best_model_checkpoint = states.best_folder(trainer)
        # an uninterrupted training evaluates at its start only
        self._eval_on_start, trainer.args.eval_on_start = trainer.args.eval_on_start, False
        _overrides.apply([trainer.optimizer], [trainer.lr_scheduler], self._tracker.options.overrides)

    def _put_back_arguments(self) -> None:
        if self._eval_on_start:
            self._trainer.args.eval_on_start, self._eval_on_start = True, False

    def _restore(self, resume: Resume) -> None:
        self._put_back_arguments()
        trainer, own = self._trainer, self._of_this_process(resume)
        states.put_callbacks(trainer.callback_handler.callbacks, resume.rest["callbacks"])
        inner.put_running_loss(trainer, own["loss"])
        evaluated = self._number > 0 or states.has_evaluated(trainer)
        self._epoch.resume(own, resume.path, trained=self._epochs > 0, evaluated=evaluated)

    def _of_this_process(self, resume: Resume) -> dict[str, Any]:
        rest = resume.rest
        first = {"rng": rest["rng"], "data": rest["data"], "loss": rest["loop"]["loss"]}
        ranked: list[dict[str, Any]] = [first, *rest.get("ranks", [])]
        rank = self._trainer.args.process_index
        return ranked[rank] if rank < len(ranked) else first

    def _settle(self, *, last: bool = False) -> None:
        """Saves the epoch that has ended, if it is due and not done yet."""
        whole, self._ended = self._ended, None
        if whole is None:
            return
        step, finished = self._trainer.state.global_step, self._epochs - 1 if whole else None
        reason = self._agree(lambda: self._tracker.due(epoch=finished, step=step) or ("end" if last else None))
        if reason is not None:
            metrics = {name: value for name, (_, value) in self._metrics.items()}
            self._epoch.stop()
            self._save(reason, metrics=metrics, inside=not whole, stopped=last and self._is_stopped(), last=last)
        self._metrics = {}

    def _is_stopped(self) -> bool:
        """A callback stopped the training before its last step, and that not because of a signal."""
        state = self._trainer.state
        stopped = self._trainer.control.should_training_stop and state.global_step < state.max_steps
        return bool(stopped and not self.signalled and not self._tracker.interruption)

    def _agree(self, due: Callable[[], str | None]) -> str | None:
        return ranks.agree(self._tracker, due, device=self._trainer.args.device)

    def _save(
        self,
        reason: str,
        *,
        metrics: Mapping[str, Any] | None,
        inside: bool,
        stopped: bool = False,
        leave: bool = True,
        last: bool = False,
    ) -> None:
        trainer, tracker = self._trainer, self._tracker
        self.signalled = self.signalled or tracker.interruption is not None
        own, *others = ranks.gather({**self._epoch.state(inside=inside), "loss": inner.running_loss(trainer)})
        operations = sum(ranks.gather(trainer.current_flos))
        if trainer.is_world_process_zero():
            loop = {"fit": self._number, "epoch": self._epochs, "stopped": stopped, "loss": own["loss"]}
            if inside:
                loop["metrics"] = states.plain(self._metrics)
            state = {
                **states.large(trainer),
                "rng": own["rng"],
                "loop": {**loop, "trainer": states.of_trainer(trainer, operations=operations)},
                "data": own["data"],
                "callbacks": states.of_callbacks(trainer.callback_handler.callbacks),
            }
            if others:
                state["ranks"] = others
            epoch, step = self._epochs - 1 if self._epochs else None, trainer.state.global_step
            told: Any = {"epoch": epoch, "step": step, "metrics": metrics, "reason": reason}
            if self._overlap is not None and tracker.overlapping and leave and not last:
                tracker.save_overlapped(state, steady=self._overlap.steady(), **told)
            else:
                tracker.save(state, **told, leave=leave and not others)
        ranks.leave(tracker)
