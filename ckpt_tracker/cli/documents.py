"""What `--json` prints: the fields of the records, by their names. A key, once printed, keeps its meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_tracker.records import CheckpointRecord, Decision, Finding, Monitor, Plan, RunRecord

Document = dict[str, Any]


def checkpoint_document(record: CheckpointRecord, *, best: bool) -> Document:
    """A checkpoint; `best` by its run's own monitor."""
    from ckpt_tracker.cli.checkpoint_table import shared_bytes

    fields = dict(vars(record))
    for name in ("parents", "evaluations"):
        fields[name] = [dict(vars(each)) for each in fields[name]]
    return {"ref": record.ref, **fields, "shared_bytes": shared_bytes(record), "best": best}


def decision_document(decision: Decision) -> Document:
    """What a retention decides for a checkpoint."""
    record = decision.checkpoint
    names = ("ref", "run", "version", "epoch", "step", "metrics", "created_at", "nbytes")
    what = {name: getattr(record, name) for name in names}
    return {**what, "keep": decision.keep, "weights_only": decision.weights_only, "reasons": decision.reasons}


def plan_document(plan: Plan) -> Document:
    """All its decisions."""
    decisions = [decision_document(each) for each in plan.decisions]
    return {"keep": plan.keep, "freed_bytes": plan.freed_bytes, "decisions": decisions}


def run_document(record: RunRecord) -> Document:
    """A run."""
    return {**vars(record), "monitor": monitor_document(record.monitor)}


def monitor_document(monitor: Monitor | None) -> Document | None:
    """`{metric, mode}`, or None."""
    return None if monitor is None else dict(vars(monitor))


def finding_document(finding: Finding) -> Document:
    """What `verify` found wrong; the path is absolute."""
    return {**vars(finding), "path": str(finding.path)}
