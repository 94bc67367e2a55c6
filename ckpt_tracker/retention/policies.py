"""The retention policies: small frozen values, pure over records. People import them from `ckpt_tracker.retention`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

from ckpt_tracker.criteria import Scorer, parse, quoted, ranking
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import CheckpointRecord, Mode, Monitor
from ckpt_tracker.retention.combining import Policy, Ranked, Retention
from ckpt_tracker.selection import check_monitor

Period = Literal["hour", "day", "week"]
PERIODS = {"hour": "%Y-%m-%d %H", "day": "%Y-%m-%d", "week": "%G-W%V"}


@dataclass(frozen=True)
class Last(Policy):
    """The newest `count` checkpoints."""

    count: int

    def __post_init__(self) -> None:
        _check_count("Last", self.count)

    def ranked(self, records: Sequence[CheckpointRecord], *, now: datetime, monitor: Monitor | None) -> Ranked:
        newest = reversed(records[-self.count :])
        return Ranked([(record, f"last-{rank}") for rank, record in enumerate(newest, start=1)])

    def __str__(self) -> str:
        return f"last:{self.count}"


@dataclass(frozen=True)
class Best(Policy):
    """The best `count` checkpoints by a metric or an expression (see `ckpt_tracker.criteria`), or by the run's own
    metric where none is named; of equal ones the earlier. A least difference, as `Run.best` takes it, is not for here:
    a plan that is made again would find another best among what the first one left.

    NaN and infinities never win, be they the metric or in the weights. Checkpoints that lack the metric might be the
    best: the newest `count` of them are kept as `not ranked`, so that a misspelt metric neither fills the disk nor
    empties it.
    """

    count: int
    metric: str | None = None
    mode: Mode | None = None

    def __post_init__(self) -> None:
        _check_count("Best", self.count)
        check_monitor(self.metric, self.mode)
        if self.metric is not None:
            if not isinstance(self.metric, str):
                raise InvalidOption(f"Best ranks by the name of a metric or an expression, found {self.metric!r}")
            parse(self.metric)

    def bound_to(self, monitor: Monitor | None) -> Retention:
        if self.metric is not None:
            return self
        named = self._monitor(monitor, run=None)
        return Best(self.count, named.metric, named.mode)

    def criteria(self) -> tuple[Monitor, ...]:
        return () if self.metric is None else (self._monitor(None, run=None),)

    def ranked(self, records: Sequence[CheckpointRecord], *, now: datetime, monitor: Monitor | None) -> Ranked:
        if not records:
            return Ranked(())
        scorer = Scorer(self._monitor(monitor, run=records[0].run), records)
        scores, label = scorer.scores(), scorer.criterion.label
        best = ranking(scores, scorer.monitor)[: self.count]
        kept = [(each.record, f"best-{rank} {label}={each.value:.6g}") for rank, each in enumerate(best, start=1)]
        unranked = [(each.record, f"not ranked: {each.unranked}") for each in scores if each.unranked]
        newest = [each for each in reversed(scores) if each.missing][: self.count]
        return Ranked([*kept, *((each.record, f"not ranked: {each.unranked}") for each in newest)], unranked)

    def __str__(self) -> str:
        if self.metric is None:
            return f"best:{self.count}"
        return shlex.quote(f"best:{self.count}:{self.metric}:{self.mode}")

    def _monitor(self, monitor: Monitor | None, *, run: str | None) -> Monitor:
        if self.metric is not None and self.mode is not None:
            return Monitor(self.metric, self.mode)
        if monitor is None:
            raise InvalidOption(
                f"Best({self.count}) names no metric and {f'run {run!r}' if run else 'the run'} monitors none: "
                f'write Best({self.count}, "val_loss", mode="min"), or best:{self.count}:val_loss:min'
            )
        return Monitor(quoted(monitor.metric), monitor.mode)


@dataclass(frozen=True)
class Every(Policy):
    """Each `epochs`-th epoch (finished epochs count: 9, 19, … for 10) or each `steps`-th step, for ever."""

    epochs: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise InvalidOption("Every takes epochs=N or steps=N, one of them")
        _check_count("Every", self.epochs if self.steps is None else self.steps)

    def ranked(self, records: Sequence[CheckpointRecord], *, now: datetime, monitor: Monitor | None) -> Ranked:
        reason = f"every-{self.epochs}-epochs" if self.epochs is not None else f"every-{self.steps}-steps"
        return Ranked([(record, reason) for record in reversed(records) if self._meets(record)])

    def __str__(self) -> str:
        return f"every:{self.epochs}epochs" if self.epochs is not None else f"every:{self.steps}steps"

    def _meets(self, record: CheckpointRecord) -> bool:
        if self.epochs is not None:
            return record.epoch is not None and (record.epoch + 1) % self.epochs == 0
        return bool(record.step) and record.step % (self.steps or 1) == 0  # type: ignore[operator]


@dataclass(frozen=True)
class Within(Policy):
    """All checkpoints of the last `hours` and `days`; with `one_per` the newest of each hour, day or week (UTC)."""

    hours: float = 0
    days: float = 0
    one_per: Period | None = None

    def __post_init__(self) -> None:
        try:
            positive = self._span > timedelta(0)
        except (TypeError, ValueError, OverflowError):
            positive = False
        if not positive:
            raise InvalidOption(f"Within(hours={self.hours!r}, days={self.days!r}): expected numbers, more than 0")
        if self.one_per is not None and self.one_per not in PERIODS:
            raise InvalidOption(f"one_per={self.one_per!r}: expected one of {', '.join(PERIODS)}")

    @property
    def _span(self) -> timedelta:
        return timedelta(hours=self.hours, days=self.days)

    def ranked(self, records: Sequence[CheckpointRecord], *, now: datetime, monitor: Monitor | None) -> Ranked:
        span = self._span
        recent = [record for record in reversed(records) if now - record.created_at <= span]
        if self.one_per is None:
            return Ranked([(record, f"within-{self._span_text}") for record in recent])
        form = PERIODS[self.one_per]
        newest: dict[str, CheckpointRecord] = {}
        for record in recent:
            newest.setdefault(record.created_at.astimezone(timezone.utc).strftime(form), record)
        return Ranked([(record, f"{self.one_per}-{period}") for period, record in newest.items()])

    @property
    def _span_text(self) -> str:
        if not self.hours:
            return f"{_number(self.days)}days"
        return f"{_number(self._span / timedelta(hours=1) if self.days else self.hours)}hours"

    def __str__(self) -> str:
        return f"within:{self._span_text}{f':{self.one_per}' if self.one_per else ''}"


@dataclass(frozen=True)
class Tagged(Policy):
    """Every checkpoint with a tag, or that is pinned. Always implied."""

    def ranked(self, records: Sequence[CheckpointRecord], *, now: datetime, monitor: Monitor | None) -> Ranked:
        marked = [record for record in reversed(records) if record.tags or record.pinned]
        return Ranked([(record, self._marks(record)) for record in marked])

    @staticmethod
    def _marks(record: CheckpointRecord) -> str:
        tags = [f"tag:{','.join(record.tags)}"] if record.tags else []
        return " ".join([*tags, "pinned"] if record.pinned else tags)

    def __str__(self) -> str:
        return "tagged"


def _check_count(name: str, count: object) -> None:
    if type(count) is not int or count < 1:
        raise InvalidOption(f"{name} keeps 1 checkpoint or more, found {count!r}")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
