"""Several processes that train together: what they decide together, and who writes.

The first process holds the run and writes its checkpoints. A decision that one of them made alone would leave the
others waiting for it for ever; so whether to save, and whether to stop after a signal, is agreed on by all, at points
that all come to. Nothing is sent from a background thread.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.integrations._shared.leaving import Agreement
from ckpt_tracker.tracker import Tracker

T = TypeVar("T")

_MEETING = timedelta(minutes=10)


class Ranks:
    """The processes of one training. All of them have to call the same methods in the same order."""

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.count = distributed.get_world_size() if together else 1
        self.rank = distributed.get_rank() if together else 0
        self._group: Any = None
        if self.several:
            # collectives on the CPU wait for no device
            on_cpu = distributed.get_backend() == "gloo"
            self._group = distributed.group.WORLD if on_cpu else distributed.new_group(backend="gloo")
            self._meet()

    def _meet(self) -> None:
        try:
            distributed.monitored_barrier(self._group, timeout=_MEETING)
        except RuntimeError as error:
            raise InvalidOption(
                f"this is process {self.rank} of {self.count} that train together, and not all of them have made their "
                "tracker: it belongs into every one, as the first alone writes by itself"
            ) from error

    @property
    def several(self) -> bool:
        return self.count > 1

    @property
    def first(self) -> bool:
        """This process holds the run."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, _on_cpu(value), group=self._group)
        return values

    def from_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, or the error that it raises, in all of them."""
        if not self.several:
            return compute()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = compute()
            except Exception as error:
                box[1] = error
        distributed.broadcast_object_list(box, src=0, group=self._group)
        if box[1] is not None:
            raise box[1]
        return box[0]  # type: ignore[no-any-return]

    def highest(self, number: int) -> int:
        """The highest number of all."""
        if not self.several:
            return number
        highest = torch.tensor(number)
        distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=self._group)
        return int(highest)


def _on_cpu(value: Any) -> Any:
    """A tensor of another process' device is not to come out on that device here."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if type(value) is dict:
        return {key: _on_cpu(each) for key, each in value.items()}
    return type(value)(map(_on_cpu, value)) if type(value) in (list, tuple) else value


class Decisions:
    """When to save, and whether to stop: the same in every process."""

    def __init__(self, tracker: Tracker, ranks: Ranks) -> None:
        self._tracker = tracker
        self._ranks = ranks
        self._agreement = Agreement(tracker, highest=ranks.highest)

    def due(self, *, epoch: int | None = None, step: int) -> str | None:
        """Why to save now, or None."""
        tracker = self._tracker
        if not self._ranks.several:
            return tracker.due(epoch=epoch, step=step)
        decides = self._ranks.first and tracker.interruption is None
        return self._agreement.reach(tracker.triggered(epoch=epoch, step=step) if decides else None)

    @property
    def asked(self) -> bool:
        """A signal is to be answered once what was saved is durable."""
        return self._agreement.asked is not None

    def leave(self) -> None:
        """With the checkpoint durable, what the signal asks for."""
        self._agreement.leave()
