"""JSON as the store writes it: canonical, checked for duplicate keys, and sealed with a checksum.

A sealed document is a JSON object whose last member is `checksum`: the BLAKE3 hash, in hex, of all bytes
before the comma in front of that member. So a flipped bit anywhere in the file is found without hashing
twice, and the file stays plain JSON for every other reader.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Mapping
from typing import Any

from ckpt_tracker.errors import CkptTrackerError, Damaged, UnstorableLeaf

Json = Any
"""What JSON can hold; the manifests' own types are in `records`."""

MOST_BYTES = 64 * 2**20
"""Of a sealed file: a manifest of 200,000 tensors. One process trains models of up to some 20,000 parameters today, and
AdamW makes that three times as many tensors.
"""
# Parsed, `[],` takes thirty times its bytes: without a limit a small file would fill the memory.
_MOST_CONTAINERS = 1_000_000
_MOST_VALUES = 8_000_000
_LIGHT = 4 * 2**20
_SMALL = 2**18
_SEAL = b',"checksum":"'
_SEAL_LENGTH = len(_SEAL) + 64 + len(b'"}')
_SEALED = re.compile(_SEAL + rb'[0-9a-f]{64}"}')


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

    excess = _excess(data)
    if excess:
        raise Damaged(f"{name} has {excess}")
    try:
        document = orjson.loads(data)
        _check_room(data, name=name)
        # What is canonical cannot hold a duplicate; only the rest pays for the slow check.
        if orjson.dumps(document) != data:
            json.loads(data, object_pairs_hook=_unique_members, parse_int=_int64)
    except (TypeError, ValueError) as error:  # TypeError: nested deeper than orjson writes
        raise Damaged(f"{name} is not the JSON that was written: {error}") from error
    return document


def seal(document: dict[str, Json]) -> bytes:
    """The canonical bytes of a non-empty object, with its checksum as the last member.

    Raises UnstorableLeaf for more than a reader takes.
    """
    body = dump(document)[:-1]
    excess = _excess(body)
    if excess:
        raise UnstorableLeaf(f"what is no tensor has {excess}: keep long lists of numbers as arrays or tensors")
    return body + _seal_of(body)


def is_sealed(data: bytes) -> bool:
    """The bytes end as sealed ones do, whether the checksum is theirs or not."""
    return _SEALED.fullmatch(data[-_SEAL_LENGTH:]) is not None


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


def _int64(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**64
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"{text[:30]} is more than 64 bits hold")
    return value


def _excess(data: bytes) -> str | None:
    """What there is too much of, in words."""
    if len(data) <= _LIGHT:
        return None
    if len(data) > MOST_BYTES:
        return f"{len(data)} bytes, and {MOST_BYTES} are the most"
    for what, most, marks in (("containers", _MOST_CONTAINERS, b"[{"), ("values", _MOST_VALUES, b",")):
        found = sum(data.count(mark) for mark in marks)
        if found > most:
            return f"{found} {what}, and {most} are the most"
    return None


def _check_room(data: bytes, *, name: str) -> None:
    """orjson reserves up to that much for a list it writes, and the process dies where it can't have it."""
    if len(data) > _SMALL:
        reserved = 2 ** (256 * data.count(b",")).bit_length()
        try:
            mmap.mmap(-1, reserved + len(data)).close()
        except (OSError, MemoryError) as error:
            raise CkptTrackerError(f"there is no memory to read {name}") from error


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
