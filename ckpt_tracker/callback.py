"""What every framework's `CheckpointTracker` is besides its framework's callback."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.records import Mode
from ckpt_tracker.retention import Retention
from ckpt_tracker.run import Run
from ckpt_tracker.store import Store
from ckpt_tracker.tracker import OnError, Tracker


class TrackerCallback:
    """What a framework's callback adds to be a `CheckpointTracker`: the keywords, and a look at the run.

    Mixed in before the framework's own class, whose constructor gets the keywords that are not ours.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        run: str | None = None,
        *,
        monitor: str | None = None,
        mode: Mode | None = None,
        every: str | Sequence[str] = "1 epoch",
        keep: Retention | str | None = None,
        resume: str = "auto",
        config: Mapping[str, Any] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self._tracker = Tracker(
            store,
            run,
            monitor=monitor,
            mode=mode,
            every=every,
            keep=keep,
            resume=resume,
            config=config,
            on_error=on_error,
        )
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
