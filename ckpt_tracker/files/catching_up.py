"""Bringing the index up to what manifests and events say, without listing each folder every time.

Opening a store looks at three things of each run: the folder of its manifests, `run.json` and `events.jsonl`. Where
inode, size, mtime and ctime of all three are what they were when the index was brought up to them, nothing is read. A
difference proves nothing and costs one listing; what must hold is that no difference means no change:

- A name that comes or goes, and a manifest that is renamed over another, set the folder's mtime and ctime to now, and
  an append sets those of the file. Restoring a backup can set mtime back, and a folder's size says little, but nobody
  can set ctime: what was restored, copied or touched is looked at again. Moving the whole store changes none of them.
- A clock has ticks (4 ms on Linux, 2 s on FAT): a change after the look may leave the times as they were when there was
  another one just before. So they are remembered only when they lie back further than any tick; until then the run is
  listed. Times in the future never are.
- They are taken before the listing: what comes after that is not what was remembered. They are written together with,
  or after, what was found; a power cut that takes the index back takes them back too.
- What could not be read, or was damaged, is not remembered: it is tried, and named, each time.
- Network file systems keep times for a while, and FUSE may make them up: there nothing is remembered.

So a difference between index and files can be hidden by a clock alone that was set back, and then only for a change
that hits the very tick of an earlier one. `ckpt verify` compares every row with its manifest.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckpt_tracker.disk.formats import versions
from ckpt_tracker.errors import CkptTrackerError, Damaged, FormatTooNew
from ckpt_tracker.files import run_files
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.index.database import Index
from ckpt_tracker.records import CheckpointRecord, RunRecord

_log = logging.getLogger("ckpt_tracker")
_TICK_SECONDS = 3.0
"""More than any file system's: FAT has 2 s."""


@dataclass(frozen=True)
class _Look:
    """What the files of a run say, and what they looked like just before they were asked."""

    record: RunRecord
    versions: set[int]
    digests: dict[int, str]
    seen: str | None
    """None where that must not be remembered."""


def bring_up_to_date(index: Index, layout: Layout, *, anew: bool = False, now: float | None = None) -> None:
    """Makes the index say what manifests and events say; what can't be read is left out, and named.

    With `anew` every run is looked at, whatever is remembered. `now` is for tests: the time by which it is told
    whether a change lies back far enough.
    """
    moment = time.time() if now is None else now
    indexed = set(index.run_names())
    sources = index.sources() if layout.keeps_times and not anew else {}
    for name in layout.run_names():
        seen = sources.get(name)
        known = seen is not None and seen == _appearance(layout, name)[0]
        if known or _catch_up(index, layout, name, now=moment):
            indexed.discard(name)
    for name in indexed:
        index.remove_run(name)


def _catch_up(index: Index, layout: Layout, run: str, *, now: float) -> bool:
    """Of one run. False where there is none, or it is left out."""
    try:
        look = _look(layout, run, now=now)
        if look is None:
            return False
        if not _differs(index, look):
            if look.seen is not None:
                index.remember(run, look.seen)
            return True
        # what others do meanwhile to the same files they tell the index after this
        return index.together(lambda: _bring(index, layout, run, now=now))
    except (Damaged, FormatTooNew) as error:
        _log.warning("run %s is left out: %s", run, error)
        return False


def _bring(index: Index, layout: Layout, run: str, *, now: float) -> bool:
    look = _look(layout, run, now=now)
    if look is None:
        return False
    indexed = index.versions(run)
    unknown = (look.versions - indexed) | (look.versions & _changed(index, look))
    read = _Reading(layout, run, sorted(unknown))
    index.catch_up(look.record, removed=indexed - look.versions, added=read)
    if look.seen is not None and not read.failed:
        index.remember(run, look.seen)
    return True


def _look(layout: Layout, run: str, *, now: float) -> _Look | None:
    """None where another process is about to start the run. Raises Damaged, FormatTooNew."""
    seen, latest = _appearance(layout, run)
    on_disk = set(versions(layout.manifests(run)))
    if not on_disk and not run_files.exists(layout, run):
        return None
    record, state, sound = run_files.examine(layout, run)
    settled = layout.keeps_times and latest < now - _TICK_SECONDS
    return _Look(record, on_disk, state.digests, seen if settled and sound else None)


def _differs(index: Index, look: _Look) -> bool:
    run = look.record.name
    return index.versions(run) != look.versions or index.run(run) != look.record or bool(_changed(index, look))


def _changed(index: Index, look: _Look) -> set[int]:
    """Versions that hold something else by now than what the index has of them."""
    if not look.digests:
        return set()
    indexed = index.digests(look.record.name)
    return {version for version, digest in look.digests.items() if indexed.get(version, digest) != digest}


def _appearance(layout: Layout, run: str) -> tuple[str, float]:
    """What can be told of a run's files without opening them, and when they last changed."""
    folder = f"{layout.runs}/{run}"
    words, latest = [], 0.0
    for path in (f"{folder}/manifests", f"{folder}/run.json", f"{folder}/events.jsonl"):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            words.append("-")
        else:
            words.append(f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}")
            latest = max(latest, found.st_mtime, found.st_ctime)
    return " ".join(words), latest


class _Reading:
    """The records of a run's manifests, read one after the other. What can't be read is left out, and named."""

    def __init__(self, layout: Layout, run: str, wanted: list[int]) -> None:
        self._folder: Path = layout.manifests(run)
        self._run = run
        self._wanted = wanted
        self.failed = False

    def __iter__(self) -> Iterator[CheckpointRecord]:
        if not self._wanted:
            return
        from ckpt_tracker.files import manifest

        for version in self._wanted:
            try:
                yield manifest.read_record(self._folder, version, run=self._run)
            except CkptTrackerError as error:
                self.failed = True
                _log.warning("%s@v%d is left out: %s", self._run, version, error)
