"""Tracker: what every training loop needs and no framework knows of: a run, triggers, retention, and where to resume.

    tracker = Tracker("checkpoints", "mnist", monitor="val_loss", mode="min")
    resumed = tracker.begin()                   # the checkpoint to continue from, or None
    state = tracker.take_state()                # its state, to put into the loop's objects
    reason = tracker.due(epoch=0, step=118)     # at each consistent point
    tracker.save({"model": ...}, epoch=0, step=118, metrics={"val_loss": 0.4}, reason=reason)
    tracker.close(finished=True)

The integrations' `CheckpointTracker`s hold one of these each.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ckpt_tracker import guard, options, resuming, trial
from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.disk.jsonfile import plain
from ckpt_tracker.errors import CheckpointWarning, CkptTrackerError, RunBusy, SaveFailed, add_note
from ckpt_tracker.overlapping import Overlapping
from ckpt_tracker.retention.keeping import TRACKER
from ckpt_tracker.run import Run, as_number
from ckpt_tracker.run_writer import Capture
from ckpt_tracker.selection import check_run_name
from ckpt_tracker.signals import SignalWatch
from ckpt_tracker.store import Store
from ckpt_tracker.triggers import Schedule
from ckpt_tracker.upkeep import Upkeep
from ckpt_tracker.writer import EXIT_SECONDS, not_durable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ckpt_tracker.options import TrackerOptions

_log = logging.getLogger("ckpt_tracker")
_LAST_FREE_SECONDS = 5.0
"""How long a training's end waits for the saves of others: what it could not free by then is left to a gc."""


