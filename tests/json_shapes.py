"""Whether a JSON document is of a shape, as `ckpt_tracker.cli.schemas` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

KINDS = {
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "text": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "time": lambda value: isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)", value),
    "reference": lambda value: isinstance(value, str) and re.fullmatch(r"[\w.-]+@v\d+", value),
    "any": lambda value: True,
    "null": lambda value: value is None,
}


def faults(value: Any, shape: Any, where: str = "$") -> Iterator[str]:
    """Where a value is not of the shape."""
    if isinstance(shape, tuple):
        if all(any(faults(value, each)) for each in shape):
            yield f"{where} is {value!r}: none of {shape}"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where} is no array"
        else:
            for index, each in enumerate(value):
                yield from faults(each, shape[0], f"{where}[{index}]")
    elif isinstance(shape, dict):
        yield from _object_faults(value, shape, where)
    else:
        kind = shape.partition(":")[0]
        if not (KINDS[kind.rstrip("?")](value) or (value is None and kind.endswith("?"))):
            yield f"{where} is {value!r}: no {kind}"


def _object_faults(value: Any, shape: dict[str, Any], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is no object"
        return
    if [*shape] == ["*"]:
        shape = dict.fromkeys(value, shape["*"])
    optional = {key.rstrip("?") for key in shape if key.endswith("?")}
    known = {key.rstrip("?"): kind for key, kind in shape.items()}
    yield from (f"{where}.{key} is missing" for key in known.keys() - value.keys() - optional)
    yield from (f"{where}.{key} is not documented" for key in value.keys() - known.keys())
    for key in known.keys() & value.keys():
        yield from faults(value[key], known[key], f"{where}.{key}")
