"""References: which checkpoint is meant. `RUN`, `RUN@last`, `RUN@best:val_loss:min`, `RUN@v12`, `RUN@TAG`, …"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import Mode, Monitor

RUN_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
TAG_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_VERSION = re.compile(r"v([0-9]{1,18})")
_NUMBER = re.compile(r"[0-9]{1,18}")
_FORMS = "RUN, RUN@last, RUN@best, RUN@best:METRIC:min|max, RUN@v12, RUN@epoch:3, RUN@step:1200 or RUN@TAG"


@dataclass(frozen=True)
class Reference:
    """A reference, taken apart."""

    run: str
    by: Literal["last", "best", "version", "epoch", "step", "tag"]
    number: int | None = None
    tag: str | None = None
    monitor: Monitor | None = None


def parse(reference: str) -> Reference:
    """Takes a reference apart. Raises InvalidOption for text that is none."""
    run, at, selector = reference.partition("@")
    check_run_name(run)
    if not at or selector == "last":
        return Reference(run, "last")
    version = _VERSION.fullmatch(selector)
    if version:
        return Reference(run, "version", number=int(version[1]))
    word, colon, rest = selector.partition(":")
    if word == "best":
        return Reference(run, "best", monitor=_monitor(rest, reference) if colon else None)
    if word in ("epoch", "step") and _NUMBER.fullmatch(rest):
        return Reference(run, "epoch" if word == "epoch" else "step", number=int(rest))
    if not TAG_NAME.fullmatch(selector):
        raise InvalidOption(f"{reference!r} is not a reference: expected {_FORMS}")
    return Reference(run, "tag", tag=selector)


def check_run_name(name: str) -> None:
    """Raises InvalidOption for a name that is no safe folder name, or that a reference could not hold."""
    if not RUN_NAME.fullmatch(name) or set(name) == {"."} or name.startswith("."):
        raise InvalidOption(
            f"{name!r} is not a run name: expected 1 to 100 letters, digits, '.', '_' or '-', not starting with '.'"
        )


def check_tag(tag: str) -> None:
    """Raises InvalidOption for a tag that a reference could not hold, or would take for something else."""
    if not TAG_NAME.fullmatch(tag) or tag in ("last", "best") or _VERSION.fullmatch(tag):
        raise InvalidOption(
            f"{tag!r} is not a tag: expected 1 to 100 letters, digits, '.', '_' or '-', "
            "and not 'last', 'best' or a version such as 'v12'"
        )


def check_monitor(metric: str | None, mode: str | None) -> Monitor | None:
    """The monitor the two keywords mean. Raises InvalidOption for one without the other: no guess from the name."""
    if metric is None and mode is None:
        return None
    if metric is None:
        raise InvalidOption(f"mode={mode!r} needs monitor: the metric that it is about")
    if mode not in ("min", "max"):
        raise InvalidOption(
            f"monitor={metric!r} needs mode='min' (lower is better) or mode='max' (higher is better), "
            f"found mode={mode!r}"
        )
    checked: Mode = mode  # type: ignore[assignment]
    return Monitor(metric, checked)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'a' or 'b'?`, or what there is, or nothing: the end of a not-found message."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; there are: {', '.join(names[:10])}" if names else ""


def _monitor(text: str, reference: str) -> Monitor:
    metric, colon, mode = text.rpartition(":")
    if not colon or not metric or mode not in ("min", "max"):
        raise InvalidOption(f"{reference!r} is not a reference: expected RUN@best:METRIC:min or RUN@best:METRIC:max")
    return Monitor(metric, "min" if mode == "min" else "max")
