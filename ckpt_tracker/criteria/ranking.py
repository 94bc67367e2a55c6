"""Which checkpoint is best by a criterion, over records alone; and why one is not ranked at all."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ckpt_tracker.criteria.expression import Criterion, Name
from ckpt_tracker.criteria.parsing import PLAIN_NAME, parse
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import CheckpointRecord, Monitor
from ckpt_tracker.selection import nearest

Tie = Literal["first", "last"]
OWN_NAMES = ("epoch", "step", "version", "size_mb", "stored_mb")
"""What is known of a checkpoint itself: `size_mb` is what it holds, `stored_mb` what it added (millions of bytes)."""


@dataclass(frozen=True)
class Score:
    """What a criterion says of a checkpoint."""

    record: CheckpointRecord
    value: float = math.nan
    unranked: str = ""
    """Why it can't be best; empty where it has a finite value."""
    missing: bool = False
    """It lacks a metric: it might be the best, nobody knows."""


class Scorer:
    """A criterion, applied to the checkpoints of one run or several: which names are metrics depends on them."""

    def __init__(self, monitor: Monitor, records: Iterable[CheckpointRecord]) -> None:
        self.records = list(records)
        self.known: frozenset[str] = frozenset().union(*(record.metrics for record in self.records))
        self.monitor = monitor
        text = monitor.metric
        self._plain = text in self.known
        self.criterion = Criterion(text, Name(text)) if self._plain else parse(text, self._paths(text))
        self._names = self.criterion.names

    def _paths(self, text: str) -> frozenset[str]:
        """The metrics in the text whose names are more than one word to an expression."""
        return frozenset(name for name in self.known if name in text and not name.isidentifier())

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names that no checkpoint has."""
        return tuple(name for name in self._names if name not in self.known and name not in OWN_NAMES)

    @property
    def unknown_text(self) -> str:
        """`no metric 'val_los'; did you mean 'val_loss'?`; empty where all names are known."""
        if not self.unknown:
            return ""
        text, known = self.criterion.text, sorted(self.known)
        meant = PLAIN_NAME.fullmatch(text) and difflib.get_close_matches(text, known, n=1)
        name = text if meant else self.unknown[0]
        return f"no metric {name!r}{nearest(name, known)}"

    def scores(self) -> list[Score]:
        """Of each record, in their order."""
        return [self._score(record) for record in self.records]

    def _score(self, record: CheckpointRecord) -> Score:
        values = self._values(record)
        absent = [name for name in self._names if name not in values]
        if record.nonfinite:
            return Score(record, unranked=record.weights_problem)
        if absent:
            return Score(record, unranked=f"no {', '.join(absent)}", missing=True)
        for name in self._names:
            if not math.isfinite(values[name]):
                return Score(record, unranked=f"{name} is {_odd(values[name])}")
        return self._value(record, values)

    def _value(self, record: CheckpointRecord, values: Mapping[str, float]) -> Score:
        try:
            if self.criterion.where is not None and not self.criterion.where.holds(values):
                return Score(record, unranked=f"{self.criterion.condition} does not hold")
            value = float(self.criterion.expression.evaluate(values))
        except ZeroDivisionError:
            return Score(record, unranked=f"{self.criterion.label} has no value: a division by zero")
        except (ArithmeticError, ValueError) as error:
            large = isinstance(error, OverflowError)
            why = "too large" if large else "a root, power or logarithm of what has none"
            return Score(record, unranked=f"{self.criterion.label} has no value: {why}")
        if not math.isfinite(value):
            return Score(record, unranked=f"{self.criterion.label} is {_odd(value)}")
        return Score(record, value)

    def holds(self, record: CheckpointRecord) -> bool:
        """What stands behind `where` does; not of a record that lacks a value in it."""
        where, values = self.criterion.where, self._values(record)
        try:
            return where is None or where.holds(values)
        except (LookupError, ArithmeticError, ValueError):
            return False

    def _values(self, record: CheckpointRecord) -> Mapping[str, float]:
        if self._plain:
            return record.metrics
        own = {
            "epoch": record.epoch,
            "step": record.step,
            "version": record.version,
            "size_mb": record.nbytes / 1e6,
            "stored_mb": record.stored_bytes / 1e6,
        }
        known = {name: value for name, value in own.items() if value is not None and name not in self.known}
        return {**known, **record.metrics}


def _odd(value: float) -> str:
    return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"


def ranking(scores: Iterable[Score], monitor: Monitor) -> list[Score]:
    """Those that have a value, the best first; of equal ones the earlier first."""
    sign = 1 if monitor.mode == "min" else -1
    return sorted((each for each in scores if not each.unranked), key=lambda each: sign * each.value)


def winner(scores: Sequence[Score], monitor: Monitor, *, tie: Tie = "first", min_delta: float = 0.0) -> Score | None:
    """The best of those that have a value, given in the order of time.

    They are gone through from the first, or with `tie="last"` from the last: another one is better only where it
    is so by more than `min_delta`, which is what trainings that stop early mean by it (Keras' and Lightning's
    EarlyStopping).
    """
    sign = 1 if monitor.mode == "min" else -1
    best: Score | None = None
    for each in scores if tie == "first" else reversed(scores):
        if not each.unranked and (best is None or sign * each.value < sign * best.value - min_delta):
            best = each
    return best


def matching(records: Iterable[CheckpointRecord], condition: str) -> list[CheckpointRecord]:
    """The records of which a condition holds, such as `epoch > 5 and val_loss < 0.4`; what lacks one of its names is
    left out.

    Raises InvalidOption for what is no condition, or has a name that no record has.
    """
    try:
        scorer = Scorer(Monitor(f"version where {condition}", "min"), records)
    except InvalidOption as error:
        raise InvalidOption(
            f"{condition!r} is no condition: expected such as 'epoch > 5 and val_loss < 0.4'"
        ) from error
    if scorer.records and scorer.unknown:
        name = scorer.unknown[0]
        raise InvalidOption(f"{condition!r}: nothing is called {name!r}{nearest(name, [*scorer.known, *OWN_NAMES])}")
    return [record for record in scorer.records if scorer.holds(record)]
