"""What the trackers of hand-written loops have in common: `epochs`, `batches`, `log`, and when these save.

A state is consistent where an optimizer has just stepped, where a loader has come to its end, and where the loop of the
epochs turns. What is done in between is done again by a resumed training.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ckpt_tracker.callback import TrackerCallback
from ckpt_tracker.errors import CkptTrackerError, StateMismatch, add_note
from ckpt_tracker.integrations._loop.snapshot import Snapshot
from ckpt_tracker.integrations._loop.training import Training
from ckpt_tracker.run_writer import Capture
from ckpt_tracker.store import Store

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ckpt_tracker.options import TrackerOptions

Batch = TypeVar("Batch")
_log = logging.getLogger("ckpt_tracker")


class LoopTracker(TrackerCallback):
    """Takes the run, and restores the objects it is given, when it is made; saves as the loop turns."""

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None,
        run: str | None,
        given: Mapping[str, Any],
        *,
        facts: Mapping[str, Any] | None = None,
        **options: Unpack[TrackerOptions],
    ) -> None:
        super().__init__(store, run, **options)
        self._metrics: dict[str, Any] = {}
        self._logged = False
        self._finished = False
        self._open = True
        self._turning = False
        self._yielded = False
        self._stepped = False
        self._left: tuple[Capture | None, int] | None = None
        self._end: int | None = None
        self._has_epochs = False
        self._snapshot: tuple[Snapshot, int] | None = None
        self._training = Training(self._tracker, given, facts=facts or {})
        self._training.start()

    def __enter__(self) -> Self:
        self._tracker.entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tracker.entered = False
        self._open = False
        if isinstance(error, Exception):
            self._rescue(error)
        try:
            self._settle(keep=error is None)
        finally:
            self._training.close(finished=self._finished and error is None, error=error)

    @property
    def step(self) -> int:
        """Optimizer steps done, over all epochs and restarts; batches of `batches()` where there is no optimizer."""
        return self._training.step

    @property
    def batch(self) -> int:
        """The 0-based index of the batch under way in its epoch; after a restart too, unlike a loop's own count."""
        return max(self._training.position.batch - 1, 0)

    def epochs(self, count: int) -> Iterator[int]:
        """The epochs that are still to do, of `count` in all, as 0-based indexes.

        An epoch's checkpoint is taken when the loop turns, and when it is left by `break` after `log`.
        """
        training, self._has_epochs = self._training, True
        if training.epoch >= count and training.ranks.first:
            _log.warning("run %s: %d of %d epochs are done, nothing to train", self.run.name, training.epoch, count)
        while training.epoch < count:
            epoch = training.epoch
            self._turning = True
            self._begin_epoch()
            try:
                yield epoch
            except GeneratorExit:
                # left by break, or by an error: which of the two is known when the tracker closes
                self._leave(epoch)
                raise
            self._end_epoch(epoch, last=epoch == count - 1)
        self._turning = False
        self._finished = True

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a loader. With it a step or time trigger saves inside the epoch, and resuming goes on there.

        The position is found by loading the batches before it once more. Where the training loader is the epoch's
        first, others, to validate with, may follow: a signal that comes meanwhile is answered at their next batch.
        """
        training, position = self._training, self._training.position
        if not self._turning and not training.begun:
            self._begin_epoch()
        if not training.can_follow():
            yield from self._beside(loader)
            return
        training.accept(loader)
        consistent = True
        try:
            for batch in position.iterate(loader):
                step, self._yielded = training.step, True
                yield batch
                if not training.parts.optimizers:
                    training.step += 1
                consistent = training.step != step
                self._stepped = self._stepped or consistent
                if consistent and position.inside:
                    self._save_inside()
        except Exception as error:
            if position.loading and consistent:
                self._save_unloaded(error)
            raise
        except GeneratorExit:  # left by break
            self._end = training.step if training.step != step else None
            raise
        self._end = training.step
        self._end_loader()

    def log(self, metrics: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Metrics of the epoch under way, for its checkpoint; numbers or tensors of one element."""
        self._metrics.update(metrics or {}, **more)
        self._logged = True

    def close(self) -> None:
        """What leaving the `with` block does. Raises, once, the error of a save in the background."""
        self._open = False
        try:
            self._settle(keep=True)
        finally:
            self._training.close(finished=self._finished)

    # -- the turns of the loop -------------------------------------------------------------------------------

    def _begin_epoch(self) -> None:
        self._settle(keep=True)
        self._metrics = {}
        self._logged = self._yielded = self._stepped = False
        self._snapshot = None
        self._training.begin_epoch()

    def _end_epoch(self, epoch: int, *, last: bool) -> None:
        training = self._training
        self._snapshot = None
        if training.position.resuming:
            ref = self.resumed_from.ref if self.resumed_from else "the checkpoint"
            raise StateMismatch(
                f"{ref} was saved inside an epoch, which went by without coming to that place: run over "
                "tracker.batches(loader) before anything else is trained, as when it was saved"
            )
        training.end_epoch()
        seen = self._stepped or (training.position.followed and not training.has_stepped)
        if self._tracker.schedule.within_epochs and not seen:
            training.say(
                "batches",
                "a step or time trigger saves inside an epoch only where the loop that trains runs over "
                "tracker.batches(loader), as the epoch's first; without it, at the epoch's end",
            )
        reason = training.decisions.due(epoch=epoch, step=training.step) or ("end" if last else None)
        if reason is not None:
            training.save(training.state(), reason=reason, epoch=epoch, metrics=self._metrics, last=last)

    def _leave(self, epoch: int) -> None:
        """The loop is left in this epoch: its state is held until it is known why."""
        self._turning = False
        if not self._open:
            return
        training = self._training
        capture = None
        if self._logged:
            training.epoch = epoch + 1
            # several processes gather their states once they know that none of them has met an error
            capture = None if training.ranks.several else self._tracker.capture(training.state())
        self._left = (capture, epoch)

    def _settle(self, *, keep: bool) -> None:
        """Makes the checkpoint of an epoch that was left by `break`, or forgets it."""
        left, self._left = self._left, None
        if left is None:
            self._settle_end(keep=keep and not self._open)
            return
        (capture, epoch), training = left, self._training
        if capture is not None and keep:
            self._tracker.context.pop("batch", None)
            self._tracker.submit(capture, epoch=epoch, step=self.step, metrics=self._metrics, reason="break")
        elif capture is not None:
            self._tracker.discard(capture)
        elif keep and training.ranks.highest(int(self._logged)) and training.ranks.several:
            training.epoch = epoch + 1
            training.save(training.state(), reason="break", epoch=epoch, metrics=self._metrics)

    def _settle_end(self, *, keep: bool) -> None:
        """A training without epochs has come to its end where its loader did, or where a step was followed by break."""
        training, end = self._training, self._end
        if keep and not self._has_epochs and end == training.step and training.has_news and not training.ranks.several:
            training.save_inside("end", last=True)

    # -- between the turns -----------------------------------------------------------------------------------

    def _save_inside(self) -> None:
        reason = self._training.due_inside()
        if reason is not None:
            self._training.save_inside(reason)

    def _end_loader(self) -> None:
        """All batches are through. What follows may take long: from now on a checkpoint of this moment is at hand."""
        training = self._training
        if training.ranks.several or not training.has_news:
            return
        if self._tracker.interruption:
            training.save_inside(self._tracker.interruption)
            return
        try:
            self._snapshot = (Snapshot(training.state(inside=True)), training.parts.steps)
        except (RuntimeError, TypeError):  # something that can't be copied
            self._snapshot = None

    def _beside(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        try:
            for batch in self._training.position.other(loader):
                self._answer()
                yield batch
        except Exception:
            # Ctrl-C reaches a loader's workers too, and then it raises that they are gone
            self._answer()
            raise
        self._answer()

    def _answer(self) -> None:
        if self._tracker.interruption and self._snapshot is not None:
            self._save_snapshot(self._tracker.interruption)

    def _save_snapshot(self, reason: str, *, leave: bool = True) -> None:
        held, self._snapshot = self._snapshot, None
        if held is None:
            return
        snapshot, steps = held
        state = snapshot.state() if steps == self._training.parts.steps else None
        if state is not None:
            epoch = state["loop"]["epoch"]
            self._training.save(state, reason=reason, epoch=epoch - 1 if epoch else None, metrics=None, leave=leave)

    def _save_unloaded(self, error: Exception) -> None:
        """The loader raised an error, between two steps. Ctrl-C reaches its workers too, which makes it raise one."""
        training = self._training
        if training.ranks.several:
            return
        reason = self._tracker.interruption or "exception"
        with _noting(error):
            if training.has_news:
                training.save_inside(reason, failed=True)
            else:
                self._tracker.leave()

    def _rescue(self, error: Exception) -> None:
        """After an error of the script: what was held back is saved, if nothing has changed since."""
        with _noting(error):
            self._save_snapshot("exception", leave=False)
        if self._training.position.whole and not self._yielded and self.resumed_from is not None:
            add_note(
                error,
                f"ckpt_tracker: this epoch was resumed after its last batch ({self.resumed_from.ref}), so the loop "
                "over tracker.batches had no turn: what its body sets, and the code after it uses, has to be there "
                "before it",
            )


@contextlib.contextmanager
def _noting(error: Exception) -> Iterator[None]:
    """What goes wrong with an emergency checkpoint is noted at the error that made it one."""
    try:
        yield
    except CkptTrackerError as failed:
        add_note(error, f"ckpt_tracker: {failed}")
