"""How retention policies are joined by `|`, given a budget, and made to keep weights only. Pure over records.

A policy gives a verdict on every checkpoint that it keeps: the reason, and its rank among what the policy keeps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Protocol

from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import CheckpointRecord, Monitor
from ckpt_tracker.retention.capping import Budget, Footprint, parse_size, size_text

Key = tuple[str, int]
"""Run and version."""


@dataclass(frozen=True)
class Verdict:
    """What a policy says of a checkpoint that it keeps, or that it would have kept if there were room."""

    reason: str
    rank: int
    """1 is what the policy would give up last."""
    weights_only: bool = False
    dropped: bool = False
    unranked: bool = False
    """It says why the policy could not rank it, and speaks for nothing."""

    @property
    def keeps(self) -> bool:
        """It speaks for keeping the checkpoint."""
        return not (self.dropped or self.unranked)


Verdicts = dict[Key, Verdict]


class Measure(Protocol):
    """Tells which objects a checkpoint needs, whole or its weights only."""

    def __call__(self, record: CheckpointRecord, *, weights_only: bool = False) -> Footprint: ...


@dataclass(frozen=True)
class History:
    """All that a policy may look at."""

    records: Sequence[CheckpointRecord]
    """Run by run, oldest first."""
    now: datetime
    monitors: Mapping[str, Monitor | None]
    """By run: what says which is best, where a policy names no metric."""
    always: Mapping[Key, str]
    """What is kept whatever the policies say, and why."""
    footprint: Measure
    """What a checkpoint needs on the disk."""

    def by_run(self) -> Iterable[tuple[str, list[CheckpointRecord]]]:
        """The records of each run."""
        for run, records in groupby(self.records, key=lambda record: record.run):
            yield run, list(records)


@dataclass(frozen=True)
class Retention(ABC):
    """What to keep of a run's checkpoints, or of a store's. `str()` gives the text that `retention.parse` takes."""

    @abstractmethod
    def verdicts(self, history: History) -> list[Verdicts]:
        """For each policy of the union, its verdicts."""

    @abstractmethod
    def __str__(self) -> str: ...

    def bound_to(self, monitor: Monitor | None) -> Retention:
        """The same, with `Best` given the run's monitor where it names no metric. Raises InvalidOption without one."""
        return self

    def criteria(self) -> tuple[Monitor, ...]:
        """What it names to judge by."""
        return ()

    def capped(self, size: int | str) -> Retention:
        """The same within a budget (`"20GB"`, or bytes): what exceeds it is dropped, the least valuable first."""
        return Capped(self, parse_size(size))

    @abstractmethod
    def weights_only(self) -> Retention:
        """The same; what only this keeps loses its optimizer and all else that predictions don't need."""

    def __or__(self, other: Retention) -> Retention:
        if not isinstance(other, Retention):
            return NotImplemented
        return Union((*_parts(self), *_parts(other)))


