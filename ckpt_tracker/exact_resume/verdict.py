"""The checkpoints of two trainings of a trial side by side: the first that is not the same, and by how much."""

from __future__ import annotations

from dataclasses import dataclass, field

from ckpt_tracker.comparison import Difference, SavedState, differences, measured
from ckpt_tracker.exact_resume.saved import Key, Saved, key_of
from ckpt_tracker.records import CheckpointRecord

_MEASURED = 200
# where times and paths may be kept, besides what is trained
_BESIDE = frozenset({"callbacks", "hyperparameters", "lightning", "loop"})


@dataclass(frozen=True)
class Deviation:
    """A checkpoint that is not what the first training saved."""

    key: Key
    expected: CheckpointRecord
    found: CheckpointRecord
    differences: tuple[Difference, ...]
    """In the order of the tree; the tensors among the first two hundred are measured."""


@dataclass(frozen=True)
class Comparison:
    """What came of comparing the checkpoints that two trainings have in common."""

    compared: int
    deviation: Deviation | None
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Metrics that are not the same although the states are, of the first such checkpoint."""
    metrics_at: Key | None = None


def compare(first: Saved, second: Saved, *, ignored: tuple[str, ...] = (), since: int = 0) -> Comparison:
    """Compares what the second saved after its first `since` checkpoints with what the first saved there.

    `ignored` are beginnings of paths that are no state. It ends at the first deviation.
    """
    compared = 0
    metrics: dict[str, tuple[float, float]] = {}
    metrics_at: Key | None = None
    for record in second.records[since:]:
        key = key_of(record)
        expected = first.by_key.get(key)
        if expected is None:
            continue
        compared += 1
        deviation = _deviation(first, second, expected, record, ignored=ignored)
        if deviation is not None:
            return Comparison(compared, deviation, metrics, metrics_at)
        if not metrics:
            metrics, metrics_at = _differing_metrics(expected, record), key
    return Comparison(compared, None, metrics, metrics_at if metrics else None)


def incidental(first: Saved, second: Saved) -> tuple[str, ...]:
    """What differs between two whole trainings although nothing that is trained does: times, folders, …

    The beginnings of paths; none where anything else differs.
    """
    found: set[str] = set()
    for key, record in second.by_key.items():
        expected = first.by_key.get(key)
        if expected is None or expected.digest == record.digest:
            continue
        one, other = first.state(expected), second.state(record)
        for each in differences(one, other):
            if each.section not in _BESIDE:
                return ()
            found.add(each.path if None not in (each.first, each.second) else _known_part(each, one, other))
    return tuple(sorted(found))


def _deviation(
    first: Saved, second: Saved, expected: CheckpointRecord, record: CheckpointRecord, *, ignored: tuple[str, ...]
) -> Deviation | None:
    if expected.digest == record.digest:
        return None
    one, other = first.state(expected), second.state(record)
    found = [each for each in differences(one, other) if not each.path.startswith(ignored)]
    if not found:
        return None
    some = [measured(each, one, other) for each in found[:_MEASURED]]
    return Deviation(key_of(record), expected, record, (*some, *found[_MEASURED:]))


def _known_part(each: Difference, one: SavedState, other: SavedState) -> str:
    """As much of a path as both know: what is below may have another name each time."""
    without = other if each.second is None else one
    boundaries = [index + 1 for index, sign in enumerate(each.path) if sign in ".["]
    shared = [each.path[:end] for end in boundaries if end > len(each.section) + 1]
    known = [start for start in shared if any(path.startswith(start) for path in without.leaves)]
    return known[-1] if known else each.path


def _differing_metrics(expected: CheckpointRecord, record: CheckpointRecord) -> dict[str, tuple[float, float]]:
    both = expected.metrics.keys() & record.metrics.keys()
    pairs = {name: (expected.metrics[name], record.metrics[name]) for name in sorted(both)}
    return {
        name: (one, other)
        for name, (one, other) in pairs.items()
        if one != other and not (one != one and other != other)
    }
