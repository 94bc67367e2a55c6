"""A state held back for an emergency: cheap enough to be taken at every epoch's last batch.

What is small is copied. Large tensors, which hardly anything but an optimizer step changes, are only watched: each is
looked at in some places, and the snapshot is good as long as nothing of that has changed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_LARGE = 64 * 1024
_PLACES = 64


class Snapshot:
    """A state as it is now."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        large = {id(tensor): tensor for tensor in _tensors(state) if tensor.nbytes > _LARGE}
        self._watched = [(tensor, tensor._version, _look(tensor)) for tensor in large.values()]
        self._state = copy.deepcopy(dict(state), dict(large))

    def state(self) -> dict[str, Any] | None:
        """The state as it was; None where a large tensor has changed since."""
        for tensor, version, seen in self._watched:
            if tensor._version != version or not torch.equal(_look(tensor), seen):
                return None
        return self._state


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.layout is torch.strided:
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _look(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes in some places: writing through `.data` changes no version, as when averages are swapped in."""
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    places = torch.as_strided(tensor, (_PLACES,), (extent // _PLACES,), tensor.storage_offset())
    return places.detach().clone().view(torch.uint8)
