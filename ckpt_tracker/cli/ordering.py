"""The order in which checkpoints are listed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.selection import nearest

Value = Callable[[CheckpointRecord], float | None]
_VALUES: dict[str, Value] = {
    "version": lambda record: record.version,
    "epoch": lambda record: record.epoch,
    "step": lambda record: record.step,
    "age": lambda record: -record.created_at.timestamp(),
    "created": lambda record: record.created_at.timestamp(),
    "size": lambda record: record.nbytes,
    "new": lambda record: record.stored_bytes,
    "shared": lambda record: record.nbytes - record.stored_bytes,
    "stall": lambda record: record.stall_seconds,
    "write": lambda record: record.write_seconds,
}


def arranged(
    records: Sequence[CheckpointRecord], *, key: str | None, descending: bool, limit: int | None
) -> list[CheckpointRecord]:
    """The records by a metric or a number of theirs, lowest first; what has no finite value of it comes last, always.

    Without a key they stay as they are, or turned round. The limit keeps the first ones of what was sorted, else the
    last ones that were saved. Raises InvalidOption for a key that no record has.
    """
    if key is None:
        kept = sorted(records, key=lambda each: each.created_at)[-limit:] if limit else records
        chosen = {(each.run, each.version) for each in kept}
        shown = [each for each in records if (each.run, each.version) in chosen] if limit else [*records]
        return shown[::-1] if descending else shown
    value = _value(key, records)
    sign = -1 if descending else 1
    ranked = sorted(records, key=lambda record: _rank(value(record), sign))
    return ranked[:limit]


def _rank(value: float | None, sign: int) -> tuple[bool, float]:
    if value is None or not math.isfinite(value):
        return True, 0.0
    return False, sign * value


def _value(key: str, records: Sequence[CheckpointRecord]) -> Value:
    known = _VALUES.get(key)
    if known is not None or not records:
        return known or (lambda record: None)
    metrics = {name for record in records for name in record.metrics}
    if key in metrics:
        return lambda record: record.metrics.get(key)
    return _scores(key, [*sorted(metrics), *_VALUES], records)


def _scores(text: str, names: Sequence[str], records: Sequence[CheckpointRecord]) -> Value:
    """An expression, as `ckpt best` has it."""
    from ckpt_tracker.criteria import Scorer
    from ckpt_tracker.records import Monitor

    scorer = Scorer(Monitor(text, "min"), records)
    if scorer.unknown:
        unknown = scorer.unknown[0]
        raise InvalidOption(f"nothing can be sorted by {unknown!r}{nearest(unknown, names)}")
    scores = {(each.record.run, each.record.version): each.value for each in scorer.scores()}
    return lambda record: scores[record.run, record.version]
