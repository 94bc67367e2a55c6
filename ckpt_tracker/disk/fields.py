"""What a member of a document must be. A checksum tells that a file is whole, not that its writer meant well.

Each function returns the value as it is, or raises ValueError saying what was expected and what was found.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from ckpt_tracker.disk.formats import LAST_VERSION, OBJECT_NAME

MOST_NAME = 1000
"""Letters in a name."""
_MOST_TEXT = 100_000
_INT64 = 2**63


def natural(value: object) -> int:
    """A whole number from 0 to what 64 bits hold."""
    if type(value) is not int or not 0 <= value < _INT64:
        raise _expected("a whole number, 0 or more", value)
    return value


def optional_natural(value: object) -> int | None:
    """The same, or None."""
    return None if value is None else natural(value)


def version(value: object) -> int:
    """The number of a checkpoint."""
    if type(value) is not int or not 0 < value <= LAST_VERSION:
        raise _expected("a version", value)
    return value


def seconds(value: object) -> float:
    """A finite number, 0 or more."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:  # type: ignore[operator]
        raise _expected("seconds", value)
    return value  # type: ignore[return-value]


def metric(value: object) -> float:
    """Any number, NaN and infinities too."""
    if type(value) not in (int, float):
        raise _expected("a number", value)
    return value  # type: ignore[return-value]


def hash_name(value: object) -> str:
    """64 hex digits."""
    if not isinstance(value, str) or not OBJECT_NAME.fullmatch(value):
        raise _expected("a hash", value)
    return value


def name(value: object) -> str:
    """A short text."""
    if not isinstance(value, str) or not 0 < len(value) <= MOST_NAME:
        raise _expected("a name", value)
    return value


def optional_text(value: object) -> str | None:
    """A text, or None."""
    if value is not None and not (isinstance(value, str) and len(value) <= _MOST_TEXT):
        raise _expected("a text", value)
    return value


def flag(value: object) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise _expected("true or false", value)
    return value


def moment(value: object) -> datetime:
    """A time with its zone, in ISO 8601."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else None
    # the first and last years can't be converted to every zone
    if found is None or found.tzinfo is None or not 1970 <= found.year < 9999:
        raise _expected("a time with its zone", value)
    return found


def mapping(value: object) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise _expected("an object", value)
    return value


def listing(value: object) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise _expected("a list", value)
    return value


def _expected(what: str, found: object) -> ValueError:
    if isinstance(found, str):
        found = found[:60]
    text = type(found).__name__ if isinstance(found, (dict, list)) else repr(found)
    return ValueError(f"expected {what}, found {text}")
