"""Training on several ranks: what they decide together, and what each has of its own.

Every checkpoint has one writer, the first rank. What another rank has that the first has not, such as the state of a
scheduler that follows a metric of its own, is found by checksums and goes into the checkpoint for that rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_CHUNK = 1 << 22
_PRIME = 1000003

Path = list[Any]
Own = list[tuple[Path, Any]]


class Ranks:
    """The ranks of one `fit`. Where there is one only, nothing is sent."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._group: Any = None

    @property
    def several(self) -> bool:
        return bool(self._trainer.world_size > 1)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        if not self.several:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self._trainer.world_size
        distributed.all_gather_object(values, value)
        return values

    def of_first(self, value: Any) -> Any:
        """The first rank's value, on every rank: ranks that decide differently wait for each other for ever."""
        return self._trainer.strategy.broadcast(value) if self.several else value

    def highest(self, number: int) -> int:
        """The highest number of all ranks, on every rank: one small collective, which waits for no device."""
        if not self.several:
            return number
        import torch
        from torch import distributed

        if self._group is None:
            on_cpu = distributed.get_backend() == "gloo"
            self._group = distributed.group.WORLD if on_cpu else distributed.new_group(backend="gloo")
        highest = torch.tensor(number)
        distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=self._group)
        return int(highest)

    def wait(self) -> None:
        """Until every rank has come here."""
        if self.several:
            self._trainer.strategy.barrier("ckpt_tracker")

    def own_parts(self, state: Any) -> Own:
        """What this rank has otherwise than the first one, with the path to it."""
        if not self.several:
            return []
        mine = _marks(state)
        return [(path, _on_cpu(value)) for path, value in _differing(state, mine, self.of_first(mine), [])]


def put_own_parts(state: Any, own: Own) -> None:
    """Puts into the first rank's `state` what a rank had of its own."""
    for path, value in own:
        if not path:
            state.clear()
            state.update(value)
            continue
        *above, last = path
        place = state
        for key in above:
            place = place[key]
        place[last] = value


def _marks(value: Any) -> Any:
    """The tree of a state with a checksum for each leaf."""
    if isinstance(value, dict):
        return {key: _marks(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_marks(each) for each in value]
    import torch

    if not isinstance(value, torch.Tensor):
        return value.tobytes() if hasattr(value, "tobytes") else repr(value)
    return (str(value.dtype), tuple(value.shape), _checksum(value))


def _checksum(tensor: Any) -> int:
    """Of a tensor's bytes, counted where the tensor lies."""
    import torch

    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    words = flat.view(torch.int32) if flat.numel() % 4 == 0 and flat.storage_offset() % 4 == 0 else flat
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for chunk in words.split(_CHUNK):
        weights = torch.arange(1, 2 * chunk.numel(), 2, device=chunk.device)
        total = total * _PRIME + (chunk.to(torch.int64) * weights).sum()
    return int(total)


def _differing(value: Any, mine: Any, first: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if mine == first:
        return
    if isinstance(mine, dict) and isinstance(first, dict) and list(mine) == list(first):
        for key in mine:
            yield from _differing(value[key], mine[key], first[key], [*path, key])
    elif isinstance(mine, list) and isinstance(first, list) and len(mine) == len(first):
        for index, each in enumerate(mine):
            yield from _differing(value[index], each, first[index], [*path, index])
    else:
        yield path, value


def _on_cpu(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _on_cpu(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_on_cpu, value)) if type(value) in (list, tuple) else value
    return value.cpu() if hasattr(value, "cpu") else value
