"""Which tensors of a live state a saved one may be read into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ckpt_tracker.records import TensorSpec
from ckpt_tracker.state.tree import TensorLeaf, encode, tensor_paths

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes


@dataclass(frozen=True)
class Target:
    """A live tensor, and its own bytes."""

    tensor: Any
    memory: Bytes


def matching(skeleton: Any, specs: Sequence[TensorSpec], live: Any) -> dict[int, Target]:
    """By the index of a saved tensor, the live one at the same places of its tree, where it is just such a tensor.

    Left out is what has no memory of its own: a live tensor for two saved ones, or one that overlaps another.
    """
    encoded = encode(live)
    places = {path: encoded.leaves[index] for index, path in tensor_paths(encoded.skeleton)}
    found: dict[int, list[TensorLeaf | None]] = {}
    for index, path in tensor_paths(skeleton):
        found.setdefault(index, []).append(places.get(path))
    targets = {}
    for index, leaves in found.items():
        first = leaves[0]
        if first is not None and all(each is first for each in leaves) and first.spec == specs[index]:
            memory = first.kind.memory(first.tensor)
            if memory is not None:
                targets[index] = Target(first.tensor, memory)
    shared = set(_overlapping(targets))
    return {index: target for index, target in targets.items() if index not in shared}


def _overlapping(targets: dict[int, Target]) -> Iterator[int]:
    starts = {index: target.memory.ctypes.data for index, target in targets.items()}
    ordered = sorted(targets, key=lambda index: (starts[index], -len(targets[index].memory)))
    last = ordered[0] if ordered else 0
    for one, other in pairwise(ordered):
        # the one that reaches furthest so far
        if starts[one] + len(targets[one].memory) > starts[last] + len(targets[last].memory):
            last = one
        if starts[other] < starts[last] + len(targets[last].memory):
            yield from (last, other)
