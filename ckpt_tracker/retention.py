"""Retention: what to keep. Small frozen policies, pure over records, joined by `|`.

    Last(2) | Best(3, "val_loss", mode="min")        or as text: "last:2 best:3:val_loss:min"

A policy gives, for every checkpoint that it keeps, the reason. A checkpoint is kept when any policy of the union
keeps it, or when it has a tag.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import CheckpointRecord, Decision, Mode, Monitor
from ckpt_tracker.selection import check_monitor

Reasons = dict[int, str]
"""Version → why it is kept."""
Period = Literal["hour", "day", "week"]
_PERIODS = {"hour": "%Y-%m-%d %H", "day": "%Y-%m-%d", "week": "%G-W%V"}


@dataclass(frozen=True)
class Retention(ABC):
    """What to keep of a run's checkpoints."""

    @abstractmethod
    def keeps(self, records: Sequence[CheckpointRecord], *, now: datetime) -> list[Reasons]:
        """For each policy of the union, which of one run's `records` (oldest first) it keeps, with the reason."""

    def bound_to(self, monitor: Monitor | None) -> Retention:
        """The same, with `Best` given the run's monitor where it names no metric. Raises InvalidOption without one."""
        return self

    def __or__(self, other: Retention) -> Retention:
        return Union((*_parts(self), *_parts(other)))


@dataclass(frozen=True)
class Union(Retention):
    """Keeps what any of its parts keeps."""

    parts: tuple[Retention, ...]

    def keeps(self, records: Sequence[CheckpointRecord], *, now: datetime) -> list[Reasons]:
        return [kept for part in self.parts for kept in part.keeps(records, now=now)]

    def bound_to(self, monitor: Monitor | None) -> Retention:
        return Union(tuple(part.bound_to(monitor) for part in self.parts))


@dataclass(frozen=True)
class Last(Retention):
    """The newest `count` checkpoints."""

    count: int

    def __post_init__(self) -> None:
        _check_count("Last", self.count)

    def keeps(self, records: Sequence[CheckpointRecord], *, now: datetime) -> list[Reasons]:
        newest = reversed(records[-self.count :])
        return [{record.version: f"last-{rank}" for rank, record in enumerate(newest, start=1)}]


@dataclass(frozen=True)
class Best(Retention):
    """The best `count` checkpoints by a metric (a tracker's own, where none is named); of equal ones the earlier.

    NaN and infinities never win. Checkpoints that lack the metric might be the best: the newest `count` of them are
    kept as `not ranked`, so that a misspelt metric neither fills the disk nor empties it.
    """

    count: int
    metric: str | None = None
    mode: Mode | None = None

    def __post_init__(self) -> None:
        _check_count("Best", self.count)
        check_monitor(self.metric, self.mode)

    def bound_to(self, monitor: Monitor | None) -> Retention:
        if self.metric is not None:
            return self
        if monitor is None:
            raise InvalidOption(
                f"Best({self.count}) names no metric and the run monitors none: "
                f'write Best({self.count}, "val_loss", mode="min")'
            )
        return Best(self.count, monitor.metric, monitor.mode)

    def keeps(self, records: Sequence[CheckpointRecord], *, now: datetime) -> list[Reasons]:
        if self.metric is None or self.mode is None:
            raise InvalidOption(f"Best({self.count}) names no metric")
        sign = 1 if self.mode == "min" else -1
        values = {each.version: each.metrics.get(self.metric) for each in records}
        finite = {v: value for v, value in values.items() if value is not None and math.isfinite(value)}
        ranked = sorted(finite, key=lambda version: (sign * finite[version], version))
        best = {
            version: f"best-{rank} {self.metric}={finite[version]:.6g}"
            for rank, version in enumerate(ranked[: self.count], start=1)
        }
        unranked = [version for version, value in values.items() if value is None]
        return [best, dict.fromkeys(unranked[-self.count :], "not ranked")]


@dataclass(frozen=True)
class Every(Retention):
    """Each `epochs`-th epoch (finished epochs count: 9, 19, … for 10) or each `steps`-th step, for ever."""

    epochs: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise InvalidOption("Every takes epochs=N or steps=N, one of them")
        _check_count("Every", self.epochs if self.steps is None else self.steps)

    def keeps(self, records: Sequence[CheckpointRecord], *, now: datetime) -> list[Reasons]:
        if self.epochs is not None:
            return [
                {
                    each.version: f"every-{self.epochs}-epochs"
                    for each in records
                    if each.epoch is not None and (each.epoch + 1) % self.epochs == 0
                }
            ]
        return [
            {
                each.version: f"every-{self.steps}-steps"
                for each in records
                if each.step and each.step % (self.steps or 1) == 0
            }
        ]


