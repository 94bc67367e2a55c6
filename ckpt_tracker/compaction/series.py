"""The series that a run's checkpoints are: which objects hold the same tensors at the same places, some epochs apart.

Every eighth checkpoint is a keyframe. What its objects hold is encoded by itself, and what later checkpoints hold may
be encoded as the difference to it: one step deep, so that no object needs more than one other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_tracker.encoding.header import WIDTHS

if TYPE_CHECKING:
    from ckpt_tracker.files.manifest import Manifest
    from ckpt_tracker.records import TensorSpec

KEYFRAME_EVERY = 8
"""Checkpoints from one keyframe to the next."""
Place = tuple[str, int, int]
"""A piece of a tensor: the tensor's path, its number among the tensor's pieces, where in the object it is."""


@dataclass(frozen=True)
class Holding:
    """What an object holds in one checkpoint."""

    object: str
    nbytes: int
    """As far as the checkpoint uses it."""
    width: int
    """Bytes of most of its elements."""
    places: frozenset[Place]


def holdings(manifest: Manifest) -> list[Holding]:
    """The objects of a checkpoint. Raises Damaged for a tree that was not saved so."""
    names = manifest.tensor_names()
    places: dict[str, set[Place]] = {}
    widths: dict[str, Counter[int]] = {}
    ends: dict[str, int] = {}
    for index, entry in enumerate(manifest.tensors):
        for number, piece in enumerate(entry.pieces):
            places.setdefault(piece.object, set()).add((names.get(index, ""), number, piece.offset))
            widths.setdefault(piece.object, Counter())[_width(entry.spec)] += piece.nbytes
            ends[piece.object] = max(ends.get(piece.object, 0), piece.offset + piece.nbytes)
    return [Holding(name, ends[name], widths[name].most_common(1)[0][0], frozenset(places[name])) for name in places]


class Series:
    """Goes through a run's checkpoints, oldest first, and says to what each object may be the difference."""

    def __init__(self, *, bases_in_use: frozenset[str], base_of: Mapping[str, str]) -> None:
        """`base_of`: of objects that are encoded against another, or will be: against which."""
        self._in_use = bases_in_use
        self._base_of = base_of
        self._places: Mapping[Place, str] = {}
        self._since = KEYFRAME_EVERY

    def step(self, found: list[Holding]) -> bool:
        """The next checkpoint; True when it is a keyframe."""
        key = set(self._places.values())
        holds_base = any(each.object in self._in_use and each.object not in key for each in found)
        is_keyframe = self._since >= KEYFRAME_EVERY or holds_base
        if is_keyframe:
            self._places = {place: each.object for each in found for place in each.places}
        self._since = 1 if is_keyframe else self._since + 1
        return is_keyframe

    def base(self, holding: Holding) -> str | None:
        """The object of the keyframe that holds the same tensors at the same places; or what that one stands on."""
        objects = {self._places.get(place) for place in holding.places}
        found = objects.pop() if len(objects) == 1 else None
        if found is not None:
            found = self._base_of.get(found, found)
        return None if found == holding.object else found


def _width(spec: TensorSpec) -> int:
    """Complex numbers are two of half the size; what fits nothing counts as bytes."""
    itemsize = spec.nbytes // max(1, math.prod(spec.shape))
    if "complex" in spec.dtype or itemsize > WIDTHS[-1]:
        itemsize //= 2
    return itemsize if itemsize in WIDTHS else 1
