"""The resume guard: what is different between a checkpoint's training and the one that is to continue from it.

Most changes are only shown: a newer Python, another commit. Those that would make the resumed training another one
are refused, with the way out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckpt_tracker.errors import StateMismatch

_log = logging.getLogger("ckpt_tracker")
_SHOWN = 60


@dataclass(frozen=True)
class Change:
    """One fact that is not what it was; None where there is, or was, no such fact."""

    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.was)} before, {_short(self.now)} now"


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Change, ...]:
    """What differs between two trees of plain values, by dotted names. What one side knows nothing of is left out
    where that whole branch is missing: an earlier version may not have recorded it.
    """
    return tuple(_differing(was, now, prefix=""))


def show(found: Sequence[Change], *, ref: str) -> None:
    """Logs the changes since a checkpoint, if there are any, as one warning."""
    if found:
        _log.warning("continuing from %s, with changes since then:\n  %s", ref, "\n  ".join(map(str, found)))


def refuse(found: Sequence[Change], *, ref: str, remedy: str) -> None:
    """Raises StateMismatch where there are changes; `remedy` says what to do instead."""
    if found:
        told = "\n  ".join(map(str, found))
        raise StateMismatch(f"{ref} can't be continued exactly:\n  {told}\n{remedy}")


def among(found: Iterable[Change], *names: str) -> tuple[Change, ...]:
    """The changes of these names, or below them."""
    return tuple(each for each in found if any(each.name == name or each.name.startswith(f"{name}.") for name in names))


def _differing(was: Mapping[str, Any], now: Mapping[str, Any], *, prefix: str) -> Iterator[Change]:
    for key in [*was, *(key for key in now if key not in was)]:
        before, after, name = was.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differing(before, after, prefix=f"{name}.")
        elif isinstance(before, Mapping) or isinstance(after, Mapping):
            continue
        elif before != after:
            yield Change(name, before, after)


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
