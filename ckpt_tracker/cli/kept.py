"""What a run's own retention says of its checkpoints: for `why`, `ls` and `du`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_tracker.records import CheckpointRecord, Decision, RunRecord
    from ckpt_tracker.store import Store


def own_retention(run: RunRecord) -> str | None:
    """The retention, as text, that the run was last trained with."""
    keep = run.last_start.get("keep")
    return keep if isinstance(keep, str) else None


def decisions(
    store: Store, run: RunRecord, records: Sequence[CheckpointRecord], *, keep: str | None = None
) -> tuple[Decision, ...]:
    """What the run's own retention, or `keep`, decides for all its checkpoints; none for a run without one.

    By its own retention the newest is kept besides: there must be one to resume from. Raises InvalidOption for a
    retention that is none.
    """
    from ckpt_tracker.retention import decide, parse

    policy = keep or own_retention(run)
    if policy is None or not records:
        return ()
    return decide(
        parse(policy),
        records,
        now=datetime.now(timezone.utc),
        monitors={run.name: run.monitor},
        always={} if keep else {(run.name, records[-1].version): "newest"},
        footprint=store.reclaimer.footprint,
    )
