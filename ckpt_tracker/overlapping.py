"""A checkpoint that is copied while the training computes: it exists once that has ended, and nothing has changed."""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ckpt_tracker.errors import CkptTrackerError

if TYPE_CHECKING:
    from ckpt_tracker.run import Run
    from ckpt_tracker.run_writer import Capture

_log = logging.getLogger("ckpt_tracker")


class Overlapping:
    """Of one training: at most one such checkpoint at a time. `submit` makes it one, `say` warns once by a key."""

    _all: ClassVar[weakref.WeakSet[Overlapping]] = weakref.WeakSet()

    def __init__(self, submit: Callable[[Capture, Mapping[str, Any]], object], say: Callable[[str, str], None]) -> None:
        self.possible = True
        """Until something has changed that was said to be steady."""
        self.missed: str | None = None
        """The reason of a checkpoint that could not be taken because of that; until another one is."""
        self._submit = submit
        self._say = say
        self._copying: tuple[Run, Capture, Mapping[str, Any]] | None = None
        Overlapping._all.add(self)

    def begin(self, run: Run, capture: Capture, told: Mapping[str, Any]) -> None:
        """The capture may still be on its way; `told` is what the checkpoint has besides."""
        self._copying = run, capture, told
        if capture.state.copying is None:
            self.settle()

    def settle(self) -> None:
        """What is being copied may change once this returns."""
        if self._copying is None:
            return
        (run, capture, told), self._copying = self._copying, None
        capture, changed = run.settle(capture)
        if changed is None:
            self._submit(capture, told)
            return
        run.discard(capture)
        self.possible, self.missed = False, told["reason"]
        self._say(
            "overlap",
            f"{changed} was changed while it was being copied, and not by its optimizer: that checkpoint is taken at "
            "the next consistent point instead, and overlap=True has no effect from here on",
        )

    @classmethod
    def _settle_all(cls) -> None:
        for each in list(cls._all):
            try:
                each.settle()
            except CkptTrackerError as error:
                _log.error("%s", error)


# after that of the writer, and so called before it waits for what is queued
atexit.register(Overlapping._settle_all)
