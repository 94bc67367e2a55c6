"""What `--json` prints: the fields of the records, by their names. A key, once printed, keeps its meaning."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_tracker.records import CheckpointRecord, Finding, Monitor, RunRecord

Document = dict[str, Any]

CHECKPOINT_KEYS = (
    "ref, run, version, epoch, step, metrics {name: number}, created_at (UTC), digest, nbytes, stored_bytes, "
    "sections [name], kind, reason, parents [{ref, digest, overrides}], stall_seconds, write_seconds, "
    "context (world size, data, …), tags [name], best"
)


def checkpoint_document(record: CheckpointRecord, *, best: bool) -> Document:
    """A checkpoint; `best` by its run's own monitor."""
    return {"ref": record.ref, **dataclasses.asdict(record), "best": best}


def run_document(record: RunRecord) -> Document:
    """A run."""
    return dataclasses.asdict(record)


def monitor_document(monitor: Monitor | None) -> Document | None:
    """`{metric, mode}`, or None."""
    return None if monitor is None else dataclasses.asdict(monitor)


def finding_document(finding: Finding) -> Document:
    """What `verify` found wrong; the path is absolute."""
    return {"ref": finding.ref, "path": str(finding.path), "problem": finding.problem}
