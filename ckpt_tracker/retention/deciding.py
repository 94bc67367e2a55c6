"""What a union of policies decides for each checkpoint, and retention written as text."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import CheckpointRecord, Decision, Monitor
from ckpt_tracker.retention.capping import Footprint
from ckpt_tracker.retention.combining import History, Key, Measure, Retention, Verdict
from ckpt_tracker.retention.policies import Best, Every, Last, Period, Tagged, Within

_FORMS = (
    "expected last:N, best:N, best:N:METRIC:min|max, every:Nepochs, every:Nsteps, within:Nhours, "
    "within:Ndays[:hour|day|week] or tagged, each also with :weights; and cap:SIZE for all of them; "
    "METRIC may be an expression, and what holds a space stands in quotes"
)


def decide(
    keep: Retention,
    records: Sequence[CheckpointRecord],
    *,
    now: datetime,
    monitors: Mapping[str, Monitor | None] | None = None,
    always: Mapping[Key, str] | None = None,
    footprint: Measure | None = None,
) -> tuple[Decision, ...]:
    """What `keep` decides for the checkpoints of one run or several, each run's oldest first.

    `monitors` (by run) say what is best where `keep` does not; `always` is kept besides, for the reason it gives;
    `footprint` tells which objects a checkpoint needs, and is asked for a cap alone: without it nothing is shared.
    """
    runs = {run: number for number, run in enumerate(dict.fromkeys(record.run for record in records))}
    ordered = sorted(records, key=lambda record: (runs[record.run], record.version))
    history = History(ordered, now, monitors or {}, always or {}, footprint or _nothing_shared)
    verdicts: defaultdict[Key, list[Verdict]] = defaultdict(list)
    for found in (keep | Tagged()).verdicts(history):
        for key, verdict in found.items():
            verdicts[key].append(verdict)
    keys = [(record.run, record.version) for record in ordered]
    return tuple(
        _decision(record, verdicts.get(key, []), history.always.get(key))
        for record, key in zip(ordered, keys, strict=True)
    )


def _decision(record: CheckpointRecord, verdicts: Sequence[Verdict], always: str | None) -> Decision:
    kept = [verdict for verdict in verdicts if verdict.keeps]
    reasons = [*(verdict.reason for verdict in kept), *([always] if always else [])]
    if not reasons:
        return Decision(record, keep=False, reasons=tuple(dict.fromkeys(verdict.reason for verdict in verdicts)))
    weights_only = always is None and record.strippable and all(verdict.weights_only for verdict in kept)
    reasons += [verdict.reason for verdict in verdicts if verdict.unranked]
    return Decision(record, keep=True, reasons=tuple(dict.fromkeys(reasons)), weights_only=weights_only)


def checked(keep: Retention | str) -> Retention:
    """The retention, or what the text says. Raises InvalidOption for anything else."""
    policy = parse(keep) if isinstance(keep, str) else keep
    if not isinstance(policy, Retention):
        raise InvalidOption(f"keep={keep!r}: expected a retention such as Last(2), or text such as 'last:2'")
    return policy


def _nothing_shared(record: CheckpointRecord, *, weights_only: bool = False) -> Footprint:
    """Of the record alone nobody can tell how much of it is weights."""
    return {record.ref: record.nbytes}


def parse(text: str) -> Retention:
    """Retention from text such as `last:2 best:3:val_loss:min every:10epochs within:24hours tagged cap:20GB`.

    A cap is for all that stands beside it; parentheses give it less. What holds a space stands in quotes.
    """
    words = _words(text)
    keep = _parse_group(words, inside=False)
    if keep is None:
        raise InvalidOption("an empty retention would keep nothing: write at least 'last:1'")
    return keep


def _words(text: str) -> Iterator[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidOption(f"{text!r} is not a retention: {error}") from error
    for word in words:
        inner = word.strip("()") if word[:1] == "(" or word[-1:] == ")" else word
        opening, closing = word.partition(inner)[::2] if inner else (word, "")
        yield from opening
        if inner:
            yield inner
        yield from closing


def _parse_group(words: Iterator[str], *, inside: bool) -> Retention | None:
    """The words up to the closing parenthesis, or the end."""
    parts: list[Retention] = []
    cap: str | None = None
    for word in words:
        if word == ")":
            if not inside:
                raise InvalidOption("a retention has a ')' without '('")
            return _joined(parts, cap)
        if word == "(":
            group = _parse_group(words, inside=True)
            if group is not None:
                parts.append(group)
        elif word.startswith("cap:"):
            if cap is not None:
                raise InvalidOption(f"a retention has one cap, found cap:{cap} and {word}")
            cap = word.removeprefix("cap:")
        else:
            parts.append(_parse_part(word))
    if inside:
        raise InvalidOption("a retention has a '(' without ')'")
    return _joined(parts, cap)


def _joined(parts: list[Retention], cap: str | None) -> Retention | None:
    if not parts:
        if cap is not None:
            raise InvalidOption(
                f"cap:{cap} says how much to keep and not what: write for example 'last:9 best:3 cap:{cap}'"
            )
        return None
    keep = parts[0]
    for part in parts[1:]:
        keep = keep | part
    return keep if cap is None else keep.capped(cap)


def _parse_part(word: str) -> Retention:
    name, *details = word.split(":")
    if details[-1:] == ["weights"]:
        return _parse_part(word.removesuffix(":weights")).weights_only()
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
    raise InvalidOption(f"{word!r} is not a retention: {_FORMS}")


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
