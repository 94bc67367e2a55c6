"""The workers of a DataLoader that live on from epoch to epoch (`dataloader_persistent_workers`).

They are started, and a random number is drawn for it, in the first epoch only; so a training that goes on starts them
before it restores the random states. Their own random states go on too, out of reach: whether they are drawn from is
noted, because such a training can't be continued exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckpt_tracker.integrations._shared import random as _random
from ckpt_tracker.integrations._transformers.random import same


def start(loader: Any) -> None:
    """Starts them."""
    if _live_on(loader):
        iter(_inside(loader))


def watch(loader: Any) -> Watch | None:
    """Watches those of a loader that is yet to start them; None where none live on."""
    if not _live_on(loader):
        return None
    base = _inside(loader)
    watch = Watch(base.worker_init_fn, base.collate_fn)
    base.worker_init_fn, base.collate_fn = watch.begin, watch.collate
    return watch


class Watch:
    """Stands between the workers and what they call, in each of them."""

    def __init__(self, begin: Callable[[int], Any] | None, collate: Callable[[Any], Any]) -> None:
        import torch

        self._drawn = torch.zeros(1, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        self._begin = begin
        self._collate = collate
        self._before: dict[str, Any] = {}

    @property
    def drawn(self) -> bool:
        """One of them has drawn random numbers while loading."""
        return bool(self._drawn.item())

    def begin(self, worker: int) -> None:
        """Stands in for `worker_init_fn`."""
        if self._begin is not None:
            self._begin(worker)
        self._before = _random.capture_all()

    def collate(self, samples: Any) -> Any:
        """Stands in for `collate_fn`, which ends the loading of a batch."""
        batch = self._collate(samples)
        if not self.drawn and not same(self._before, _random.capture_all()):
            self._drawn.fill_(1)
        return batch


def _inside(loader: Any) -> Any:
    return getattr(loader, "base_dataloader", loader)


def _live_on(loader: Any) -> bool:
    return bool(getattr(_inside(loader), "persistent_workers", False))
