"""What a store keeps: plans over its runs, carrying them out, and the marks that protect a checkpoint.

Whatever removes, restores or marks a checkpoint does so alone: it looks, decides and acts while no other process can
do the same, so that two plans never empty a run between them, and nothing goes that was tagged a moment ago.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from ckpt_tracker.criteria import Scorer
from ckpt_tracker.disk import fields, formats
from ckpt_tracker.disk.filesystem import FileLock, naming_full_disk
from ckpt_tracker.environment import user
from ckpt_tracker.errors import CheckpointGone, CheckpointNotFound, InvalidOption, StoreReadOnly
from ckpt_tracker.records import CheckpointRecord, Decision, Plan
from ckpt_tracker.retention import Retention, checked, decide
from ckpt_tracker.selection import nearest
from ckpt_tracker.state.tree import encode

if TYPE_CHECKING:
    from ckpt_tracker.store import Store

_log = logging.getLogger("ckpt_tracker")
TRACKER = "tracker"


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """No other process removes, restores or marks a checkpoint of the store while inside. Raises StoreReadOnly."""
    if store.read_only:
        raise StoreReadOnly(f"the store {store.path} can't be written: check its permissions")
    lock = FileLock(store.layout.locks / "retention")
    with naming_full_disk(store.path):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# -- plans ---------------------------------------------------------------------------------------------------


def plan(store: Store, keep: Retention | str, *, runs: Iterable[str] | None, now: datetime | None) -> Plan:
    """What `keep` decides for the runs. Raises InvalidOption where it names a metric that none of them has."""
    policy = checked(keep)
    names = [run.name for run in store.index.runs()] if runs is None else list(dict.fromkeys(runs))
    records = [record for name in names for record in store.index.checkpoints(name)]
    for criterion in policy.criteria():
        scorer = Scorer(criterion, records)
        if scorer.known and scorer.unknown:
            # a misspelt name must not make a person throw the best away
            raise InvalidOption(f"{policy}: {scorer.unknown_text}")
    decisions = decide(
        policy,
        records,
        now=now or datetime.now(timezone.utc),
        monitors={name: store.index.monitor(name) for name in names},
        footprint=store.reclaimer.footprint,
    )
    return Plan(decisions, keep=str(policy), count=partial(_count, store))


def apply(store: Store, wanted: Plan) -> Plan:
    """Carries a person's plan out; returns it without what has been tagged, pinned or removed meanwhile."""
    with alone(store):
        _tell(wanted)
        done = _still_wanted(store, wanted)
        _refuse_emptying(store, done)
        _tell(done)
        change = os.urandom(8).hex()
        for run in _runs(done):
            removed, stripped = _versions(done, run)
            told = _told(done, run, by=store.by)
            changed = store.reclaimer.trash(run, removed, stripped=stripped, change=change, **told)
            store.index.change(removed=[(run, version) for version in removed], changed=changed)
    return done


def evict(store: Store, wanted: Plan) -> None:
    """Carries a tracker's plan out, for good."""
    with alone(store):
        _tell(wanted)
        _evict(store, wanted)


def retain(store: Store, keep: Retention, newest: CheckpointRecord) -> Plan:
    """What a tracker does once `newest` is durable, which always stays whole: there must be one to resume from."""
    with alone(store):
        records = store.index.checkpoints(newest.run)
        always = {(each.run, each.version): "newest" for each in records if each.version >= newest.version}
        now = datetime.now(timezone.utc)
        decisions = decide(keep, records, now=now, always=always, footprint=store.reclaimer.footprint)
        done = Plan(decisions, keep=str(keep))
        _evict(store, done)
    return done


def remove(store: Store, records: Sequence[CheckpointRecord]) -> None:
    """Moves these to the trash. Raises InvalidOption for what is tagged or pinned: nothing is moved then."""
    with alone(store):
        for record in records:
            _refuse_marked(store, record)
        decisions = tuple(Decision(record, keep=False, reasons=()) for record in records)
        gone = Plan(decisions)
        change = os.urandom(8).hex()
        for run in _runs(gone):
            versions, _ = _versions(gone, run)
            store.reclaimer.trash(run, versions, change=change, **_told(gone, run, by=store.by))
            store.index.remove(run, versions)


# -- marks ---------------------------------------------------------------------------------------------------


def tag(store: Store, record: CheckpointRecord, name: str) -> int | None:
    """Names a checkpoint; returns the version that had the name before."""
    with alone(store):
        _check_there(store, record)
        before = store.run_record(record.run).tags.get(name)
        if before != record.version:
            store.record_event(record.run, "tag", tag=name, version=record.version)
    return before


def evaluate(store: Store, record: CheckpointRecord, metrics: Mapping[str, float]) -> CheckpointRecord:
    """Records what was measured later; returns the checkpoint as it is known now.

    What the training itself recorded stays: raises InvalidOption for such a name, and records nothing then.
    """
    with alone(store):
        _check_there(store, record)
        known = store.index.checkpoint(record.run, record.version) or record
        for name, value in metrics.items():
            fields.name(name)
            if name in known.own_metrics:
                raise InvalidOption(
                    f"{record.ref} was saved with {name}={known.metrics[name]:.6g}, which stays: "
                    f"give what was measured later another name than {name!r}, found {value:.6g}"
                )
        if metrics:
            store.record_event(record.run, "evaluate", version=record.version, metrics=encode(dict(metrics)).skeleton)
    return store.index.checkpoint(record.run, record.version) or record


