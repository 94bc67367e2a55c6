"""The table of checkpoints, which `ls`, `best`, `watch` and `demo` print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ckpt_tracker.cli import human
from ckpt_tracker.cli.tables import Column, print_lines, table_lines
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import CheckpointRecord, Monitor
from ckpt_tracker.selection import nearest

Reasons = Mapping[tuple[str, int], Sequence[str]]
"""Why a checkpoint is kept, by run and version."""
RecordColumn = Column[CheckpointRecord]
_ON_DEMAND = ("created", "write", "reason", "kind", "sections", "digest")


def checkpoint_lines(
    records: Sequence[CheckpointRecord],
    *,
    monitors: Mapping[str, Monitor | None],
    best: Mapping[str, int | None],
    by_ref: bool = False,
    reasons: Reasons | None = None,
    only: Sequence[str] = (),
) -> list[str]:
    """A header, and one line a checkpoint. `monitors` and `best` are by run; `by_ref` names the run in each line.

    `only` chooses the columns behind the name, in their order. Raises InvalidOption for one that there is not.
    """
    known = _columns(records, monitors=monitors, best=best, reasons=reasons)
    first = _name(by_ref=by_ref)
    if only:
        # the first column stands first, and may be named; a metric of its name is meant before it
        named = [_column({first.header: first, **known}, name) for name in only]
        chosen = [each for each in named if each is not first]
    else:
        chosen = [each for name, each in known.items() if name not in _ON_DEMAND and _says_something(name, records)]
    return table_lines([first, *chosen], records, chosen=lambda each: each.version == best.get(each.run))


def print_checkpoints(records: Sequence[CheckpointRecord], **how: Any) -> None:
    """Prints these lines."""
    print_lines(checkpoint_lines(records, **how))


def metric_order(records: Iterable[CheckpointRecord], monitored: Iterable[str]) -> list[str]:
    """Every metric once: the monitored ones first, the others by name."""
    known: set[str] = set().union(*(record.metrics for record in records))
    first = [name for name in dict.fromkeys(monitored) if name in known]
    return [*first, *sorted(known - {*first})]


def shared_bytes(record: CheckpointRecord) -> int:
    """Bytes of a checkpoint that were in the store before it was saved."""
    return max(0, record.nbytes - record.stored_bytes)


def marks(record: CheckpointRecord, *, best: bool) -> str:
    """`best pinned paper`: what may stand behind the @, and what else sets a checkpoint apart."""
    if not (best or record.tags or record.pinned or record.full_digest):
        return ""
    words = ["best"] if best else []
    if record.pinned:
        words.append("pinned")
    if record.full_digest is not None:
        words.append("weights-only")
    return " ".join([*words, *record.tags])


def _columns(
    records: Sequence[CheckpointRecord],
    *,
    monitors: Mapping[str, Monitor | None],
    best: Mapping[str, int | None],
    reasons: Reasons | None,
) -> dict[str, RecordColumn]:
    now = datetime.now(timezone.utc)
    metrics = metric_order(records, [each.metric for each in monitors.values() if each])
    columns: list[RecordColumn] = [
        Column("epoch", lambda record: human.optional(record.epoch)),
        Column("step", lambda record: human.optional(record.step), spare=3),
        *(_metric(metric, spare=7 if position else 0) for position, metric in enumerate(metrics)),
        Column("age", lambda record: human.age(record.created_at, now=now)),
        Column("created", lambda record: f"{record.created_at:%Y-%m-%d %H:%M:%S}", text=True),
        Column("size", lambda record: human.size(record.nbytes), spare=1),
        Column("new", lambda record: human.size(record.stored_bytes), spare=4),
        Column("shared", lambda record: human.size(shared_bytes(record)), spare=5),
        Column("stall", lambda record: human.duration(record.stall_seconds), spare=6),
        Column("write", lambda record: human.duration(record.write_seconds)),
        Column("reason", lambda record: human.printable(record.reason or human.NONE), text=True),
        Column("kind", lambda record: human.printable(record.kind), text=True),
        Column("sections", lambda record: human.printable(" ".join(record.sections)), text=True),
        Column("digest", lambda record: record.digest, text=True),
        Column("tags", lambda record: marks(record, best=record.version == best.get(record.run)), text=True),
    ]
    if reasons is not None:
        columns.append(Column("why", lambda record: _why(record, reasons), text=True, spare=2, wrap=True))
    return {column.header: column for column in columns}


def _says_something(name: str, records: Sequence[CheckpointRecord]) -> bool:
    """Empty columns are left out: a training that knows no epochs has none to show."""
    if name in ("epoch", "step"):
        return any(getattr(record, name) is not None for record in records)
    return True


def _column(known: Mapping[str, RecordColumn], name: str) -> RecordColumn:
    found = known.get(human.printable(name))
    if found is None:
        raise InvalidOption(f"there is no column {name!r}{nearest(name, known)}")
    return found


def _why(record: CheckpointRecord, reasons: Reasons) -> str:
    """The reasons by their names: values and tags stand in columns of their own."""
    found = reasons.get((record.run, record.version), ())
    names = [reason.partition(" ")[0] for reason in found if reason != "pinned" and not reason.startswith("tag:")]
    return human.printable(" ".join(names)) or human.NONE


def _name(*, by_ref: bool) -> RecordColumn:
    if by_ref:
        return Column("checkpoint", lambda record: record.ref, text=True)
    return Column("version", lambda record: f"v{record.version}", text=True)


def _metric(name: str, *, spare: int) -> RecordColumn:
    return Column(
        human.printable(name),
        lambda record: human.number(record.metrics.get(name)),
        spare=spare,
        at_once=lambda records: human.numbers([each.metrics.get(name) for each in records]),
    )
