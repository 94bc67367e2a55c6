"""CheckpointTracker for a hand-written PyTorch loop.

with CheckpointTracker("checkpoints", "mnist", model=model, optimizer=optimizer,
                       monitor="val_loss", mode="min") as tracker:
    for epoch in tracker.epochs(20):                # begins where the run stopped
        for x, y in tracker.batches(train_loader):  # optional: keeps the position inside the epoch too
            ...
        tracker.log(val_loss=evaluate(model))
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckpt_tracker.integrations._loop.tracker import LoopTracker
from ckpt_tracker.store import Store

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ckpt_tracker.options import TrackerOptions

__all__ = ["CheckpointTracker"]


class CheckpointTracker(LoopTracker):
    """Takes the run, and restores the objects it is given, when it is made; saves as the loop turns.

    `model`, `optimizer`, `scheduler`, `scaler`, `ema` and each value of `extra` are objects with `state_dict()` and
    `load_state_dict()`, generators, or dicts and lists of those. In a training of several processes
    (`torch.distributed`) each of them makes one, and the first writes.

    Raises InvalidOption, RunBusy, CheckpointNotFound, StateMismatch, Damaged.
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
        given = {
            **{"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": ema},
            "extra": dict(extra) if extra else None,
        }
        super().__init__(store, run, given, **options)
