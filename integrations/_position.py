"""The position inside an epoch of a DataLoader, and the generators that order its samples.

A loader is brought back to a position by replay: the random states of just before its `iter()` are set, the batches
before the position are loaded once more, and the random states of the position are set. That is exact for any
loader whose order and worker seeds come from those states, with workers too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations import _random

Batch = TypeVar("Batch")


class Position:
    """Follows the first loader of each epoch."""

    def __init__(self) -> None:
        self.followed = False
        """A loader was run through in this epoch."""
        self.consistent = False
        """A checkpoint may be taken here: inside the followed loader, with batches still to come."""
        self._batch = 0
        self._start: dict[str, Any] | None = None
        self._generators: list[Any] = []
        self._resume: dict[str, Any] | None = None
        self._random: dict[str, Any] | None = None

    def begin_epoch(self) -> None:
        """A new epoch: its first loader is followed."""
        self.followed = False
        self.consistent = False

    def resume(self, state: dict[str, Any], random: dict[str, Any]) -> None:
        """The next loader begins where `state` says, with the random states of then."""
        self._resume, self._random = state, random

    def capture(self, *, inside: bool) -> dict[str, Any]:
        """The position: `inside` the followed loader, or at an epoch's end."""
        generators = [generator.get_state() for generator in self._generators]
        if not inside:
            return {"batch": 0, "generators": generators, "start": None}
        return {"batch": self._batch, "generators": generators, "start": self._start}

    def iterate(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The loader's batches, from the position to resume at."""
        if self.followed:
            yield from loader
            return
        self.followed = True
        self._generators = _generators(loader)
        iterator = self._begin(loader)
        length = _length(loader)
        for batch in iterator:
            self._batch += 1
            self.consistent = self._batch != length
            yield batch
        self.consistent = False

    def _begin(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        resume, self._resume = self._resume, None
        inside = resume is not None and resume["batch"] > 0
        if resume is not None:
            self._set_generators(resume["start"]["generators"] if inside else resume["generators"])
            if inside:
                _random.restore(resume["start"]["rng"])
        self._start = {"rng": _random.capture(), "generators": [g.get_state() for g in self._generators]}
        iterator = iter(loader)
        self._batch = 0
        if resume is not None and inside:
            self._replay(iterator, resume)
        return iterator

    def _replay(self, iterator: Iterator[Any], resume: dict[str, Any]) -> None:
        for self._batch in range(1, resume["batch"] + 1):
            try:
                next(iterator)
            except StopIteration as error:
                raise StateMismatch(
                    f"the checkpoint was taken after batch {resume['batch']} of an epoch, and this loader "
                    f"ends after {self._batch - 1}: use the same data and batch size"
                ) from error
        self._set_generators(resume["generators"])
        if self._random is not None:
            _random.restore(self._random)

    def _set_generators(self, states: list[Any]) -> None:
        for generator, state in zip(self._generators, states, strict=False):
            generator.set_state(state)


def _generators(loader: Any) -> list[Any]:
    """The loader's own generators, each once."""
    found = [getattr(loader, "generator", None)]
    found.append(getattr(getattr(loader, "sampler", None), "generator", None))
    unique = {id(each): each for each in found if hasattr(each, "get_state")}
    return list(unique.values())


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
