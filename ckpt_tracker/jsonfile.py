"""JSON as the store writes it: canonical, checked for duplicate keys, and sealed with a checksum.

A sealed document is a JSON object whose last member is `checksum`: the BLAKE3 hash, in hex, of all bytes
before the comma in front of that member. So a flipped bit anywhere in the file is found without hashing
twice, and the file stays plain JSON for every other reader.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ckpt_tracker.errors import Damaged

Json = Any
"""What JSON can hold; the manifests' own types are in `records`."""

_SEAL = b',"checksum":"'
_SEAL_LENGTH = len(_SEAL) + 64 + len(b'"}')


def dump(document: Json) -> bytes:
    """The canonical bytes of a document: compact, UTF-8, members in the order given."""
    import orjson

    return orjson.dumps(document)


def dump_sorted(document: Json) -> bytes:
    """The same with members sorted by name: equal for equal documents, whatever order they were built in."""
    import orjson

    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def load(data: bytes, *, name: str) -> Json:
    """Parse `data`; `name` is what errors call it.

    Raises Damaged when it is not JSON, or when a member is given twice (readers differ in which one they take).
    """
    import orjson

    try:
        document = orjson.loads(data)
        # What is canonical cannot hold a duplicate; only the rest pays for the slow check.
        if orjson.dumps(document) != data:
            json.loads(data, object_pairs_hook=_unique_members)
    except (TypeError, ValueError) as error:  # TypeError: nested deeper than orjson writes
        raise Damaged(f"{name} is not the JSON that was written: {error}") from error
    return document


def seal(document: dict[str, Json]) -> bytes:
    """The canonical bytes of a non-empty object, with its checksum as the last member."""
    body = dump(document)[:-1]
    return body + _seal_of(body)


def unseal(data: bytes, *, name: str) -> dict[str, Json]:
    """The document in sealed bytes, without its checksum. Raises Damaged when they don't agree."""
    body, mark = data[:-_SEAL_LENGTH], data[-_SEAL_LENGTH:]
    if mark != _seal_of(body):
        raise Damaged(f"{name} is damaged: its checksum does not match its {len(data)} bytes")
    document = load(data, name=name)
    if not isinstance(document, dict):
        raise Damaged(f"{name} is damaged: expected a JSON object, found {type(document).__name__}")
    del document["checksum"]
    return document


def _seal_of(body: bytes) -> bytes:
    from blake3 import blake3

    return _SEAL + blake3(body).hexdigest().encode() + b'"}'


def _unique_members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"member {twice!r} is given twice")
    return members


def plain(value: object) -> Json:
    """A value as plain JSON for people to read: what JSON can't hold becomes its text."""
    if isinstance(value, Mapping):
        return {_text(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if value is None or type(value) is bool:
        return value
    if type(value) is int and abs(value) < 2**63:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    return _text(value)


def _text(value: object) -> str:
    # file names that are no UTF-8 come as lone surrogates
    return str(value).encode("utf-8", "backslashreplace").decode()
