"""The table of checkpoints, which `ls`, `best` and `demo` print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone

from ckpt_tracker.cli import human
from ckpt_tracker.cli.tables import Column, print_rows
from ckpt_tracker.records import CheckpointRecord, Monitor


def print_checkpoints(
    records: Sequence[CheckpointRecord],
    *,
    monitors: Mapping[str, Monitor | None],
    best: Mapping[str, int | None],
    by_ref: bool = False,
) -> None:
    """Prints one line a checkpoint. `monitors` and `best` are by run; `by_ref` names the run in each line."""

    def is_best(record: CheckpointRecord) -> bool:
        return record.version == best.get(record.run)

    def tags(record: CheckpointRecord) -> str:
        marks = {"best": is_best(record), "pinned": record.pinned, "weights-only": record.full_digest is not None}
        return " ".join([*(name for name, holds in marks.items() if holds), *record.tags])

    metrics = metric_order(records, [each.metric for each in monitors.values() if each])
    print_rows([*_columns(metrics, by_ref=by_ref), Column("tags", tags, text=True)], records, chosen=is_best)


def metric_order(records: Iterable[CheckpointRecord], monitored: Iterable[str]) -> list[str]:
    """Every metric once: the monitored ones first, the others by name."""
    known = {name for record in records for name in record.metrics}
    first = [name for name in dict.fromkeys(monitored) if name in known]
    return [*first, *sorted(known - {*first})]


def _columns(metrics: Sequence[str], *, by_ref: bool) -> list[Column[CheckpointRecord]]:
    now = datetime.now(timezone.utc)
    name: Column[CheckpointRecord] = Column("version", lambda record: f"v{record.version}", text=True)
    if by_ref:
        name = Column("checkpoint", lambda record: record.ref, text=True)
    return [
        name,
        Column("epoch", lambda record: human.optional(record.epoch)),
        Column("step", lambda record: human.optional(record.step), spare=2),
        *(_metric(metric, spare=5 if position else 0) for position, metric in enumerate(metrics)),
        Column("age", lambda record: human.age(record.created_at, now=now)),
        Column("size", lambda record: human.size(record.nbytes), spare=1),
        Column("stored", lambda record: human.size(record.stored_bytes), spare=3),
        Column("stall", lambda record: human.duration(record.stall_seconds), spare=4),
    ]


def _metric(name: str, *, spare: int) -> Column[CheckpointRecord]:
    return Column(human.printable(name), lambda record: human.number(record.metrics.get(name)), spare=spare)
