"""What the files of a store's runs say, and bringing the index up to it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ckpt_tracker.environment import describe
from ckpt_tracker.errors import CkptTrackerError, Damaged
from ckpt_tracker.events import EventLog
from ckpt_tracker.filesystem import make_folder, sync_path, write_durably
from ckpt_tracker.formats import FORMAT, open_document, versions
from ckpt_tracker.index import Index
from ckpt_tracker.jsonfile import plain, seal
from ckpt_tracker.layout import Layout
from ckpt_tracker.records import CheckpointRecord, RunRecord

_log = logging.getLogger("ckpt_tracker")


def exists(layout: Layout, name: str) -> bool:
    """The run has been started."""
    return _path(layout, name).exists()


def start(layout: Layout, name: str, config: Mapping[str, Any], *, unnamed: bool) -> None:
    """Writes a run's `run.json`; durable when it returns. What JSON can't hold of the config becomes text."""
    make_folder(layout.manifests(name))
    sync_path(layout.runs)  # a start that was killed may have made the folder, and not synced its name
    document = {
        "format": FORMAT,
        "name": name,
        "created_at": datetime.now(timezone.utc).isoformat(),
        "config": plain(dict(config)),
        "environment": describe(),
        "unnamed": unnamed,
    }
    write_durably(_path(layout, name), seal(document), tmp=layout.tmp)


def read(layout: Layout, name: str) -> RunRecord:
    """A run as `run.json` and its events tell it. Where `run.json` is damaged that is said, and its config is empty."""
    path = _path(layout, name)
    state = events(layout, name).state()
    try:
        record = _from_json(open_document(path.read_bytes(), name=str(path)))
    except (Damaged, FileNotFoundError) as error:
        _log.warning("the config of run %s is lost: %s", name, error)
        record = RunRecord(name, datetime.fromtimestamp(0, timezone.utc))
    tags = dict(sorted(state.tags.items()))
    return replace(record, finished=state.finished, monitor=state.monitor, last_start=state.last_start, tags=tags)


def events(layout: Layout, name: str) -> EventLog:
    """A run's events."""
    return EventLog(layout.events(name))


def bring_up_to_date(index: Index, layout: Layout) -> None:
    """Makes the index say what manifests and events say; a manifest that can't be read is left out, and named."""
    known = index.versions()
    indexed_runs = {run.name: run for run in index.runs()}
    for name in layout.run_names():
        on_disk = set(versions(layout.manifests(name)))
        if not on_disk and not exists(layout, name):
            continue  # another process is about to start it
        record = read(layout, name)
        if indexed_runs.pop(name, None) != record:
            index.put_run(record)
        indexed = known.get(name, set())
        if indexed - on_disk:
            index.remove(name, indexed - on_disk)
        if on_disk - indexed:
            index.put(_readable(layout, name, sorted(on_disk - indexed)))
    for name in indexed_runs:
        index.remove_run(name)


def _path(layout: Layout, name: str) -> Path:
    return layout.run(name) / "run.json"


def _readable(layout: Layout, run: str, missing: Iterable[int]) -> list[CheckpointRecord]:
    from ckpt_tracker import manifest

    found = []
    for version in missing:
        try:
            found.append(manifest.read(layout.manifests(run), version, run=run).record)
        except CkptTrackerError as error:
            _log.warning("%s@v%d is left out: %s", run, version, error)
    return found


def _from_json(document: Mapping[str, Any]) -> RunRecord:
    return RunRecord(
        name=document["name"],
        created_at=datetime.fromisoformat(document["created_at"]),
        config=document["config"],
        environment=document["environment"],
        unnamed=document["unnamed"],
    )
