"""Triggers: when to save. `"1 epoch"`, `"500 steps"`, `"10 minutes"`, or several of them.

A trigger only says that a checkpoint is due. The integration asks at the points where the state is consistent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ckpt_tracker.errors import InvalidOption

Unit = Literal["epoch", "step", "minute"]
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*(epoch|step|second|minute|hour)s?")
_MINUTES = {"second": 1 / 60, "minute": 1.0, "hour": 60.0}


@dataclass(frozen=True)
class Trigger:
    """One of the times to save."""

    count: float
    unit: Unit

    def __str__(self) -> str:
        return f"{self.count:g} {self.unit}{'' if self.count == 1 else 's'}"


def parse(every: str | Sequence[str]) -> tuple[Trigger, ...]:
    """Triggers from text, or from several texts. Raises InvalidOption for what is none."""
    texts = [every] if isinstance(every, str) or not isinstance(every, Sequence) else list(every)
    if not texts:
        raise InvalidOption("every=[] would never save: write for example every='1 epoch'")
    return tuple(_parse_one(text) for text in texts)


def _parse_one(text: str) -> Trigger:
    match = _TEXT.fullmatch(str(text).strip())
    if match is None or float(match[1]) <= 0:
        raise InvalidOption(f"every={text!r}: expected for example '1 epoch', '500 steps' or '10 minutes'")
    count, unit = float(match[1]), match[2]
    if unit in _MINUTES:
        return Trigger(count * _MINUTES[unit], "minute")
    if count != int(count):
        raise InvalidOption(f"every={text!r}: expected a whole number of {unit}s")
    return Trigger(int(count), "epoch" if unit == "epoch" else "step")


class Schedule:
    """Triggers over one training: remembers when the last checkpoint was."""

    def __init__(self, triggers: Sequence[Trigger], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.triggers = tuple(triggers)
        self._clock = clock
        self.start(step=0)

    @property
    def within_epochs(self) -> bool:
        """Some trigger can be due inside an epoch."""
        return any(trigger.unit != "epoch" for trigger in self.triggers)

    def start(self, *, step: int) -> None:
        """The training starts, or goes on, at that step."""
        self._step = step
        self._saved_at = self._clock()

    def saved(self, *, step: int | None) -> None:
        """A checkpoint was taken."""
        self._step = self._step if step is None else step
        self._saved_at = self._clock()

    def due(self, *, epoch: int | None = None, step: int | None = None) -> str | None:
        """The reason to save now, or None. `epoch`: the 0-based epoch that has just ended; `step`: steps done."""
        for trigger in self.triggers:
            if self._is_due(trigger, epoch=epoch, step=step):
                return str(trigger)
        return None

    def _is_due(self, trigger: Trigger, *, epoch: int | None, step: int | None) -> bool:
        if trigger.unit == "epoch":
            return epoch is not None and (epoch + 1) % int(trigger.count) == 0
        if trigger.unit == "step":
            return step is not None and step // int(trigger.count) > self._step // int(trigger.count)
        return self._clock() - self._saved_at >= trigger.count * 60
