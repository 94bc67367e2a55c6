"""Records ⇄ rows of the index."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ckpt_tracker.disk.jsonfile import dump, load
from ckpt_tracker.records import CheckpointRecord, Evaluation, Monitor, Parent, RunRecord

Row = dict[str, Any]


def run_row(run: RunRecord) -> Row:
    """A row of `runs`."""
    return {
        "name": run.name,
        "created_at": run.created_at.isoformat(),
        "config": _text(dict(run.config)),
        "environment": _text(dict(run.environment)),
        "unnamed": int(run.unnamed),
        "finished": int(run.finished),
        "monitor": run.monitor.metric if run.monitor else None,
        "mode": run.monitor.mode if run.monitor else None,
        "last_start": _text(dict(run.last_start)),
        "tags": _text(dict(run.tags)),
        "pins": _text(list(run.pins)),
    }


def run_from_row(row: sqlite3.Row, *, evaluations: Sequence[Evaluation]) -> RunRecord:
    """The way back, with what was measured later."""
    return RunRecord(
        name=row["name"],
        created_at=datetime.fromisoformat(row["created_at"]),
        config=parsed(row["config"]),
        environment=parsed(row["environment"]),
        unnamed=bool(row["unnamed"]),
        finished=bool(row["finished"]),
        monitor=Monitor(row["monitor"], row["mode"]) if row["monitor"] else None,
        last_start=parsed(row["last_start"]),
        tags=parsed(row["tags"]),
        pins=tuple(parsed(row["pins"])),
        evaluations=tuple(evaluations),
    )


def checkpoint_row(record: CheckpointRecord) -> Row:
    """A row of `checkpoints`."""
    return {
        "run": record.run,
        "version": record.version,
        "epoch": record.epoch,
        "step": record.step,
        "created_at": record.created_at.isoformat(),
        "digest": record.digest,
        "nbytes": record.nbytes,
        "stored_bytes": record.stored_bytes,
        "sections": _text(list(record.sections)),
        "kind": record.kind,
        "reason": record.reason,
        "parents": _text([[each.ref, each.digest, dict(each.overrides)] for each in record.parents]),
        "stall_seconds": record.stall_seconds,
        "write_seconds": record.write_seconds,
        "context": _text(dict(record.context)),
        "full_digest": record.full_digest,
        "nonfinite": _text(dict(record.nonfinite)),
    }


def checkpoint_from_row(
    row: sqlite3.Row,
    *,
    metrics: Mapping[str, float],
    tags: Sequence[str],
    pinned: bool,
    evaluations: Sequence[Evaluation],
) -> CheckpointRecord:
    """The way back, with what other tables know of the checkpoint."""
    fields = dict(row)
    fields["created_at"] = datetime.fromisoformat(fields["created_at"])
    fields["sections"] = tuple(parsed(fields["sections"]))
    fields["context"] = parsed(fields["context"])
    fields["parents"] = tuple(Parent(*each) for each in parsed(fields["parents"]))
    fields["nonfinite"] = parsed(fields["nonfinite"])
    later = tuple(each for each in evaluations if each.name not in metrics)
    return CheckpointRecord(
        **fields,
        metrics={**metrics, **{each.name: each.value for each in later}},
        tags=tuple(sorted(tags)),
        pinned=pinned,
        evaluations=later,
    )


def metric_rows(record: CheckpointRecord) -> list[Row]:
    """Rows of `metrics`. SQLite has no NaN: it is NULL there."""
    return [
        {
            "run": record.run,
            "version": record.version,
            "name": name,
            "value": None if math.isnan(value) else value,
        }
        for name, value in record.own_metrics.items()
    ]


def evaluation_row(run: str, evaluation: Evaluation) -> Row:
    """A row of `evaluations`."""
    return {
        "run": run,
        "version": evaluation.version,
        "name": evaluation.name,
        "value": None if math.isnan(evaluation.value) else evaluation.value,
        "added_at": evaluation.at.isoformat(),
        "added_by": evaluation.by,
        "added_user": evaluation.user,
    }


def evaluation_from_row(row: sqlite3.Row) -> Evaluation:
    """The way back."""
    return Evaluation(
        version=row["version"],
        name=row["name"],
        value=metric_value(row["value"]),
        at=datetime.fromisoformat(row["added_at"]),
        by=row["added_by"],
        user=row["added_user"],
    )


def metric_value(value: float | None) -> float:
    """A metric as it was before it became a row."""
    return math.nan if value is None else value


def parsed(text: str) -> Any:
    """The JSON in a column."""
    return load(text.encode(), name="a row of the index")


def _text(document: object) -> str:
    return dump(document).decode()