@dataclass(frozen=True)
class Within(Retention):
    """All checkpoints of the last `hours` and `days`; with `one_per` the newest of each hour, day or week (UTC)."""

    hours: float = 0
    days: float = 0
    one_per: Period | None = None

    def __post_init__(self) -> None:
        if self._span <= timedelta(0):
            raise InvalidOption("Within takes hours=N or days=N, more than 0")
        if self.one_per is not None and self.one_per not in _PERIODS:
            raise InvalidOption(f"one_per={self.one_per!r}: expected one of {', '.join(_PERIODS)}")

    @property
    def _span(self) -> timedelta:
        return timedelta(hours=self.hours, days=self.days)

    def keeps(self, records: Sequence[CheckpointRecord], *, now: datetime) -> list[Reasons]:
        recent = [each for each in records if each.created_at >= now - self._span]
        if self.one_per is None:
            return [{each.version: f"within-{self._span}" for each in recent}]
        newest = {each.created_at.strftime(_PERIODS[self.one_per]): each for each in recent}
        return [{each.version: f"{self.one_per}-{period}" for period, each in newest.items()}]


@dataclass(frozen=True)
class Tagged(Retention):
    """Every checkpoint with a tag. Always implied."""

    def keeps(self, records: Sequence[CheckpointRecord], *, now: datetime) -> list[Reasons]:
        return [{each.version: f"tag:{','.join(each.tags)}" for each in records if each.tags}]


def decide(keep: Retention, records: Sequence[CheckpointRecord], *, now: datetime) -> tuple[Decision, ...]:
    """What `keep` decides for one run's checkpoints, oldest first."""
    reasons: defaultdict[int, list[str]] = defaultdict(list)
    ordered = sorted(records, key=lambda record: record.version)
    for kept in (keep | Tagged()).keeps(ordered, now=now):
        for version, reason in kept.items():
            if reason not in reasons[version]:
                reasons[version].append(reason)
    return tuple(Decision(each, each.version in reasons, tuple(reasons.get(each.version, ()))) for each in ordered)


def parse(text: str) -> Retention:
    """Retention from text such as `last:2 best:3:val_loss:min every:10epochs within:24hours tagged`."""
    parts = [_parse_part(word) for word in text.split()]
    if not parts:
        raise InvalidOption("an empty retention would keep nothing: write at least 'last:1'")
    return Union(tuple(parts)) if len(parts) > 1 else parts[0]


def _parse_part(word: str) -> Retention:
    name, *details = word.split(":")
    try:
        match name, details:
            case "last", [count]:
                return Last(int(count))
            case "best", [count]:
                return Best(int(count))
            case "best", [count, *metric, "min" | "max" as mode] if metric:
                return Best(int(count), ":".join(metric), mode)
            case "every", [span]:
                return _every(span)
            case "within", [span]:
                return _within(span, None)
            case "within", [span, "hour" | "day" | "week" as one_per]:
                return _within(span, one_per)
            case "tagged", []:
                return Tagged()
    except ValueError as error:
        raise InvalidOption(f"{word!r} is not a retention: {error}") from error
    raise InvalidOption(
        f"{word!r} is not a retention: expected last:N, best:N, best:N:METRIC:min|max, "
        "every:Nepochs, every:Nsteps, within:Nhours, within:Ndays[:hour|day|week] or tagged"
    )


def _every(span: str) -> Retention:
    for unit in ("epochs", "steps"):
        if span.endswith((unit, unit[:-1])):
            count = int(span.removesuffix("s").removesuffix(unit[:-1]))
            return Every(epochs=count) if unit == "epochs" else Every(steps=count)
    raise ValueError(f"{span!r} is neither Nepochs nor Nsteps")


def _within(span: str, one_per: Period | None) -> Retention:
    for unit in ("hours", "days"):
        if span.endswith((unit, unit[:-1])):
            count = float(span.removesuffix("s").removesuffix(unit[:-1]))
            hours, days = (count, 0.0) if unit == "hours" else (0.0, count)
            return Within(hours=hours, days=days, one_per=one_per)
    raise ValueError(f"{span!r} is neither Nhours nor Ndays")


def _parts(keep: Retention) -> tuple[Retention, ...]:
    return keep.parts if isinstance(keep, Union) else (keep,)


def _check_count(name: str, count: object) -> None:
    if type(count) is not int or count < 1:
        raise InvalidOption(f"{name} keeps 1 checkpoint or more, found {count!r}")
