"""A metric's course in a line of blocks."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import pairwise

from ckpt_tracker.cli import human
from ckpt_tracker.records import CheckpointRecord, Monitor

_BLOCKS = "▁▂▃▄▅▆▇█"
_GAP = "·"
_LONGEST = 40


def sparkline(values: Sequence[float | None], *, width: int = _LONGEST) -> str:
    """One block a value, or the mean of several where there are more than `width`; a dot for NaN, infinite and missing.

    Empty where there is no finite value, or where the output's encoding has no blocks.
    """
    finite = [value for value in values if _is_finite(value)]
    if not finite or not _has_blocks():
        return ""
    low, high = min(finite), max(finite)  # type: ignore[type-var]
    return "".join(_block(_mean(part), low, high) for part in _parts(values, min(width, len(values))))  # type: ignore[arg-type]


def _parts(values: Sequence[float | None], count: int) -> list[Sequence[float | None]]:
    edges = [round(index * len(values) / count) for index in range(count + 1)]
    return [values[start:end] for start, end in pairwise(edges)]


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(value / len(finite) for value in finite) if finite else None


def _block(value: float | None, low: float, high: float) -> str:
    if value is None:
        return _GAP
    half = high / 2 - low / 2  # halves: the whole span may be more than a float holds
    place = (value / 2 - low / 2) / half if half else 0.0
    return _BLOCKS[min(len(_BLOCKS) - 1, max(0, int(place * len(_BLOCKS))))]


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _has_blocks() -> bool:
    try:
        _BLOCKS.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def trend_line(records: Sequence[CheckpointRecord], monitor: Monitor, *, best: int | None) -> str:
    """`val_loss ▇▅▂▁▁ 0.9 → 0.31, best 0.3 (v7)`, or nothing where nothing is finite."""
    values = [record.metrics.get(monitor.metric) for record in records]
    blocks = sparkline(values)
    if not blocks:
        return ""
    ends = f"{human.number(values[0])} → {human.number(values[-1])}"
    top = next(
        (
            f", best {human.number(value)} (v{best})"
            for each, value in zip(records, values, strict=True)
            if each.version == best
        ),
        "",
    )
    return f"{human.printable(monitor.metric)} {blocks} {ends}{top}"
