"""A run's history: what was saved, evicted, removed, restored, tagged and pinned, when, by whom, and why.

It is told by the run's events, which are only ever appended, and by the manifests that are there. Of a checkpoint that
is gone, the event that took it remembers what it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ckpt_tracker.disk import fields
from ckpt_tracker.files import run_files
from ckpt_tracker.files.events import evaluations, mark

if TYPE_CHECKING:
    from ckpt_tracker.records import CheckpointRecord
    from ckpt_tracker.store import Store

_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_DONE = {"remove": "removed", "evict": "evicted", "strip": "stripped", "restore": "restored"}
_NAMES = {**_DONE, "tag": "tagged", "untag": "untagged", "pin": "pinned", "unpin": "unpinned", "evaluate": "evaluated"}
_NAMES |= {"start": "started", "finish": "finished"}


@dataclass(frozen=True)
class Entry:
    """One thing that happened to a run."""

    at: datetime
    run: str
    event: str
    """`saved`, `evicted` (for good), `removed` (to the trash), `stripped`, `restored`, `tagged`, `evaluated`, …"""
    versions: tuple[int, ...] = ()
    by: str | None = None
    """`tracker`, `python`, or a command of `ckpt`."""
    user: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Of a save: epoch, step, reason, metrics. Of a tag: tag, and the version that had it before. Of what retention
    took: keep. Of a start: resumed_from, keep. Of an evaluation: metrics."""


def of_run(store: Store, run: str) -> list[Entry]:
    """All of it, oldest first."""
    events = list(run_files.events(store.layout, run))
    known: dict[int, Mapping[str, Any]] = {}
    for event in events:
        known.update(_described(event))
    trashed = [each.checkpoint for each in store.trash() if each.checkpoint.run == run]
    for record in [*trashed, *store.index.checkpoints(run)]:
        known[record.version] = _description(record)
    saved = [_saved(run, version, known[version]) for version in sorted(known)]
    return sorted([*saved, *_entries(run, events)], key=lambda entry: entry.at)


def tags_at(store: Store, run: str, moment: datetime) -> dict[str, int]:
    """Where each tag stood at that moment."""
    tags: dict[str, int] = {}
    for event in run_files.events(store.layout, run):
        if _moment(event.get("at")) <= moment:
            mark(event, tags=tags, pins={})
    return tags


def _entries(run: str, events: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    tags: dict[str, int] = {}
    for event in events:
        name = _NAMES.get(event["event"])
        details = {key: event[key] for key in ("keep", "resumed_from", "tag") if event.get(key)}
        if name == "evaluated":
            details["metrics"] = {each.name: each.value for each in evaluations(event)}
        if "tag" in details:
            details["before"] = tags.get(details["tag"])
        mark(event, tags=tags, pins={})
        versions = event.get("versions") or ([event["version"]] if "version" in event else [])
        if name is not None:
            who = {key: event[key] for key in ("by", "user") if isinstance(event.get(key), str)}
            yield Entry(_moment(event.get("at")), run, name, tuple(versions), details=details, **who)


def _described(event: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """What an event says of checkpoints that went with it, as far as it makes sense."""
    for each in event.get("checkpoints") or ():
        with contextlib.suppress(LookupError, TypeError, ValueError):
            yield (
                fields.version(each["version"]),
                {
                    "created_at": fields.moment(each["created_at"]),
                    "epoch": fields.optional_natural(each["epoch"]),
                    "step": fields.optional_natural(each["step"]),
                    "reason": fields.optional_text(each["reason"]),
                    "metrics": dict(fields.mapping(each["metrics"])),
                },
            )


def _description(record: CheckpointRecord) -> dict[str, Any]:
    names = ("created_at", "epoch", "step", "reason")
    return {**{name: getattr(record, name) for name in names}, "metrics": record.own_metrics}


def _saved(run: str, version: int, description: Mapping[str, Any]) -> Entry:
    details = {name: value for name, value in description.items() if name != "created_at"}
    return Entry(description["created_at"], run, "saved", (version,), details=details)


def _moment(text: object) -> datetime:
    try:
        return fields.moment(text)
    except ValueError:
        return _EPOCH
