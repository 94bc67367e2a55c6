"""The best of a run's checkpoints, or of several runs', by a metric or an expression."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ckpt_tracker.criteria import Scorer, Tie, quoted, winner
from ckpt_tracker.errors import CheckpointNotFound, InvalidOption
from ckpt_tracker.records import CheckpointRecord, Mode, Monitor, RunRecord
from ckpt_tracker.selection import check_monitor

if TYPE_CHECKING:
    from ckpt_tracker.checkpoint import Checkpoint
    from ckpt_tracker.store import Store


def check_terms(*, tie: str, min_delta: float) -> None:
    """Raises InvalidOption for what can't be meant."""
    if tie not in ("first", "last"):
        raise InvalidOption(f"tie={tie!r}: expected 'first' (of equal ones the earlier) or 'last'")
    if type(min_delta) not in (int, float) or not 0 <= min_delta < math.inf:
        raise InvalidOption(f"min_delta={min_delta!r}: expected a number, 0 or more")


def best_of(
    records: Sequence[CheckpointRecord], monitor: Monitor, *, what: str, tie: Tie = "first", min_delta: float = 0.0
) -> CheckpointRecord:
    """The best of the records, which are in the order of time; `what` is what errors call them.

    Raises CheckpointNotFound, with the nearest metric or with what keeps them from being ranked; InvalidOption.
    """
    scorer = Scorer(monitor, records)
    if scorer.unknown:
        raise CheckpointNotFound(f"{scorer.unknown_text} (in {what})")
    scores = scorer.scores()
    best = winner(scores, monitor, tie=tie, min_delta=min_delta)
    if best is None:
        reasons = Counter(each.unranked for each in scores).most_common(3)
        told = "; ".join(f"{reason} ({count} of {len(scores)})" for reason, count in reasons)
        raise CheckpointNotFound(f"no checkpoint of {what} can be ranked by {monitor.metric!r}: {told}")
    return best.record


def common_monitor(runs: Iterable[RunRecord]) -> Monitor:
    """What all the runs monitor that monitor something. Raises InvalidOption where they differ, or none does."""
    monitors = {run.name: run.monitor for run in runs}
    first = next(filter(None, monitors.values()), None)
    if first is not None and set(monitors.values()) <= {first, None}:
        return Monitor(quoted(first.metric), first.mode)
    told = [f"{name}: {f'{each.metric} ({each.mode})' if each else 'none'}" for name, each in monitors.items()]
    raise InvalidOption(
        f"the runs do not monitor one and the same metric ({', '.join(told[:5]) or 'there are no runs'}): name one"
    )


def best_of_runs(
    store: Store,
    metric: str | None,
    mode: Mode | None,
    *,
    runs: Iterable[str] | None,
    tie: Tie,
    min_delta: float,
) -> Checkpoint:
    """What `Store.best` does."""
    check_terms(tie=tie, min_delta=min_delta)
    store.drain()
    named = check_monitor(metric, mode)
    if named is not None and runs is None and tie == "first" and not min_delta:
        key = store.index.best_of_all(named)
        if key is not None:
            return store[f"{key[0]}@v{key[1]}"]
    chosen = store.runs() if runs is None else [store.find_run(name) for name in dict.fromkeys(runs)]
    monitor = named or common_monitor(run.record for run in chosen)
    records = [record for run in chosen for record in store.index.checkpoints(run.name)]
    records.sort(key=lambda record: (record.created_at, record.run, record.version))
    what = f"the runs {', '.join(run.name for run in chosen)}"
    return store.checkpoint(best_of(records, monitor, what=what, tie=tie, min_delta=min_delta))


def last_of_all(store: Store) -> Checkpoint:
    """What `Store.last` does."""
    store.drain()
    newest = store.index.page(limit=1)
    if not newest:
        raise CheckpointNotFound(f"the store {store.path} has no checkpoints yet")
    return store.checkpoint(newest[0])
