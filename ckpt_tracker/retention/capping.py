"""A budget in bytes: what fits into it, and sizes as text (`20GB`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from ckpt_tracker.errors import InvalidOption

Footprint = Mapping[str, int]
"""Object → bytes: what a checkpoint needs on the disk."""
Key = TypeVar("Key")

_UNITS = {"B": 1, **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", start=1)}}
_BINARY = {f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", start=1)}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGTP]?i?B)")


class Budget(Generic[Key]):
    """Takes checkpoints, the most valuable first, until one does not fit; from then on only what costs nothing more.

    An object that several share is counted once.
    """

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        self._counted: set[str] = set()
        self._full = False
        self.dropped: list[Key] = []
        """What did not fit, the most valuable first."""

    def take(self, key: Key, footprint: Footprint) -> None:
        """Takes it where it fits."""
        cost = self._cost(footprint)
        self._full = self._full or cost > self._left
        if cost and self._full:
            self.dropped.append(key)
        else:
            self.take_anyway(footprint)

    def take_anyway(self, footprint: Footprint) -> None:
        """Takes what must stay."""
        self._left -= self._cost(footprint)
        self._counted.update(footprint)

    def _cost(self, footprint: Footprint) -> int:
        return sum(nbytes for name, nbytes in footprint.items() if name not in self._counted)


def parse_size(size: int | str) -> int:
    """Bytes of `20GB` (decimal), `20GiB` (binary) or a number. Raises InvalidOption for what is no size above 0."""
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        unit = match and {**_UNITS, **_BINARY, "KB": 1000}.get(match[2])
        nbytes = math.floor(float(match[1]) * unit) if match and unit else 0
    else:
        nbytes = size if type(size) is int else 0
    if not 0 < nbytes < 2**63:
        raise InvalidOption(f"a cap of {size!r}: expected bytes, or a size such as '20GB' or '500MiB', more than 0")
    return nbytes


def size_text(nbytes: int) -> str:
    """The shortest exact text that `parse_size` takes."""
    texts = [f"{nbytes // bytes_each}{unit}" for unit, bytes_each in _all_units() if nbytes % bytes_each == 0]
    return min(texts, key=len)


def _all_units() -> Iterable[tuple[str, int]]:
    yield from _UNITS.items()
    yield from _BINARY.items()
