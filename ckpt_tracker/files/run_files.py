"""What the files of a store's runs say."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_tracker.disk import fields
from ckpt_tracker.disk.filesystem import FileLock, make_folder, naming_full_disk, write_durably
from ckpt_tracker.disk.formats import FORMAT, read_document
from ckpt_tracker.disk.jsonfile import plain, seal
from ckpt_tracker.disk.plain_files import kind_of_file
from ckpt_tracker.environment import describe
from ckpt_tracker.errors import Damaged, InvalidOption
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.records import RunRecord
from ckpt_tracker.selection import RUN_NAME

if TYPE_CHECKING:
    from ckpt_tracker.files.events import EventLog, EventState

_log = logging.getLogger("ckpt_tracker")


def exists(layout: Layout, name: str) -> bool:
    """The run has been started. Raises Damaged where its folders are not the store's own."""
    if not RUN_NAME.fullmatch(name):
        return False
    layout.check_run(name)
    return kind_of_file(_path(layout, name)) is not None


def is_taken(layout: Layout, name: str) -> bool:
    """A training holds the run."""
    lock = FileLock(layout.run(name) / "lock")
    try:
        return not lock.acquire(shared=True, wait=False)
    finally:
        lock.release()


def start(layout: Layout, name: str, config: Mapping[str, Any], *, unnamed: bool) -> None:
    """Writes a run's `run.json`; durable when it returns. What JSON can't hold of the config becomes text.

    Raises StoreFull; InvalidOption where there is a run whose name is the same but for upper and lower case.
    """
    for other in layout.run_names():
        if other.lower() == name.lower() and other != name:
            raise InvalidOption(f"run {name!r} would be run {other!r} on other file systems: give it another name")
    now = datetime.now(timezone.utc)
    with naming_full_disk(layout.root):
        make_folder(layout.manifests(name))
        _write(layout, RunRecord(name, now, plain(dict(config)), describe(), unnamed))


def rewrite(layout: Layout, name: str, *, created_at: datetime | None) -> None:
    """Writes a `run.json` that was lost, from what the run's events remember; durable when it returns."""
    start = events(layout, name).state().last_start
    moment = created_at or datetime.now(timezone.utc)
    _write(layout, RunRecord(name, moment, start.get("config", {}), start.get("environment", {})))


def _write(layout: Layout, record: RunRecord) -> None:
    document = {
        "format": FORMAT,
        "name": record.name,
        "created_at": record.created_at.isoformat(),
        "config": record.config,
        "environment": record.environment,
        "unnamed": record.unnamed,
    }
    write_durably(_path(layout, record.name), seal(document), tmp=layout.tmp)


def read(layout: Layout, name: str) -> RunRecord:
    """A run as `run.json` and its events tell it. What of it is damaged is said, and empty. Raises FormatTooNew."""
    return examine(layout, name)[0]


def examine(layout: Layout, name: str) -> tuple[RunRecord, EventState, bool]:
    """The same, with what the events add up to, and whether all of it could be read."""
    from ckpt_tracker.files.events import EventState

    sound = True
    try:
        record = read_start(layout, name)
    except (Damaged, FileNotFoundError) as error:
        _log.warning("the config of run %s is lost: %s", name, error)
        record, sound = RunRecord(name, datetime.fromtimestamp(0, timezone.utc)), False
    try:
        state = events(layout, name).state()
    except Damaged as error:
        _log.warning("the tags of run %s are lost: %s", name, error)
        state, sound = EventState(), False
    told = {name: getattr(state, name) for name in ("finished", "monitor", "last_start", "pins", "evaluations")}
    return replace(record, **told, tags=dict(sorted(state.tags.items()))), state, sound and not state.damaged


def read_start(layout: Layout, name: str) -> RunRecord:
    """What `run.json` says alone. Raises Damaged, FileNotFoundError, FormatTooNew."""
    path = _path(layout, name)
    document = read_document(path)
    try:
        record = RunRecord(
            name=fields.name(document["name"]),
            created_at=fields.moment(document["created_at"]),
            config=fields.mapping(document["config"]),
            environment=fields.mapping(document["environment"]),
            unnamed=fields.flag(document["unnamed"]),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    if record.name != name:
        raise Damaged(f"{path} is damaged: it is that of run {record.name[:100]!r}")
    return record


def events(layout: Layout, name: str) -> EventLog:
    """A run's events."""
    from ckpt_tracker.files.events import EventLog

    return EventLog(layout.events(name), tmp=layout.tmp)


def _path(layout: Layout, name: str) -> Path:
    return layout.run(name) / "run.json"
