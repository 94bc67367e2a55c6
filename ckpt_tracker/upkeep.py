"""What follows each checkpoint of a training, in the background: retention, and a look at the room that is left."""

from __future__ import annotations

import logging

from ckpt_tracker import trial
from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.retention import Retention, keeping
from ckpt_tracker.store import Store

_log = logging.getLogger("ckpt_tracker")
_FEW = 5


class Upkeep:
    """Called with each checkpoint once it is durable."""

    def __init__(self, store: Store, keep: Retention) -> None:
        self._store = store
        self._keep = keep
        self._looked_for_room = False

    def __call__(self, newest: CheckpointRecord) -> None:
        """Evicts what `keep` gives up; the newest is always kept: there must be one to resume from."""
        if not self._looked_for_room:
            self._looked_for_room = True
            self._say_how_many_fit(newest)
        if trial.folder():
            return
        keeping.retain(self._store, self._keep, newest)
        self._store.free()

    def _say_how_many_fit(self, first: CheckpointRecord) -> None:
        """Early, while there is still time to make room: if every tensor changes, each takes as much as it holds."""
        fit = self._store.free_bytes() // max(first.nbytes, 1)
        if fit < _FEW:
            _log.warning(
                "%s holds %.1f MB, and %s has room for %d more of that size: free space there, or keep fewer",
                *(first.ref, first.nbytes / 1e6, self._store.path, fit),
            )
