"""Several processes that train together: the first decides and writes, and each has random states of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

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
