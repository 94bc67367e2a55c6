"""Values as people read them: sizes, times, numbers, paths. No colour, and nothing is lost in `--json`."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

NONE = "-"
_LONG_AGO = timedelta(days=60)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@functools.lru_cache(4096)
def size(nbytes: float) -> str:
    """`1.5 MB`: decimal units, as disks are sold."""
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    power = min(int(math.log10(nbytes) // 3), len(_UNITS) - 1)
    value = nbytes / 1000**power
    if value >= 999.5 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.1f} {_UNITS[power]}" if value < 99.95 else f"{value:.0f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """`1.2 ms`, `3.4 s`, `2 min 5 s`, `1 h 20 min`."""
    if seconds < 1:
        milliseconds = seconds * 1000
        return f"{milliseconds:.1f} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def age(moment: datetime, *, now: datetime) -> str:
    """`3 min ago`; the day itself where that was over two months ago."""
    passed = now - moment
    if passed >= _LONG_AGO:
        return _day(moment.date())
    seconds = passed.total_seconds()
    if seconds < 1:
        return "just now"
    if seconds < 60:
        return f"{int(seconds)} s ago"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    return f"{int(seconds // 3600)} h ago" if seconds < 48 * 3600 else f"{passed.days} days ago"


@functools.lru_cache(1024)
def _day(day: date) -> str:
    return day.isoformat()


def number(value: float | None) -> str:
    """A metric, to four digits."""
    return NONE if value is None else f"{value:.4g}"


def numbers(values: Sequence[float | None]) -> list[str]:
    """The same of many: where none is missing, one format for all of them takes two thirds of the time."""
    try:
        return ("%.4g\n" * len(values) % tuple(values)).splitlines()
    except TypeError:
        return list(map(number, values))


def optional(value: object) -> str:
    """The value, or a dash for None."""
    return NONE if value is None else str(value)


def count(amount: int, noun: str) -> str:
    """`1 checkpoint`, `2 checkpoints`."""
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def printable(text: str) -> str:
    """Without characters that could drive a terminal: names in a store may come from anybody."""
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def compact(value: Any) -> str:
    """A config's value on one line."""
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def path(target: str | os.PathLike[str]) -> str:
    """Relative where it lies below the current folder, else absolute."""
    return relative(os.fspath(target)) or "."


def relative(text: str) -> str:
    """The text with every path below the current folder made relative."""
    here = Path.cwd()
    if here == Path(here.anchor):
        return text
    return re.sub(rf"(?<![\w./-]){re.escape(str(here))}{re.escape(os.sep)}", "", text)
