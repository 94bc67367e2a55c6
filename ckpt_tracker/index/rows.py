"""Records ⇄ rows of the index."""

from __future__ import annotations

import functools
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import orjson

from ckpt_tracker.disk.jsonfile import dump, load
from ckpt_tracker.records import CheckpointRecord, Evaluation, Monitor, Parent, RunRecord

Row = dict[str, Any]
RECORD_COLUMNS = (
    "run, version, epoch, step, created_at, digest, nbytes, stored_bytes, kind, reason, stall_seconds, write_seconds, "
    "full_digest, metrics, sections, nullif(parents, '[]'), nullif(context, '{}'), nullif(nonfinite, '{}')"
)
"""What `checkpoint_from_row` needs, in this order."""
_TYPES = (str, int, str, int, int, str, float, float)
_INTEGER, _TEXT = (int, type(None)), (str, type(None))
_SHORT = 10_000
_TEXT_VALUE = ':"'
"""In JSON without white space each value that is text begins so."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def run_row(run: RunRecord) -> Row:
    """A row of `_runs`."""
    return {
        "name": run.name,
        "created_at": run.created_at.isoformat(),
        "config": _json(dict(run.config)),
        "environment": _json(dict(run.environment)),
        "unnamed": int(run.unnamed),
        "finished": int(run.finished),
        "monitor": run.monitor.metric if run.monitor else None,
        "mode": run.monitor.mode if run.monitor else None,
        "last_start": _json(dict(run.last_start)),
        "tags": _json(dict(run.tags)),
        "pins": _json(list(run.pins)),
    }


def run_from_row(row: sqlite3.Row, *, evaluations: Sequence[Evaluation]) -> RunRecord:
    """The way back, with what was measured later. Raises TypeError or ValueError for one that was never written."""
    return RunRecord(
        name=text(row["name"]),
        created_at=datetime.fromisoformat(row["created_at"]),
        config=parsed(row["config"]),
        environment=parsed(row["environment"]),
        unnamed=bool(row["unnamed"]),
        finished=bool(row["finished"]),
        monitor=Monitor(text(row["monitor"]), row["mode"]) if row["monitor"] else None,
        last_start=parsed(row["last_start"]),
        tags=parsed(row["tags"]),
        pins=tuple(parsed(row["pins"])),
        evaluations=tuple(evaluations),
    )


def checkpoint_row(record: CheckpointRecord) -> Row:
    """A row of `_checkpoints`."""
    return {
        "run": record.run,
        "version": record.version,
        "moment": moment(record),
        "epoch": record.epoch,
        "step": record.step,
        "metrics": _json({name: _plain(value) for name, value in record.own_metrics.items()}),
        "created_at": record.created_at.isoformat(),
        "digest": record.digest,
        "nbytes": record.nbytes,
        "stored_bytes": record.stored_bytes,
        "sections": _json(list(record.sections)),
        "kind": record.kind,
        "reason": record.reason,
        "parents": _json([[each.ref, each.digest, dict(each.overrides)] for each in record.parents]),
        "stall_seconds": record.stall_seconds,
        "write_seconds": record.write_seconds,
        "context": _json(dict(record.context)),
        "full_digest": record.full_digest,
        "nonfinite": _json(dict(record.nonfinite)),
    }


CHECKPOINT_COLUMNS = (
    *("run", "version", "moment", "epoch", "step", "metrics", "created_at", "digest", "nbytes", "stored_bytes"),
    *("sections", "kind", "reason", "parents", "stall_seconds", "write_seconds", "context", "full_digest"),
    "nonfinite",
)
METRIC_COLUMNS = ("run", "version", "name", "value", "ranked", "moment", "later")


def metric_rows(record: CheckpointRecord) -> list[tuple[object, ...]]:
    """Rows of `_metrics`, as METRIC_COLUMNS, for the training's own metrics. SQLite has no NaN: it is NULL there."""
    at, run, version, sound = moment(record), record.run, record.version, not record.nonfinite
    return [
        (run, version, name, value, value, at, 0)
        if sound and math.isfinite(value)
        else (run, version, name, _number(value), None, at, 0)
        for name, value in record.own_metrics.items()
    ]


def later_rows(record: CheckpointRecord) -> list[tuple[object, ...]]:
    """The same for what was measured later."""
    evaluated = {each.name: each.value for each in record.evaluations}
    rows = metric_rows(replace(record, metrics=evaluated, evaluations=()))
    return [(*row[:-1], 1) for row in rows]


def image(record: CheckpointRecord) -> str:
    """All that the index has of a checkpoint, as text: in a damaged row anything may be of any type."""
    row = checkpoint_row(record)
    return image_of([row[name] for name in CHECKPOINT_COLUMNS], [*metric_rows(record), *later_rows(record)])


def image_of(checkpoint: Iterable[object], metrics: Iterable[Iterable[object]]) -> str:
    """The same of rows, as CHECKPOINT_COLUMNS and METRIC_COLUMNS."""
    return repr((list(checkpoint), sorted(repr(list(row)) for row in metrics)))