@dataclass(frozen=True)
class Union(Retention):
    """Keeps what any of its parts keeps."""

    parts: tuple[Retention, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InvalidOption("an empty retention would keep nothing: write at least Last(1)")

    def verdicts(self, history: History) -> list[Verdicts]:
        return [found for part in self.parts for found in part.verdicts(history)]

    def bound_to(self, monitor: Monitor | None) -> Retention:
        return Union(tuple(part.bound_to(monitor) for part in self.parts))

    def weights_only(self) -> Retention:
        return Union(tuple(part.weights_only() for part in self.parts))

    def criteria(self) -> tuple[Monitor, ...]:
        return tuple(each for part in self.parts for each in part.criteria())

    def __str__(self) -> str:
        return " ".join(f"({part})" if isinstance(part, Capped) else str(part) for part in self.parts)


@dataclass(frozen=True)
class Capped(Retention):
    """Keeps what the other keeps as far as `nbytes` reach: for one run, or for all runs that are planned together.

    An object counts once, however many checkpoints need it. What is tagged or pinned, and a tracker's newest, counts
    first and always stays. Of the rest the highest rank goes first (`last-3` before `last-2`), of equal ranks the
    older; what needs nothing more than what stays does is not dropped: that would free nothing.
    """

    keep: Retention
    nbytes: int

    def __post_init__(self) -> None:
        parse_size(self.nbytes)

    def verdicts(self, history: History) -> list[Verdicts]:
        found = self.keep.verdicts(history)
        dropped = self._dropped(_merged(found), history)
        told: Verdicts = {}
        for number, key in enumerate(reversed(dropped), start=1):
            reasons = dict.fromkeys(each[key].reason for each in found if key in each and each[key].keeps)
            told[key] = Verdict(f"dropped-{number} cap:{self._size} ({', '.join(reasons)})", number, dropped=True)
        return [*({key: verdict for key, verdict in each.items() if key not in told} for each in found), told]

    def bound_to(self, monitor: Monitor | None) -> Retention:
        return replace(self, keep=self.keep.bound_to(monitor))

    def weights_only(self) -> Retention:
        return replace(self, keep=self.keep.weights_only())

    def criteria(self) -> tuple[Monitor, ...]:
        return self.keep.criteria()

    def __str__(self) -> str:
        keep = f"({self.keep})" if isinstance(self.keep, Capped) else str(self.keep)
        return f"{keep} cap:{self._size}"

    @property
    def _size(self) -> str:
        return size_text(self.nbytes)

    def _dropped(self, wanted: Mapping[Key, Verdict], history: History) -> list[Key]:
        """What does not fit, the most valuable first."""
        records = {(record.run, record.version): record for record in history.records}
        stays = {key for key, record in records.items() if record.tags or record.pinned or key in history.always}
        budget: Budget[Key] = Budget(self.nbytes)
        for key in sorted(stays):
            budget.take_anyway(history.footprint(records[key]))
        for key in sorted(wanted.keys() - stays, key=lambda key: _value(records[key], wanted[key])):
            budget.take(key, history.footprint(records[key], weights_only=wanted[key].weights_only))
        return budget.dropped


@dataclass(frozen=True)
class Ranked:
    """What a policy makes of the checkpoints of one run, and why."""

    kept: Iterable[tuple[CheckpointRecord, str]]
    """The most valuable first."""
    unranked: Iterable[tuple[CheckpointRecord, str]] = ()
    """What it could not rank."""


class Policy(Retention):
    """One question, asked of each run by itself."""

    @abstractmethod
    def ranked(self, records: Sequence[CheckpointRecord], *, now: datetime, monitor: Monitor | None) -> Ranked:
        """What it makes of one run's `records` (oldest first)."""

    def verdicts(self, history: History) -> list[Verdicts]:
        found: Verdicts = {}
        for run, records in history.by_run():
            ranked = self.ranked(records, now=history.now, monitor=history.monitors.get(run))
            for rank, (record, reason) in enumerate(ranked.kept, start=1):
                found[run, record.version] = Verdict(reason, rank)
            for record, reason in ranked.unranked:
                found.setdefault((run, record.version), Verdict(reason, len(records), unranked=True))
        return [found]

    def weights_only(self) -> Retention:
        return WeightsOnly(self)


@dataclass(frozen=True)
class WeightsOnly(Retention):
    """Keeps the weights of what the policy keeps."""

    policy: Policy

    def verdicts(self, history: History) -> list[Verdicts]:
        (found,) = self.policy.verdicts(history)
        return [{key: replace(verdict, weights_only=True) for key, verdict in found.items()}]

    def bound_to(self, monitor: Monitor | None) -> Retention:
        return self.policy.bound_to(monitor).weights_only()

    def criteria(self) -> tuple[Monitor, ...]:
        return self.policy.criteria()

    def weights_only(self) -> Retention:
        return self

    def __str__(self) -> str:
        return f"{self.policy}:weights"


def _merged(found: Iterable[Verdicts]) -> Verdicts:
    """One verdict a checkpoint: the best rank, and whole where one of them keeps it whole."""
    merged: Verdicts = {}
    for verdicts in found:
        for key, verdict in verdicts.items():
            if verdict.keeps:
                other = merged.get(key, verdict)
                weights_only = verdict.weights_only and other.weights_only
                merged[key] = Verdict(verdict.reason, min(verdict.rank, other.rank), weights_only)
    return merged


def _value(record: CheckpointRecord, verdict: Verdict) -> tuple[object, ...]:
    """Sorts the most valuable first."""
    return (verdict.rank, -record.created_at.timestamp(), -record.version, record.run)


def _parts(keep: Retention) -> tuple[Retention, ...]:
    return keep.parts if isinstance(keep, Union) else (keep,)
