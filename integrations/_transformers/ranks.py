"""Several processes that train together: the first decides and writes, and each has random states of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, TypeVar

from ckpt_tracker.tracker import Tracker

T = TypeVar("T")


def together() -> bool:
    """There are several."""
    import torch.distributed as processes

    return processes.is_available() and processes.is_initialized() and processes.get_world_size() > 1


def from_first(compute: Callable[[], T]) -> T:
    """What the first process computes, or the error that it raises, in all of them. All have to call this."""
    if not together():
        return compute()
    import torch.distributed as processes

    box: list[Any] = [None, None]
    if processes.get_rank() == 0:
        try:
            box[0] = compute()
        except Exception as error:
            box[1] = error
    processes.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]  # type: ignore[no-any-return]


def gather(value: T) -> list[T]:
    """The values of all, in the order of their ranks. All have to call this."""
    if not together():
        return [value]
    import torch.distributed as processes

    values: list[Any] = [None] * processes.get_world_size()
    processes.all_gather_object(values, value)
    return values


def agree(tracker: Tracker, due: Callable[[], str | None], *, device: Any) -> str | None:
    """Why all of them save: as the first says, or because of a signal to any of them, which then comes to all.

    Elsewhere than in the first it says only whether. All have to call this.
    """
    if not together():
        return due()
    import torch
    import torch.distributed as processes

    reason = due() if processes.get_rank() == 0 else None
    came = tracker.interruption
    number = _number(came) + 1 if came else int(reason is not None)
    loudest = torch.tensor(number, device=device)
    processes.all_reduce(loudest, processes.ReduceOp.MAX)
    number = int(loudest.item())
    if number > 1 and not came:
        signal.raise_signal(number - 1)
    return tracker.interruption or reason or ("due" if number else None)


def leave(tracker: Tracker) -> None:
    """Answers a signal in all of them, once what the first has saved is durable. All have to call this."""
    if together() and tracker.interruption:
        from_first(lambda: tracker.run.writer().drain())
        tracker.leave()


def _number(name: str) -> int:
    return signal.SIGINT if name == "KeyboardInterrupt" else signal.Signals[name]