def untag(store: Store, run: str, name: str) -> int:
    """Takes a name away; returns the version that had it. Raises CheckpointNotFound, naming the nearest."""
    with alone(store):
        tags = store.run_record(run).tags
        if name not in tags:
            raise CheckpointNotFound(f"run {run!r} has no tag {name!r}{nearest(name, tags)}")
        store.record_event(run, "untag", tag=name)
    return tags[name]


def pin(store: Store, record: CheckpointRecord) -> bool:
    """Protects a checkpoint from retention; False where it is pinned already."""
    with alone(store):
        _check_there(store, record)
        fresh = record.version not in store.run_record(record.run).pins
        if fresh:
            store.record_event(record.run, "pin", version=record.version)
    return fresh


def unpin(store: Store, record: CheckpointRecord) -> bool:
    """Leaves a checkpoint to retention again; False where it is not pinned."""
    with alone(store):
        pinned = record.version in store.run_record(record.run).pins
        if pinned:
            store.record_event(record.run, "unpin", version=record.version)
    return pinned


# -- behind --------------------------------------------------------------------------------------------------


def _evict(store: Store, done: Plan) -> None:
    for run in _runs(done):
        # what the index says of tags is up to date: who tags has told it before others may act
        record = store.index.run(run)
        safe = {*record.tags.values(), *record.pins} if record else set()
        removed, stripped = ([each for each in versions if each not in safe] for versions in _versions(done, run))
        if removed or stripped:
            changed = store.reclaimer.evict(run, removed, stripped=stripped, **_told(done, run, by=TRACKER))
            store.index.change(removed=[(run, version) for version in removed], changed=changed)


def _still_wanted(store: Store, wanted: Plan) -> Plan:
    """The plan, with what has got a tag or a pin since it was made kept whole, and without what is gone by now."""
    decisions = []
    for run in dict.fromkeys(each.checkpoint.run for each in wanted.decisions):
        record = store.run_record(run)
        names = {version: f"tag:{name}" for name, version in record.tags.items()}
        marks = {**dict.fromkeys(record.pins, "pinned"), **names}
        there = set(formats.versions(store.layout.manifests(run)))
        for each in wanted.decisions:
            version = each.checkpoint.version
            if each.checkpoint.run != run or version not in there:
                continue
            loses = each.weights_only or not each.keep
            decisions.append(_protected(each, marks[version]) if loses and version in marks else each)
    done = replace(wanted, decisions=tuple(decisions))
    return wanted if done.decisions == wanted.decisions else done


def _protected(decision: Decision, reason: str) -> Decision:
    return replace(decision, keep=True, weights_only=False, reasons=(reason,))


def _count(store: Store, made: Plan) -> int:
    return store.reclaimer.freed_by(made.removed, made.stripped)


def _tell(made: Plan) -> None:
    """What a plan frees is counted before it is carried out, at the latest: afterwards nobody can tell."""
    _log.debug("%d checkpoints go, %d bytes", len(made.removed), made.freed_bytes)


def _refuse_emptying(store: Store, made: Plan) -> None:
    for run in _runs(made):
        removed, _ = _versions(made, run)
        there = set(formats.versions(store.layout.manifests(run)))
        if removed and there <= set(removed):
            raise InvalidOption(f"the plan would leave run {run!r} without any checkpoint: keep one at least")


def _refuse_marked(store: Store, record: CheckpointRecord) -> None:
    _check_there(store, record)
    run = store.run_record(record.run)
    tags = [name for name, version in run.tags.items() if version == record.version]
    if tags:
        raise InvalidOption(
            f"{record.ref} is tagged {', '.join(tags)}: take that away first, ckpt tag {record.ref} {tags[0]} --delete"
        )
    if record.version in run.pins:
        raise InvalidOption(f"{record.ref} is pinned: unpin it first, ckpt unpin {record.ref}")


def _check_there(store: Store, record: CheckpointRecord) -> None:
    if not (store.layout.manifests(record.run) / formats.file_name(record.version)).exists():
        raise CheckpointGone(f"{record.ref} has no manifest any more: it was deleted")


def _runs(made: Plan) -> list[str]:
    """The runs of which it takes something."""
    return sorted({each.run for each in (*made.removed, *made.stripped)})


def _versions(made: Plan, run: str) -> tuple[list[int], list[int]]:
    """What it removes of a run, and what it strips."""
    removed = [each.version for each in made.removed if each.run == run]
    return removed, [each.version for each in made.stripped if each.run == run]


def _told(made: Plan, run: str, *, by: str) -> dict[str, Any]:
    """What the run's events are told: by whom, why, and what it was that went, because its manifest goes too."""
    concerned = [each for each in made.decisions if each.checkpoint.run == run and (not each.keep or each.weights_only)]
    return {"by": by, "user": user(), "keep": made.keep, "checkpoints": [_summary(each) for each in concerned]}


def _summary(decision: Decision) -> dict[str, Any]:
    record = decision.checkpoint
    return {
        "version": record.version,
        "epoch": record.epoch,
        "step": record.step,
        "created_at": record.created_at.isoformat(),
        "reason": record.reason,
        "metrics": record.own_metrics,
        "reasons": list(decision.reasons),
    }
