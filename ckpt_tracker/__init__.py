"""Checkpoints for any training: deduplicated, durable, indexed, and exact to resume from.

    with Store("checkpoints") as store:
        run = store.run("mnist", config={"lr": 1e-3})
        run.save({"model": model.state_dict()}, epoch=0, metrics={"val_loss": 0.31}).wait()

Trainings add a `CheckpointTracker` from `ckpt_tracker.integrations` instead.
"""

from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.run import Run
from ckpt_tracker.store import Store

__all__ = ["Checkpoint", "Run", "Store"]
__version__ = "0.1.0"
