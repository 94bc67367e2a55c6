"""The callback that stands before all others; the tracker itself, being a Checkpoint, stands behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpt_tracker.integrations._lightning.flavour import flavoured

if TYPE_CHECKING:
    from ckpt_tracker.integrations._lightning.fit import Fit


class Front:
    """Tells a fit what happens before any other callback has done anything about it."""

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
        self._fit.restoring.check()

    def on_before_optimizer_step(self, *args: Any) -> None:
        """The gradients are there, and the weights are about to change."""
        self._fit.settle()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Nothing of it has happened; it may be done with other weights."""
        self._fit.settle()
        self._fit.validation_begins()

    def on_validation_batch_end(self, *args: Any) -> None:
        """A batch is through."""
        self._fit.validation_goes_on()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Callbacks are about to take up its metrics."""
        self._fit.validation_over()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The epoch's averages are about to be looked at."""
        self._fit.restoring.epoch_ends()
        self._fit.complete_averages()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """There is no next epoch, and averages may become the weights."""
        self._fit.turn(last=True)
        self._fit.settle()
