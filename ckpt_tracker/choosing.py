"""The best of a run's checkpoints, or of several runs', by a metric or an expression."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ckpt_tracker.criteria import Scorer, Tie, quoted, winner
from ckpt_tracker.errors import CheckpointNotFound, InvalidOption
from ckpt_tracker.records import CheckpointRecord, Monitor, RunRecord


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
    """What all the runs monitor. Raises InvalidOption where they differ, or monitor nothing."""
    monitors = {run.name: run.monitor for run in runs}
    first = next(iter(monitors.values()), None)
    if first is not None and set(monitors.values()) == {first}:
        return Monitor(quoted(first.metric), first.mode)
    told = [f"{name}: {f'{each.metric} ({each.mode})' if each else 'none'}" for name, each in monitors.items()]
    raise InvalidOption(
        f"the runs do not monitor one and the same metric ({', '.join(told[:5]) or 'there are no runs'}): name one"
    )
