"""Signals during a `fit`: the tracker's watch stands in for Lightning's, which stops at the end of any batch.

A signal that has come to one rank is a reason to save for all of them at the same step; they leave together once the
checkpoint is durable. In a SLURM job that Lightning requeues, it is requeued then, and not in the signal's handler.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import Any

from ckpt_tracker.integrations._lightning.ranks import Ranks
from ckpt_tracker.integrations._shared.leaving import Agreement
from ckpt_tracker.tracker import Tracker

_log = logging.getLogger("ckpt_tracker")


class Signals:
    """What one `fit` does about signals, and when it saves because of them or of a trigger."""

    def __init__(self, tracker: Tracker, trainer: Any, ranks: Ranks) -> None:
        self._tracker = tracker
        self._trainer = trainer
        self._interrupt: Any = signal.getsignal(signal.SIGINT)
        self._other: tuple[int, Any] | None = None
        self._agreement = Agreement(tracker, highest=ranks.highest)

    # -- the handlers ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """On ranks that do not write, and so have no run."""
        if not self._tracker.active:
            self._tracker.signals.start()
        self._interrupt = signal.getsignal(signal.SIGINT)

    def take_over(self) -> None:
        """Takes Lightning's own handlers away, which it has just put before ours."""
        connector = self._without_lightnings()
        if connector is not None:
            connector.received_sigterm = False
        number: Any = getattr(self._environment, "requeue_signal", None)
        if self._requeues and number not in (None, *_watched()):
            self._other = (number, signal.getsignal(number))
            _install(number, lambda *_: signal.raise_signal(signal.SIGUSR1))

    def stop(self) -> None:
        """Before the run is given back: leaves nothing of Lightning's in the way of the handlers from before."""
        self._without_lightnings()
        if self._other is not None:
            _install(*self._other)
        # at Ctrl-C it ignores all further ones, until its own handlers are gone
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            _install(signal.SIGINT, self._interrupt)
        if not self._tracker.active:
            self._tracker.signals.stop()

    def _without_lightnings(self) -> Any:
        connector = getattr(self._trainer, "_signal_connector", None)
        if connector is not None:
            connector.teardown()
        return connector

    @property
    def _environment(self) -> Any:
        return getattr(getattr(self._trainer, "_accelerator_connector", None), "cluster_environment", None)

    @property
    def _requeues(self) -> bool:
        """Lightning requeues the SLURM job that this is."""
        return bool(getattr(self._environment, "auto_requeue", False))

    # -- saving, and leaving ---------------------------------------------------------------------------------

    def due(self, *, epoch: int | None = None, step: int) -> str | None:
        """Why to save now, the same on all ranks. To be asked on all of them at the same point."""
        trigger = None
        if self._trainer.is_global_zero:
            trigger = self._tracker.triggered(epoch=epoch, step=step)
        return self._agreement.reach(trigger)

    def interrupted(self) -> str | None:
        """The same where nothing but a signal counts."""
        return self._agreement.reach(None)

    @property
    def asked(self) -> bool:
        """A signal is to be answered once what was saved is durable."""
        return self._agreement.asked is not None

    def leave(self) -> None:
        """On all ranks, with the checkpoint durable: what the signal asks for."""
        if self._agreement.asked == "SIGUSR1":
            self._requeue()
        self._agreement.leave()

    def _requeue(self) -> None:
        requeue = getattr(getattr(self._trainer, "_signal_connector", None), "_slurm_sigusr_handler_fn", None)
        if requeue is not None and self._requeues:
            _log.info("requeueing the job")
            with _without_saving(self._trainer):
                requeue(signal.SIGUSR1, None)


def _watched() -> tuple[int, ...]:
    return (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def _install(number: int, handler: Any) -> None:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(number, handler)


@contextlib.contextmanager
def _without_saving(trainer: Any) -> Iterator[None]:
    """Lightning writes a file of its own before it requeues, and would restore that instead."""
    trainer.save_checkpoint = lambda *args, **options: None
    try:
        yield
    finally:
        del trainer.save_checkpoint
