"""The data of a Trainer's epoch: how far it is, and how a restart gets there again.

Of the batches behind a position, one was loaded before the step before it, since a loader of accelerate's is one batch
ahead, and the others are loaded when the next step asks for them. So a position consists of the random states at these
two moments, and of those with which the epoch began, from which come the order and the seeds of the workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations._transformers.random import Generators, Moment, same

_log = logging.getLogger("ckpt_tracker")


@dataclass(frozen=True)
class Position:
    """Between two steps of an epoch, before the data of the second are asked for."""

    batches: int
    ahead: Moment | None
    """When the newest of them was asked for, and so the one after it loaded."""
    now: Moment


class Feed:
    """The batches of one epoch, on their way to the Trainer."""

    def __init__(self, batches: Iterator[Any], generators: Generators, *, given: int = 0, stream: bool = False) -> None:
        self.failed: BaseException | None = None
        """What the data raised instead of a batch."""
        self.ended = False
        self.given = given
        self.draws = False
        """They are a stream, and draw random numbers of this process as they are loaded."""
        self._batches = batches
        self._generators = generators
        self._stream = stream
        self._before: Moment | None = None

    def position(self) -> Position:
        """Where it is, when nothing is on its way."""
        return Position(self.given, self._before, self._generators.take())

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._before = self._generators.take()
        try:
            batch = next(self._batches)
        except StopIteration:
            self.ended = True
            raise
        except Exception as error:
            self.failed = error
            raise
        # with the first one a loader draws its workers' seeds
        if self._stream and self.given and not self.draws:
            self.draws = not same(self._before, self._generators.take())
        self.given += 1
        return batch


def again(loader: Any, generators: Generators, saved: Mapping[str, Any], now: Moment, *, epoch: int) -> Feed:
    """The batches of an epoch from a position on, as they were. Raises StateMismatch where the data end before it.

    Where this process loads them, and none depends on another, those before the position are not loaded again.
    """
    from accelerate import skip_first_batches  # type: ignore[import-untyped]

    batches = saved.get("batches", 0)
    begin_epoch(loader, epoch)
    generators.put(saved.get("start", now))
    here = getattr(loader, "num_workers", 0) == 0 and not is_stream(loader)
    skipped = max(batches - 2, 0) if here else 0
    if batches - skipped > 2:
        _log.info("loading the %d batches before the position once more", batches)
    iterator = iter(skip_first_batches(loader, skipped) if skipped else loader)
    for number in range(skipped + 1, batches + 1):
        if number == batches and saved["ahead"] is not None:
            generators.put(saved["ahead"])
        if next(iterator, None) is None:
            raise StateMismatch(
                f"the checkpoint was taken after batch {batches} of an epoch, and the data end after {number - 1}: "
                "use the same data and batch size"
            )
    generators.put(now)
    return Feed(iterator, generators, given=batches, stream=is_stream(loader))


def begin_epoch(loader: Any, epoch: int) -> None:
    """Says to a loader, and to the sampler inside its part for this process, which epoch begins."""
    inside = getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None)
    for each in (loader, inside):
        begin = getattr(each, "set_epoch", None)
        if begin is not None:
            begin(epoch)


def is_stream(loader: Any) -> bool:
    """Its samples have no numbers."""
    from torch.utils.data import IterableDataset

    return isinstance(getattr(loader, "dataset", None), IterableDataset)


def has_length(loader: Any) -> bool:
    """How many batches an epoch has is known beforehand."""
    try:
        return len(loader) >= 0
    except TypeError:
        return False
