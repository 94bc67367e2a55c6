"""What a Trainer's training depends on that is no state, and what of it may be different when it goes on."""

from __future__ import annotations

import contextlib
from typing import Any

from ckpt_tracker import guard
from ckpt_tracker.tracker import Tracker

_INSIDE_EPOCHS = tuple(f"data.{name}" for name in ("length", "batch_size", "accumulation", "drop_last", "order"))


def facts(trainer: Any, loader: Any) -> dict[str, Any]:
    """What each checkpoint is saved with. The seed of the order is not among it: a restart gets the earlier one."""
    args = trainer.args
    length = None
    with contextlib.suppress(TypeError, AttributeError):
        length = len(loader.dataset)
    data = {
        "length": length,
        "batch_size": getattr(getattr(loader, "batch_sampler", None), "batch_size", None),
        "accumulation": args.gradient_accumulation_steps,
        "drop_last": args.dataloader_drop_last,
        "order": getattr(args, "train_sampling_strategy", None),
        "num_workers": args.dataloader_num_workers,
    }
    precision = getattr(trainer.accelerator, "mixed_precision", None)
    return {"world_size": args.world_size, "precision": precision, "data": data}


def compare(tracker: Tracker, *, inside: bool) -> None:
    """Shows what has changed since the checkpoint, and refuses (StateMismatch) what it can't be continued with."""
    checkpoint = tracker.resumed_from
    if checkpoint is None or not checkpoint.context:
        return
    found = guard.changes(checkpoint.context, tracker.context)
    if inside:
        changed = guard.among(found, "world_size", *_INSIDE_EPOCHS)
        remedy = "the rest of its epoch needs the same data, batches and processes"
    else:
        changed = guard.among(found, "world_size")
        remedy = "each process has random states of its own: train on with as many"
    model = f"store[{checkpoint.ref!r}].load('model')"
    guard.refuse(changed, ref=checkpoint.ref, remedy=f"{remedy}. Or begin another run with its weights: {model}")
    guard.show(found, ref=checkpoint.ref)
