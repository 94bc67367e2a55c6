"""Checkpoints for any training: deduplicated, durable, indexed, and exact to resume from.

    with Store("checkpoints") as store:
        run = store.run("mnist", config={"lr": 1e-3})
        run.save({"model": model.state_dict()}, epoch=0, metrics={"val_loss": 0.31}).wait()

Trainings add a `CheckpointTracker` from `ckpt_tracker.integrations` instead.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_tracker.checkpoint import Checkpoint
    from ckpt_tracker.run import Run
    from ckpt_tracker.store import Store

__all__ = ["Checkpoint", "Run", "Store"]
__version__ = "0.1.0"

_HOMES = {"Checkpoint": "checkpoint", "Run": "run", "Store": "store"}


def __getattr__(name: str) -> Any:
    # loaded when first asked for: the command line's help needs none of them
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