Key = tuple[str, int]
"""Run and version."""


def checkpoint_from_row(row: tuple[Any, ...]) -> CheckpointRecord:
    """The way back, of RECORD_COLUMNS. What other tables know of it is put in by `marked`.

    Raises TypeError or ValueError for a row that was never written: in a damaged one anything may be of any type.
    """
    run, version, epoch, step, created_at, digest, nbytes, stored_bytes, kind, reason, stall, write = row[:12]
    full_digest, metrics, sections, parents, context, nonfinite = row[12:]
    always = (type(run), type(version), type(digest), type(nbytes), type(stored_bytes), type(kind))
    sometimes = type(epoch) in _INTEGER and type(step) in _INTEGER and type(reason) in _TEXT
    if (*always, type(stall), type(write)) != _TYPES or not sometimes or type(full_digest) not in _TEXT:
        raise TypeError(f"{run!r}@v{version!r} has values of other types")
    return CheckpointRecord.of(
        {
            "run": run,
            "version": version,
            "epoch": epoch,
            "step": step,
            "metrics": _metrics(metrics),
            "created_at": datetime.fromisoformat(created_at),
            "digest": digest,
            "nbytes": nbytes,
            "stored_bytes": stored_bytes,
            "sections": _sections(sections),
            "kind": kind,
            "reason": reason,
            "parents": () if parents is None else tuple(Parent(*each) for each in parsed(parents)),
            "stall_seconds": stall,
            "write_seconds": write,
            "context": {} if context is None else parsed(context),
            "tags": (),
            "pinned": False,
            "full_digest": full_digest,
            "nonfinite": {} if nonfinite is None else parsed(nonfinite),
            "evaluations": (),
        }
    )


def marked(
    records: list[CheckpointRecord],
    *,
    tags: Mapping[Key, tuple[str, ...]],
    pinned: frozenset[Key],
    evaluations: Mapping[Key, Sequence[Evaluation]],
) -> list[CheckpointRecord]:
    """The checkpoints with what other tables know of them."""
    told = {*tags, *pinned, *evaluations}
    if not told:
        return records

    def mark(record: CheckpointRecord, key: Key) -> CheckpointRecord:
        later = tuple(each for each in evaluations.get(key, ()) if each.name not in record.metrics)
        metrics = {**record.metrics, **{each.name: each.value for each in later}}
        return replace(record, tags=tags.get(key, ()), pinned=key in pinned, evaluations=later, metrics=metrics)

    keyed = ((each, (each.run, each.version)) for each in records)
    return [mark(each, key) if key in told else each for each, key in keyed]


def marks(rows: Iterable[sqlite3.Row]) -> tuple[dict[Key, tuple[str, ...]], frozenset[Key]]:
    """The tags of each checkpoint that has some, and which are pinned, from rows of `_runs`."""
    found: dict[Key, tuple[str, ...]] = {}
    pinned: set[Key] = set()
    for row in rows:
        name = row["name"]
        pinned.update((name, version) for version in parsed(row["pins"]))
        for tag, version in sorted(parsed(row["tags"]).items()):
            found[name, version] = (*found.get((name, version), ()), tag)
    return found, frozenset(pinned)


def evaluation_row(run: str, evaluation: Evaluation) -> Row:
    """A row of `_evaluations`."""
    return {
        "run": run,
        "version": evaluation.version,
        "name": evaluation.name,
        "value": _number(evaluation.value),
        "added_at": evaluation.at.isoformat(),
        "added_by": evaluation.by,
        "added_user": evaluation.user,
    }


def evaluation_from_row(row: sqlite3.Row) -> Evaluation:
    """The way back."""
    return Evaluation(
        version=row["version"],
        name=text(row["name"]),
        value=math.nan if row["value"] is None else row["value"],
        at=datetime.fromisoformat(row["added_at"]),
        by=row["added_by"],
        user=row["added_user"],
    )


def text(value: object) -> str:
    """What must be a text, and may in a damaged row be anything. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} stands where a text was")
    return value


def parsed(document: str) -> Any:
    """The JSON in a column."""
    if document in ("[]", "{}"):
        return [] if document == "[]" else {}
    if len(document) < _SHORT:
        return orjson.loads(document)
    return load(document.encode(), name="a row of the index")


def _metrics(document: str) -> dict[str, float]:
    metrics = orjson.loads(document) if len(document) < _SHORT else parsed(document)
    if type(metrics) is not dict:
        raise TypeError(f"metrics are an object, and not {document[:60]}")
    return {name: float(value) for name, value in metrics.items()} if _TEXT_VALUE in document else metrics


@functools.lru_cache(256)
def _sections(document: str) -> tuple[str, ...]:
    return tuple(parsed(document))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _plain(value: float) -> float | str:
    """JSON has no number for these: `nan`, `inf`, `-inf`."""
    return value if math.isfinite(value) else str(value)


def moment(record: CheckpointRecord) -> int:
    """When it was captured, in microseconds since 1970."""
    return (record.created_at - _EPOCH) // _MICROSECOND


def _json(document: object) -> str:
    return dump(document).decode()
