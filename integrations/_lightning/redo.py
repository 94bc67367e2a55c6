"""Validations that are broken off, and done once more by the resumed training.

A validation changes random states and metrics, but not the model. So what it changes is kept from its begin, and a
checkpoint taken inside it has that: it is one of the moment before the validation, and begins it again. Where more has
changed, or might have, there is no such checkpoint, and the validation's end is waited for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ckpt_tracker.integrations._lightning import metrics
from ckpt_tracker.integrations._lightning import state as states
from ckpt_tracker.integrations._lightning.random import Randomness, generators_of
from ckpt_tracker.integrations._lightning.trainer import named
from ckpt_tracker.integrations._shared import generators as _generators

_HOOKS = tuple(f"on_validation_{each}" for each in ("start", "epoch_start", "batch_start", "batch_end", "epoch_end"))
_STATE = ("state_dict", "on_save_checkpoint")
# they change nothing that outlives the validation, or no two trainings have it alike
_HARMLESS = ("Timer", "WeightAveraging", "CheckpointTracker", "Front")


class Redo:
    """Watches the validations of one `fit`."""

    def __init__(self, trainer: Any, random: Randomness) -> None:
        self.begin: dict[str, Any] | None = None
        """What is to be restored before the validation that goes on now; None outside of one."""
        self._trainer = trainer
        self._random = random
        self._loop: Any = None
        self._restore: Callable[[], None] | None = None

    @property
    def pending(self) -> bool:
        """The next validation is one to do once more."""
        return self._restore is not None

    def watch(self) -> None:
        """From now on."""
        self._loop = loop = self._trainer.fit_loop.epoch_loop.val_loop
        reset = type(loop).reset.__get__(loop)

        def begin() -> None:
            if not self._trainer.sanity_checking:
                self._begins()
            reset()

        loop.reset = begin

    def release(self) -> None:
        """Leaves the validation loop as it was."""
        if self._loop is not None:
            self._loop.__dict__.pop("reset", None)
            self._trainer.fit_loop.epoch_loop.__dict__.pop("_should_check_val_fx", None)

    def again(self, restore: Callable[[], None]) -> None:
        """Lets the training go on with a validation; `restore` is called before anything of it."""
        epoch_loop = self._trainer.fit_loop.epoch_loop
        self._restore = restore
        epoch_loop.val_loop._restart_stage = "restarted_mid_evaluation"
        # the interval may be one of time, which has begun anew
        epoch_loop._should_check_val_fx = lambda fetcher: True

    def restore_now(self) -> None:
        """Where no validation comes."""
        restore, self._restore = self._restore, None
        self._trainer.fit_loop.epoch_loop.__dict__.pop("_should_check_val_fx", None)
        if restore is not None:
            restore()

    def put_begin(self, checkpoint: dict[str, Any], mine: dict[str, Any], loop: dict[str, Any]) -> None:
        """Puts into the parts of a checkpoint what they were at the begin of the validation."""
        begin = self.begin
        assert begin is not None
        checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = begin["progress"]
        mine.update({key: begin[key] for key in ("validation", "torchmetrics", "monitored")})
        loop["modes"] = begin["modes"]

    def ends(self) -> None:
        """What the validation changes is not kept any more."""
        self.begin = None

    @contextlib.contextmanager
    def at_begin(self) -> Iterator[bool]:
        """Within it, the model is as it was at the begin of the validation; False where that can't be had."""
        begin = self.begin
        if begin is None or any(map(_takes_part, self._trainer.callbacks)):
            yield False
            return
        with _current_weights(self._trainer):
            yield begin["weights"] == _mark(self._trainer.lightning_module) is not None

    def _begins(self) -> None:
        trainer = self._trainer
        if self.pending:
            self.restore_now()
            self._loop.restarting = False
        module = trainer.lightning_module
        self.begin = {
            "random": self._random.capture(),
            "validation": _generators.capture(generators_of(trainer.val_dataloaders)),
            "torchmetrics": metrics.metric_states(module, copied=True),
            "monitored": metrics.monitored(trainer),
            "modes": states.modes(module),
            "progress": self._loop.batch_progress.state_dict(),
            "weights": _mark(module),
        }


def _takes_part(callback: Any) -> bool:
    """The callback has a state, which may change during a validation, and not only at its end."""
    if any(named(callback, name) for name in _HARMLESS):
        return False
    return any(_overrides(callback, each) for each in _STATE) and any(_overrides(callback, each) for each in _HOOKS)


def _overrides(callback: Any, name: str) -> bool:
    method = getattr(type(callback), name, None)
    return method is not None and method.__module__.split(".")[-2:] != ["callbacks", "callback"]


@contextlib.contextmanager
def _current_weights(trainer: Any) -> Iterator[None]:
    """A validation is done with the averaged weights, where there are such."""
    averaging = [each for each in trainer.callbacks if named(each, "WeightAveraging")]
    for each in averaging:
        each.on_validation_epoch_end(trainer, trainer.lightning_module)
    try:
        yield
    finally:
        for each in averaging:
            each.on_validation_epoch_start(trainer, trainer.lightning_module)


def _mark(module: Any) -> bytes | None:
    """Enough of the weights to notice that they are others; None where they are of a kind that can't be added up."""
    import torch

    tensors = [each.detach() for each in (*module.parameters(), *module.buffers()) if each.numel()]
    try:
        rows = [each if each.dim() == 0 else each[:1] for each in tensors]
        sums = [(each.abs() if each.is_complex() else each).double().sum() for each in rows]
        return torch.stack([each.to(sums[0].device) for each in sums]).cpu().numpy().tobytes() if sums else b""
    except (RuntimeError, TypeError):
        return None