class Tracker:
    """One training's hold on one run. The keywords are those of every `CheckpointTracker`.

    Making it checks the options and touches no disk. Raises InvalidOption.
    """

    _active: ClassVar[dict[tuple[str, str], Tracker]] = {}

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        run: str | None = None,
        **given: Unpack[TrackerOptions],
    ) -> None:
        if run is not None:
            check_run_name(run)
        self.options = options.check(**given)
        self.name = run
        """The run's name; None until one without a name begins."""
        self.monitor = self.options.monitor
        self.schedule = Schedule(self.options.triggers)
        self.resumed_from: Checkpoint | None = None
        self.entered = False
        """Held by a `with` block: another tracker of this thread must not take the run over."""
        self.context: dict[str, Any] = {}
        """Plain values that each checkpoint is saved with: what is no state, but makes a resume right or wrong."""
        self.signals = SignalWatch()
        self._given_store = store
        self._given_run = run
        self._config = self.options.config
        self._state: dict[str, Any] | None = None
        self._store: Store | None = None
        self._run: Run | None = None
        self._thread = 0
        self._begun = False
        self._warned: set[str] = set()
        self._newest: Checkpoint | None = None
        self._upkeep: Upkeep | None = None
        self._overlapping = Overlapping(self._submit, self.warn_once)
        self._behind = False

    # -- from begin to close ---------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Between `begin` and `close`."""
        return self._run is not None

    @property
    def store(self) -> Store:
        """The store; opened when first asked for."""
        if self._store is None:
            given = trial.folder() or self._given_store
            self._store = given if isinstance(given, Store) else Store(given)
        return self._store

    @property
    def run(self) -> Run:
        """The run; named and started when first asked for."""
        if self._run is None:
            if self.name is None:
                self.name = trial.RUN if trial.folder() else resuming.fresh_name()
            return self.store.run(self.name, self._config, unnamed=self._given_run is None)
        return self._run

    def begin(self, *, config: Mapping[str, Any] | None = None) -> Checkpoint | None:
        """Takes the run, and returns the checkpoint to continue from, with its state read and verified; or None.

        A tracker resumes once: begun again after `close`, it goes on recording and returns None.
        Raises RunBusy when another training has the run, CheckpointNotFound, Damaged, StoreReadOnly.
        """
        if self.active:
            return None
        self._config = {**(config or {}), **self._config}
        if self._given_run is None and self.name is None:
            resuming.mention_interrupted(self.store)
        run = self.run
        self._take_over(run)
        run.writer()
        self._run, self._thread = run, threading.get_ident()
        self._upkeep = Upkeep(self.store, self.options.keep)
        Tracker._active[self._key(run)] = self
        try:
            resumed = None if self._begun else self._resume(run)
        except BaseException:
            self._release()
            raise
        self._begun = True
        self.schedule.start(step=resumed.step or 0 if resumed else 0)
        self.signals.start()
        return resumed

    def continue_from(self, checkpoint: Checkpoint | None) -> None:
        """The training goes on from that checkpoint, or from none: the next one's parent, with the overrides."""
        self.resumed_from = checkpoint
        if self._run is not None:
            self._run.continue_from(checkpoint, overrides=self.options.overrides)

    def take_state(self) -> dict[str, Any]:
        """The state of `resumed_from`, handed over once. Empty where there is nothing to restore."""
        state, self._state = self._state, None
        return state or {}

    def due(self, *, epoch: int | None = None, step: int | None = None) -> str | None:
        """Why a checkpoint is due, or None. Give `epoch`, the 0-based epoch that has ended, at an epoch's end only.

        A signal that has come is a reason at any consistent point, whatever the triggers are.
        """
        if self.interruption:
            return self.interruption
        reason = self.triggered(epoch=epoch, step=step)
        if reason is None or self._newest is None or self._newest.done:
            return reason
        self._say_behind(reason)
        return reason if self.options.backpressure == "wait" else None

    def triggered(self, *, epoch: int | None = None, step: int | None = None) -> str | None:
        """`due` as far as triggers go, and what they wanted and could not get because something had changed."""
        return self._overlapping.missed or self.schedule.due(epoch=epoch, step=step)

    @property
    def overlapping(self) -> bool:
        """What is captured now may be copied while the training goes on, with `save_overlapped`."""
        return self.options.overlap and self._overlapping.possible and self.interruption is None

    @property
    def interruption(self) -> str | None:
        """The signal that asked the training to stop, and is not answered yet: `SIGTERM`, `KeyboardInterrupt`, …"""
        return self.signals.reason

    def leave(self) -> None:
        """Answers a signal: raises KeyboardInterrupt, or SystemExit, unless the script has a handler of its own.

        Saving does that by itself, once the checkpoint is durable.
        """
        self.signals.leave()

    def save(
        self,
        state: Mapping[str, object],
        *,
        epoch: int | None,
        step: int | None,
        metrics: Mapping[str, Any] | None,
        reason: str | None = None,
        leave: bool = True,
    ) -> Checkpoint:
        """Captures the state, writes it in the background, and lets retention work once it is durable.

        After a signal it waits for that, and then answers the signal, unless `leave` is left to the caller.
        """
        capture = self.capture(state)
        return self.submit(capture, epoch=epoch, step=step, metrics=metrics, reason=reason, leave=leave)

    def save_overlapped(
        self,
        state: Mapping[str, object],
        *,
        steady: frozenset[int],
        epoch: int | None,
        step: int | None,
        metrics: Mapping[str, Any] | None,
        reason: str | None = None,
    ) -> None:
        """`save`, with tensors at `steady` addresses copied in a thread: `settle` has to be called before they change.

        The checkpoint exists from then on. Where one has changed all the same, another is due at once, and from then on
        nothing is `overlapping`.
        """
        capture = self.capture(state, steady=steady)
        told = self._told(epoch=epoch, step=step, metrics=metrics, reason=reason)
        self._overlapping.begin(self.run, capture, told)

    def settle(self) -> None:
        """What is being copied may change once this returns."""
        self._overlapping.settle()

    def capture(self, state: Mapping[str, object], *, steady: frozenset[int] = frozenset()) -> Capture:
        """The first half of `save`: the state may change when it returns, but for what is at `steady` addresses."""
        self.settle()
        self._overlapping.missed = None
        self._facing_errors(self.run.writer().raise_pending)
        return self.run.capture(state, steady=steady)

    def discard(self, capture: Capture) -> None:
        """Forgets a capture."""
        self.run.discard(capture)

    def submit(
        self,
        capture: Capture,
        *,
        epoch: int | None,
        step: int | None,
        metrics: Mapping[str, Any] | None,
        reason: str | None = None,
        leave: bool = True,
    ) -> Checkpoint:
        """The second half of `save`. `metrics` is None inside an epoch, where none are expected."""
        newest = self._submit(capture, self._told(epoch=epoch, step=step, metrics=metrics, reason=reason))
        if leave and self.interruption:
            self._facing_errors(newest.wait)
            self.leave()
        return newest

    def _told(
        self, *, epoch: int | None, step: int | None, metrics: Mapping[str, Any] | None, reason: str | None
    ) -> dict[str, Any]:
        """What a checkpoint has besides its state, as it is now."""
        numbers = self._numbers(metrics or {})
        if self.monitor and metrics is not None and self.monitor.metric not in numbers:
            self.warn_once(
                f"metric:{self.monitor.metric}",
                f"the monitored metric {self.monitor.metric!r} is missing "
                f"(there are: {', '.join(sorted(numbers)) or 'none'}): such checkpoints are kept, and not ranked",
            )
        context = plain(self.context)
        return {"epoch": epoch, "step": step, "metrics": numbers, "reason": reason, "context": context}

    def _submit(self, capture: Capture, told: Mapping[str, Any]) -> Checkpoint:
        self.schedule.saved(step=told["step"])
        trial.collect(capture, run=self.run.name, epoch=told["epoch"], step=told["step"])
        self._newest = newest = self.run.submit(capture, then=self._upkeep, **told)
        return newest

    def close(self, *, finished: bool = False, error: BaseException | None = None) -> None:
        """Waits until everything is durable and gives the run back. Idempotent; `begin` may follow.

        Raises, once, a background save's error; not over the training's own `error`, which gets it as a note.
        With on_error="warn" it still raises when the newest checkpoint is not durable.
        """
        run = self._run
        if run is None:
            return
        late: list[str] = []
        try:
            self.settle()
            late = run.writer().drain(EXIT_SECONDS)
            if late:
                raise SaveFailed(not_durable(late, EXIT_SECONDS))
            self._facing_errors(run.writer().raise_pending)
            if self.options.on_error == "warn" and self._newest is not None and error is None:
                self._newest.wait()
            if finished:
                self.store.record_event(run.name, "finish", by=TRACKER)
            self.store.free(seconds=_LAST_FREE_SECONDS)
        except CkptTrackerError as failed:
            if error is None:
                raise
            add_note(error, f"ckpt_tracker: {failed}")
        finally:
            self._release(wait=0.0 if late else EXIT_SECONDS)

    def warn_once(self, key: str, message: str) -> None:
        """Warns (CheckpointWarning) the first time it is called with that key."""
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, CheckpointWarning, stacklevel=4)

    def _say_behind(self, reason: str) -> None:
        """Once: the training saves faster than can be written."""
        if self._behind:
            return
        self._behind = True
        waits = self.options.backpressure == "wait"
        _log.warning(
            "a checkpoint (%s) is due while the one before is still being written: %s; save less often if that goes on",
            reason,
            "the training waits for that" if waits else "it is skipped, for backpressure='skip' says so",
        )

    # -- behind ----------------------------------------------------------------------------------------------

    def _release(self, *, wait: float = EXIT_SECONDS) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        Tracker._active.pop(self._key(run), None)
        try:
            run.close(wait)
        finally:
            self.signals.stop()
            if self._store is not None and self._store is not self._given_store:
                self._store.index.close()

    def _take_over(self, run: Run) -> None:
        """An interrupted notebook cell leaves its tracker open; the same thread starting anew means it is done with."""
        other = Tracker._active.get(self._key(run))
        if other is None or other is self:
            return
        if other.entered or other._thread != threading.get_ident():
            raise RunBusy(
                f"run {run.name!r} is being written by another tracker of this process: close that one first, "
                "or give this training another run name"
            )
        other.close()

    def _key(self, run: Run) -> tuple[str, str]:
        return (str(self.store.path), run.name)

    def _resume(self, run: Run) -> Checkpoint | None:
        """Finds what to continue from, says what has changed since then, and records that the run starts here."""
        resumed, self._state = resuming.choose(self.store, run, self.options.resume, self.monitor)
        start = resuming.Start.of(self._config, monitor=self.monitor)
        if resumed is not None:
            start = replace(start, resumed_from=resumed.ref, overrides=self.options.overrides)
            guard.show(start.changes_since(run.record), ref=resumed.ref)
        self.store.record_event(run.name, "start", **start.details(), keep=str(self.options.keep), by=TRACKER)
        self.continue_from(resumed)
        return resumed

    def _numbers(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        numbers = {}
        for name, value in metrics.items():
            try:
                numbers[str(name)] = as_number(value)
            except (TypeError, ValueError, RuntimeError):
                self.warn_once(f"value:{name}", f"metric {name!r} is {value!r}, which is no number: left out")
        return numbers

    def _facing_errors(self, step: Callable[[], object]) -> None:
        try:
            step()
        except CkptTrackerError as error:
            if self.options.on_error == "raise":
                raise
            told = "; ".join([str(error), *getattr(error, "__notes__", [])])
            warnings.warn(f"a checkpoint was not saved: {told}", CheckpointWarning, stacklevel=4)
