"""The trash: what a person removed, and can have back until it is emptied."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from ckpt_tracker.disk.formats import file_name, versions
from ckpt_tracker.environment import user
from ckpt_tracker.errors import CheckpointNotFound, CkptTrackerError, InvalidOption
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files import run_files
from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.retention import keeping
from ckpt_tracker.retention.reclaim import TRASH_SECONDS
from ckpt_tracker.selection import Reference, nearest, parse

if TYPE_CHECKING:
    from ckpt_tracker.store import Store

_log = logging.getLogger("ckpt_tracker")


@dataclass(frozen=True)
class Trashed:
    """A checkpoint in the trash, as it was."""

    checkpoint: CheckpointRecord
    removed_at: datetime
    stripped: bool
    """It is in its run still, with its weights only."""
    change: str = ""
    """The same for all that went at once."""
    by: str | None = None
    """What removed it: a command, or `python`."""
    user: str | None = None
    keep: str | None = None
    """The retention that it fell to."""

    @property
    def until(self) -> datetime:
        """From then on a `gc` deletes it."""
        return self.removed_at + timedelta(seconds=TRASH_SECONDS)


def listing(store: Store) -> list[Trashed]:
    """All of it: what went last first, and what went together by version. What can't be read is left out, and named."""
    layout = store.layout
    found = []
    for run in layout.run_names():
        there = versions(layout.trash / run)
        events = _removals(store, run) if there else {}
        for version in there:
            try:
                moment = os.stat(layout.trash / run / file_name(version)).st_mtime
                record = manifests.read(layout.trash / run, version, run=run).record
            except (CkptTrackerError, FileNotFoundError) as error:
                _log.warning("%s@v%d in the trash is left out: %s", run, version, error)
                continue
            event = events.get(version, {})
            found.append(
                Trashed(
                    record,
                    datetime.fromtimestamp(moment, timezone.utc),
                    stripped=(layout.manifests(run) / file_name(version)).exists(),
                    change=str(event.get("change") or f"{run} {event.get('at')}"),
                    **{name: _text(event.get(name)) for name in ("by", "user", "keep")},
                )
            )
    latest: dict[str, datetime] = {}
    for each in found:
        latest[each.change] = max(each.removed_at, latest.get(each.change, each.removed_at))
    return sorted(found, key=lambda each: latest[each.change], reverse=True)


def restore(store: Store, reference: str | None) -> list[CheckpointRecord]:
    """Brings back what the reference means, or what went last, all that went with it; returns it, oldest first.

    Raises CheckpointNotFound where there is nothing of it in the trash.
    """
    with keeping.alone(store):
        there = listing(store)
        chosen = _last_change(there) if reference is None else _meant(there, reference, store)
        change = os.urandom(8).hex()
        restored: list[CheckpointRecord] = []
        for run in sorted({each.checkpoint.run for each in chosen}):
            numbers = sorted(each.checkpoint.version for each in chosen if each.checkpoint.run == run)
            records = store.reclaimer.restore(run, numbers, by=store.by, user=user(), change=change)
            store.index.put(records)
            restored += records
    return restored


def _last_change(there: Sequence[Trashed]) -> list[Trashed]:
    if not there:
        raise CheckpointNotFound("the trash is empty: there is nothing to undo")
    return [each for each in there if each.change == there[0].change]


def _meant(there: Sequence[Trashed], reference: str, store: Store) -> list[Trashed]:
    wanted = parse(reference)
    mine = [each for each in there if each.checkpoint.run == wanted.run]
    if "@" not in reference:
        found = _last_change(mine) if mine else []
    else:
        tags = store.run_record(wanted.run).tags if mine else {}
        newest_first = sorted(mine, key=lambda each: -each.checkpoint.version)
        found = [each for each in newest_first if _matches(wanted, each.checkpoint, tags)][:1]
    if not found:
        hint = nearest(reference, [each.checkpoint.ref for each in there])
        raise CheckpointNotFound(f"{reference!r} is not in the trash{hint}")
    return found


def _matches(wanted: Reference, record: CheckpointRecord, tags: Mapping[str, int]) -> bool:
    if wanted.by == "tag":
        return tags.get(wanted.tag or "") == record.version
    if wanted.by in ("version", "epoch", "step"):
        return bool(getattr(record, wanted.by) == wanted.number)
    if wanted.by == "last":
        return True
    raise InvalidOption("of what is in the trash nothing is best: name RUN, RUN@last, RUN@v12, RUN@epoch:3 or RUN@TAG")


def _removals(store: Store, run: str) -> dict[int, dict[str, Any]]:
    """The last event that took each version."""
    found: dict[int, dict[str, Any]] = {}
    for event in run_files.events(store.layout, run):
        if event["event"] in ("remove", "strip"):
            found.update(dict.fromkeys(event.get("versions", ()), event))
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
