"""CheckpointTracker for a hand-written PyTorch loop.

with CheckpointTracker("checkpoints", "mnist", model=model, optimizer=optimizer,
                       monitor="val_loss", mode="min") as tracker:
    for epoch in tracker.epochs(20):                # begins where the run stopped
        for x, y in tracker.batches(train_loader):  # optional: keeps the position inside the epoch too
            ...
        tracker.log(val_loss=evaluate(model))
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ckpt_tracker.callback import TrackerCallback
from ckpt_tracker.errors import CheckpointWarning, InvalidOption, StateMismatch
from ckpt_tracker.integrations import _random, _stateful
from ckpt_tracker.integrations._position import Position
from ckpt_tracker.run_writer import Capture
from ckpt_tracker.store import Store
from ckpt_tracker.options import TrackerOptions

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

Batch = TypeVar("Batch")
_log = logging.getLogger("ckpt_tracker")


class CheckpointTracker(TrackerCallback):
    """Takes the run, and restores the objects it is given, when it is made; saves as the loop turns.

    `model`, `optimizer`, `scheduler`, `scaler`, `ema` and each value of `extra` are objects with `state_dict()` and
    `load_state_dict()`, generators, or dicts and lists of those. Raises InvalidOption, RunBusy, CheckpointNotFound,
    StateMismatch, Damaged.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        run: str | None = None,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        ema: Any = None,
        extra: Mapping[str, Any] | None = None,
        **options: Unpack[TrackerOptions],
    ) -> None:
        super().__init__(store, run, **options)
        given = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
            "ema": ema,
            "extra": dict(extra) if extra else None,
        }
        self._objects = {name: value for name, value in given.items() if value is not None}
        for name, value in self._objects.items():
            _stateful.check(value, name=name)
        self._metrics: dict[str, Any] = {}
        self._logged = False
        self._epoch = 0
        self._step = 0
        self._finished = False
        self._position = Position()
        self._pending: tuple[Capture, int] | None = None
        self._random: dict[str, Any] | None = None
        self._start()

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
        self._settle(keep=error is None)
        self._tracker.close(finished=self._finished and error is None, error=error)

    @property
    def step(self) -> int:
        """Optimizer steps done, over all epochs and restarts; batches of `batches()` where there is no optimizer."""
        return self._step

    def epochs(self, count: int) -> Iterator[int]:
        """The epochs that are still to do, of `count` in all, as 0-based indexes.

        An epoch's checkpoint is taken when the loop turns, and when it is left by `break` after `log`.
        """
        if self._epoch >= count:
            _log.warning("run %s has its %d epochs: nothing to train", self.run.name, count)
        while self._epoch < count:
            epoch = self._epoch
            self._begin_epoch()
            try:
                yield epoch
            except GeneratorExit:
                # left by break, or by an error: which of the two is known when the tracker closes
                self._hold(epoch)
                raise
            self._end_epoch(epoch, last=epoch == count - 1)
        self._finished = True

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a loader. With it a step or time trigger saves inside the epoch, and resuming goes on there.

        The position is found by loading the batches before it once more.
        """
        if self._random is not None:
            _random.restore(self._random)
        for batch in self._position.iterate(loader):
            step = self._step
            yield batch
            if not self._has_optimizer:
                self._step += 1
            if self._step != step and self._position.consistent:
                self._save_within_epoch()

    def log(self, metrics: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Metrics of the epoch under way, for its checkpoint; numbers or tensors of one element."""
        self._metrics.update(metrics or {}, **more)
        self._logged = True

    def close(self) -> None:
        """What leaving the `with` block does. Raises, once, the error of a save in the background."""
        self._settle(keep=True)
        self._tracker.close(finished=self._finished)

    # -- restoring -------------------------------------------------------------------------------------------

    @property
    def _has_optimizer(self) -> bool:
        return "optimizer" in self._objects

    def _start(self) -> None:
        self._tracker.begin()
        try:
            self._restore(self._tracker.take_state())
        except BaseException as error:
            self._tracker.close(error=error)
            raise
        for optimizer in _optimizers(self._objects.get("optimizer")):
            optimizer.register_step_post_hook(self._count_step)

    def _restore(self, state: dict[str, Any]) -> None:
        if not state:
            return
        saved = {name for name in state if name not in ("rng", "loop", "data")}
        if saved != set(self._objects):
            raise StateMismatch(
                f"this tracker was given {sorted(self._objects)}, and {self.resumed_from!r} holds {sorted(saved)}: "
                "give the tracker the same objects, or use another run name"
            )
        for name, value in self._objects.items():
            _stateful.put(value, state[name], name=name)
        self._epoch, self._step = state["loop"]["epoch"], state["loop"]["step"]
        self._position.resume(state["data"], state["rng"])
        self._random = state["rng"]

    def _count_step(self, *_: object) -> None:
        self._step += 1

    # -- saving ----------------------------------------------------------------------------------------------

    def _begin_epoch(self) -> None:
        self._settle(keep=True)
        self._metrics = {}
        self._logged = False
        self._position.begin_epoch()
        if self._random is not None:
            _random.restore(self._random)
            self._random = None

    def _end_epoch(self, epoch: int, *, last: bool) -> None:
        self._epoch = epoch + 1
        if self._tracker.schedule.within_epochs and not self._position.followed:
            self._say_batches_are_needed()
        reason = self._tracker.due(epoch=epoch, step=self._step) or ("end" if last else None)
        if reason is not None:
            self._tracker.save(self._state(), epoch=epoch, step=self._step, metrics=self._metrics, reason=reason)

    def _save_within_epoch(self) -> None:
        reason = self._tracker.due(step=self._step)
        if reason is not None:
            epoch = self._epoch - 1 if self._epoch else None
            self._tracker.save(self._state(inside=True), epoch=epoch, step=self._step, metrics=None, reason=reason)

    def _state(self, *, inside: bool = False) -> dict[str, Any]:
        state = {name: _stateful.take(value) for name, value in self._objects.items()}
        state["rng"] = _random.capture()
        state["loop"] = {"epoch": self._epoch, "step": self._step}
        state["data"] = self._position.capture(inside=inside)
        return state

    def _hold(self, epoch: int) -> None:
        if not self._logged or not self._tracker.active:
            return
        self._epoch = epoch + 1
        self._pending = (self._tracker.capture(self._state()), epoch)

    def _settle(self, *, keep: bool) -> None:
        """Makes the checkpoint of an epoch that was left by `break`, or forgets it."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        capture, epoch = pending
        if keep:
            self._tracker.submit(capture, epoch=epoch, step=self._step, metrics=self._metrics, reason="break")
        else:
            self._tracker.discard(capture)

    def _say_batches_are_needed(self) -> None:
        message = (
            "a step or time trigger saves inside an epoch only where the loop runs over tracker.batches(loader); "
            "without it, at the epoch's end"
        )
        warnings.warn(message, CheckpointWarning, stacklevel=3)


def _optimizers(value: Any) -> list[Any]:
    """The optimizers whose steps count: the first of several, as in a GAN each batch is one step of each."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return _optimizers(value[0]) if value else []
    if value is None:
        return []
    if not hasattr(value, "register_step_post_hook"):
        raise InvalidOption(f"optimizer is a {type(value).__qualname__}: expected a torch.optim.Optimizer")
    return [value]
