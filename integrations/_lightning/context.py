"""What is no state of a training but makes its resume right or wrong: ranks, data and loader settings, precision.

It is recorded with each checkpoint. Inside an epoch the position is one in these data, cut into these batches: others
are refused. At an epoch's end what is different is only shown.
"""

from __future__ import annotations

from typing import Any

from ckpt_tracker import guard
from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.guard import Change

_POSITION = ("length", "batch_size", "drop_last", "sampler", "dataset", "batches")


def describe(trainer: Any) -> dict[str, Any]:
    """The facts, as plain values. Known once the training starts."""
    from ckpt_tracker.integrations._shared import loader as _loader

    combined = getattr(trainer.fit_loop, "_combined_loader", None)
    loaders = [_loader.describe(each) for each in getattr(combined, "flattened", ())]
    data = loaders[0] if len(loaders) == 1 else {str(number): each for number, each in enumerate(loaders)}
    return {
        "world_size": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "precision": str(trainer.precision),
        "data": data,
    }


def check(checkpoint: Checkpoint, now: dict[str, Any], *, inside: bool) -> None:
    """Shows what is different from the checkpoint's training. Raises StateMismatch for what makes the resume wrong."""
    found = guard.changes(checkpoint.context, now)
    if inside:
        wrong = [each for each in found if _moves_position(each, now)]
        guard.refuse(
            wrong,
            ref=checkpoint.ref,
            remedy="it was taken inside an epoch of those data: go back to them, or continue from an epoch's end, "
            f"which resume='{checkpoint.run}@vN' names (`ckpt ls {checkpoint.run}` shows them)",
        )
    guard.show(found, ref=checkpoint.ref)


def check_ranks(ref: str, *, was: int, now: int) -> None:
    """Raises StateMismatch for another number of ranks: each has random states and data of its own."""
    if was != now:
        guard.refuse(
            [Change("world_size", was, now)],
            ref=ref,
            remedy="random states and data order belong to as many processes as there were: use as many again, "
            "or start a run of another name from its weights, checkpoint.load('model')",
        )


def _moves_position(change: Change, now: dict[str, Any]) -> bool:
    first, *_, last = change.name.split(".")
    if first != "data":
        return False
    # workers that share out a stream decide what is in a batch
    return last in _POSITION or (last == "num_workers" and _streams(now["data"]))


def _streams(data: dict[str, Any]) -> bool:
    loaders = [data] if "sampler" in data else data.values()
    return any("_InfiniteConstantSampler" in str(each.get("sampler")) for each in loaders)
