"""What a trial showed: as a value, as text, and as a document."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ckpt_tracker.comparison import Difference, Distance
from ckpt_tracker.exact_resume.remedies import Cause
from ckpt_tracker.exact_resume.verdict import Deviation

Outcome = Literal["equal", "different", "left out", "not deterministic", "not tried"]
_SHOWN = 8


@dataclass(frozen=True)
class Killed:
    """One kill, and what came after it."""

    after: int
    """Checkpoints that were durable."""
    seconds: float
    """Since the script was started."""
    resumed_from: str | None = None
    compared: int = 0
    """Checkpoints saved since then, of those that an uninterrupted training saved too."""


@dataclass(frozen=True)
class Report:
    """What a trial showed."""

    outcome: Outcome = "equal"
    headline: str = ""
    remedy: str = ""
    """What to do where it could not be tried."""
    kills: tuple[Killed, ...] = ()
    ended_early: int = 0
    """Trainings that came to their end before they could be killed."""
    checkpoints: int = 0
    """Of an uninterrupted training."""
    seconds: float = 0.0
    """Of an uninterrupted training."""
    deviation: Deviation | None = None
    causes: tuple[Cause, ...] = ()
    notes: tuple[str, ...] = ()
    output: str = ""
    """The last lines of a script that failed."""

    @property
    def ok(self) -> bool:
        """Every checkpoint was bit-equal, and nothing of the training was left out."""
        return self.outcome == "equal"

    @property
    def compared(self) -> int:
        """Checkpoints that restarted trainings saved, of those that an uninterrupted one saved too."""
        return sum(each.compared for each in self.kills)

    def lines(self) -> Iterator[tuple[str, str]]:
        """A label and a text each; a label stands for the lines without one below it too."""
        yield self.outcome, self.headline
        if self.deviation is not None:
            yield from self._deviation_lines(self.deviation)
        for cause in self.causes:
            yield "likely cause", cause.sentence
            yield "what to do", cause.remedy
        if self.remedy:
            yield "what to do", self.remedy
        if self.ended_early:
            yield "note", f"{_count(self.ended_early, 'training')} came to the end before being killed"
        yield from (("note", each) for each in self.notes)
        lines = self.output.splitlines()
        yield from (("" if index else "it printed", line) for index, line in enumerate(lines))

    def text(self) -> str:
        """All of it."""
        lines = [*self.lines()]
        width = max(len(label) for label, _ in lines)
        return "\n".join(f"{label:<{width}}  {text}".rstrip() for label, text in lines)

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "outcome": self.outcome,
            "equal": self.ok,
            "headline": self.headline,
            "remedy": self.remedy,
            "kills": [dataclasses.asdict(each) for each in self.kills],
            "ended_early": self.ended_early,
            "compared": self.compared,
            "checkpoints": self.checkpoints,
            "seconds": self.seconds,
            "deviation": None if self.deviation is None else _deviation_document(self.deviation),
            "causes": [dataclasses.asdict(each) for each in self.causes],
            "notes": list(self.notes),
            "output": self.output,
        }

    def _deviation_lines(self, deviation: Deviation) -> Iterator[tuple[str, str]]:
        found = deviation.differences
        labels = ("the first", "the second") if self.outcome == "not deterministic" else ("uninterrupted", "resumed")
        yield "first differing", f"{deviation.key}: {_count(len(found), 'leaf', 'leaves')} of it"
        yield from (("", f"  {_difference(each, *labels)}") for each in found[:_SHOWN])
        if len(found) > _SHOWN:
            yield "", f"  and {len(found) - _SHOWN} more"


def _difference(each: Difference, first: str, second: str) -> str:
    if each.distance is not None:
        return f"{each.path}  {each.first}: {_distance(each.distance)}"
    one, other = ("not there" if value is None else value for value in (each.first, each.second))
    return f"{each.path}: {one} {first}, {other} {second}"


def _distance(distance: Distance) -> str:
    how = f"{distance.differing} of {_count(distance.elements, 'element')}"
    if distance.max_absolute:
        how += f", by up to {distance.max_absolute:.2g} ({distance.max_relative:.2g} of the value)"
    return f"{how}, NaN: {distance.nans[0]} and {distance.nans[1]}" if any(distance.nans) else how


def _deviation_document(deviation: Deviation) -> dict[str, Any]:
    key = deviation.key
    return {
        **{"run": key.run, "epoch": key.epoch, "step": key.step},
        "digests": [deviation.expected.digest, deviation.found.digest],
        "differences": [
            {"path": each.path, "section": each.section, "values": [each.first, each.second]}
            | ({} if each.distance is None else dataclasses.asdict(each.distance))
            for each in deviation.differences
        ],
    }


def _count(amount: int, noun: str, plural: str = "") -> str:
    return f"{amount} {noun if amount == 1 else plural or noun + 's'}"
