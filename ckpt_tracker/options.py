"""The keywords of every `CheckpointTracker`: their types, and what they come to once they are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ckpt_tracker import resuming
from ckpt_tracker.disk.jsonfile import plain
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import Mode, Monitor
from ckpt_tracker.retention import Best, Last, Retention, checked
from ckpt_tracker.selection import check_monitor
from ckpt_tracker.triggers import Trigger
from ckpt_tracker.triggers import parse as parse_triggers

if TYPE_CHECKING:
    from typing_extensions import Unpack

OnError = Literal["raise", "warn"]
Backpressure = Literal["wait", "skip"]


class TrackerOptions(TypedDict, total=False):
    """What may be given; `Options` says what is taken where it is not."""

    monitor: str | None
    mode: Mode | None
    every: str | Sequence[str]
    keep: Retention | str | None
    resume: str
    config: Mapping[str, Any] | None
    overrides: Mapping[str, Any] | None
    on_error: OnError
    backpressure: Backpressure
    overlap: bool


@dataclass(frozen=True)
class Options:
    """The checked keywords."""

    monitor: Monitor | None
    triggers: tuple[Trigger, ...]
    keep: Retention
    resume: str
    config: Mapping[str, Any]
    overrides: Mapping[str, Any]
    """Plain values."""
    on_error: OnError
    backpressure: Backpressure = "wait"
    """What a checkpoint does that is due while the one before is being written."""
    overlap: bool = False
    """What only an optimizer's step changes is copied up to that step, while the training computes."""


def check(**given: Unpack[TrackerOptions]) -> Options:
    """Raises InvalidOption for what can't be meant, TypeError for a keyword that there is not."""
    unknown = sorted(set(given) - set(TrackerOptions.__annotations__))
    if unknown:
        raise TypeError(f"CheckpointTracker has no keyword {', '.join(map(repr, unknown))}")
    monitor = check_monitor(given.get("monitor"), given.get("mode"))
    resume, on_error = given.get("resume", "auto"), given.get("on_error", "raise")
    resuming.check(resume, monitored=monitor is not None)
    if on_error not in ("raise", "warn"):
        raise InvalidOption(f"on_error={on_error!r}: expected 'raise' or 'warn'")
    backpressure = given.get("backpressure", "wait")
    if backpressure not in ("wait", "skip"):
        raise InvalidOption(f"backpressure={backpressure!r}: expected 'wait' or 'skip'")
    overlap = given.get("overlap", False)
    if overlap not in (True, False):
        raise InvalidOption(f"overlap={overlap!r}: expected True or False")
    return Options(
        monitor=monitor,
        triggers=parse_triggers(given.get("every", "1 epoch")),
        keep=_retention(given.get("keep"), monitored=monitor is not None).bound_to(monitor),
        resume=resume,
        config=dict(given.get("config") or {}),
        overrides=_overrides(given.get("overrides")),
        on_error=on_error,
        backpressure=backpressure,
        overlap=bool(overlap),
    )


def _retention(keep: Retention | str | None, *, monitored: bool) -> Retention:
    if keep is None:
        return Last(2) | Best(1) if monitored else Last(3)
    return checked(keep)


def _overrides(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidOption(f"overrides={given!r}: expected for example {{'lr': 1e-4}}")
    values: Mapping[str, Any] = plain(given)
    return values
