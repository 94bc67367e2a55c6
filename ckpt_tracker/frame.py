"""Checkpoints as a table: columns of equal length, which every data frame library takes as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckpt_tracker.records import CheckpointRecord

_COLUMNS = (
    *("ref", "run", "version", "epoch", "step", "created_at", "kind", "reason", "pinned", "nbytes", "stored_bytes"),
    *("stall_seconds", "write_seconds", "digest"),
)
Frame = dict[str, list[Any]]


def frame(records: Sequence[CheckpointRecord]) -> Frame:
    """One row a checkpoint. A metric is a column of its name, or `metrics.NAME` where another column has that name."""
    table: Frame = {name: [getattr(record, name) for record in records] for name in _COLUMNS}
    table["tags"] = [list(record.tags) for record in records]
    table["weights_only"] = [record.full_digest is not None for record in records]
    taken = set(table)
    for metric in dict.fromkeys(name for record in records for name in record.metrics):
        column = f"metrics.{metric}" if metric in taken else metric
        table[column] = [record.metrics.get(metric) for record in records]
    return table
