"""What is wrong with the files of a run, apart from its manifests and objects: a verify's questions to `run.json`, to
the events, to the index, and about manifests that are not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ckpt_tracker.disk.formats import file_name, versions
from ckpt_tracker.errors import Damaged, FormatTooNew
from ckpt_tracker.files import run_files
from ckpt_tracker.files.events import EventLog
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.index.rows import image
from ckpt_tracker.inspection import event_audit
from ckpt_tracker.inspection.event_audit import Audit
from ckpt_tracker.records import CheckpointRecord, Finding

if TYPE_CHECKING:
    from ckpt_tracker.files.manifest import Manifest
    from ckpt_tracker.index.database import Index


def findings(layout: Layout, run: str, read: Iterable[Manifest]) -> list[Finding]:
    """What is wrong with a run, as far as the manifests that could be read tell it."""
    found = list(read)
    log = EventLog(layout.events(run))
    try:
        audit = event_audit.audit(log)
    except Damaged as error:
        return [*_of_run_file(layout, run), Finding(run, log.path, str(error), "file")]
    return [
        *_of_run_file(layout, run),
        *_of_events(run, log, audit, found),
        *(
            Finding(f"{run}@v{version}", path, f"manifest {path} of {run}@v{version} is missing", "missing manifest")
            for version in missing(layout, run, audit, found)
            if not (path := layout.manifests(run) / file_name(version)).exists()
        ),
    ]


def missing(layout: Layout, run: str, audit: Audit, read: Iterable[Manifest]) -> list[int]:
    """The versions that others know of, and that are neither here nor in the trash, nor were removed."""
    known = set(audit.known)
    for manifest in read:
        for parent in manifest.record.parents:
            name, _, version = parent.ref.rpartition("@v")
            if name == run and version.isdecimal():
                known.add(int(version))
    there = {*versions(layout.manifests(run)), *versions(layout.trash / run)}
    return sorted(known - there - audit.removed)


def index_findings(index: Index, run: str, records: Iterable[CheckpointRecord]) -> Iterator[Finding]:
    """Rows that say something else than the manifests. What is not in the index yet is no damage."""
    indexed, known = index.images(run), index.run(run)
    for record in records:
        evaluations = known.evaluations if known else ()
        later = [each for each in evaluations if each.version == record.version and each.name not in record.metrics]
        wanted = image(replace(record, evaluations=tuple(later)))
        if indexed.get(record.version, wanted) != wanted:
            message = f"the index {index.path} is damaged: it does not say of {record.ref} what its manifest says"
            yield Finding("", index.path, message, "index")


def _of_run_file(layout: Layout, run: str) -> Iterator[Finding]:
    path = layout.run(run) / "run.json"
    try:
        run_files.read_start(layout, run)
    except FileNotFoundError:
        # without manifests another process is about to start it
        if versions(layout.manifests(run)):
            yield Finding(run, path, f"{path} is missing", "run")
    except FormatTooNew as error:
        yield Finding(run, path, str(error), "newer")
    except Damaged as error:
        yield Finding(run, path, str(error), "run")


def _of_events(run: str, log: EventLog, audit: Audit, read: Iterable[Manifest]) -> Iterator[Finding]:
    for line in audit.damaged:
        yield Finding(run, log.path, line.problem, "events")
    told = max((each.events for each in read), default=0)
    least = max(audit.least, told if told > audit.excused else 0)
    if log.nbytes < least or audit.cut:
        message = f"{log.path} is damaged: some of the {least} bytes that it had are missing"
        yield Finding(run, log.path, message, "events")
    if audit.problem and (told or log.length_file.exists()):
        yield Finding(run, log.length_file, audit.problem, "events")
