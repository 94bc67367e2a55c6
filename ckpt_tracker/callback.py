"""What every framework's `CheckpointTracker` is besides its framework's callback."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.options import TrackerOptions
from ckpt_tracker.run import Run
from ckpt_tracker.store import Store
from ckpt_tracker.tracker import Tracker

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TrackerCallback:
    """What a framework's callback adds to be a `CheckpointTracker`: the keywords, and a look at the run.

    Mixed in before the framework's own class, whose constructor gets the keywords that are not ours.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        run: str | None = None,
        **options: Unpack[TrackerOptions],
    ) -> None:
        self._tracker = Tracker(store, run, **options)
        super().__init__()

    @property
    def store(self) -> Store:
        """The store; opened when first asked for."""
        return self._tracker.store

    @property
    def run(self) -> Run:
        """The run; started when first asked for."""
        return self._tracker.run

    @property
    def resumed_from(self) -> Checkpoint | None:
        """The checkpoint that the training continued from, or None."""
        return self._tracker.resumed_from

    def close(self) -> None:
        """Waits until everything saved is durable, and gives the run back."""
        self._tracker.close()
