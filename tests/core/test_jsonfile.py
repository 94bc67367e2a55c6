"""Sealed JSON: whatever happens to its bytes is found, and other readers can still read it."""

from __future__ import annotations

import json
import math

import pytest
from blake3 import blake3

from ckpt_tracker.disk.jsonfile import dump, dump_sorted, load, plain, seal, unseal
from ckpt_tracker.errors import Damaged

DOCUMENT = {"format": 1, "name": "wärme", "values": [1, 2.5, None, True], "inner": {"a": "b"}}


def test_a_sealed_document_comes_back() -> None:
    """Without the checksum that was added."""
    assert unseal(seal(DOCUMENT), name="x") == DOCUMENT


def test_a_sealed_document_is_plain_json_that_ends_with_its_checksum() -> None:
    """The checksum is the BLAKE3 hash of all bytes before the comma in front of it."""
    data = seal(DOCUMENT)
    document = json.loads(data)
    before = data[: data.rindex(b',"checksum"')]
    assert list(document)[-1] == "checksum"
    assert document["checksum"] == blake3(before).hexdigest()


def test_every_flipped_bit_is_found() -> None:
    """Each bit of the file, one after the other."""
    data = seal(DOCUMENT)
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(Damaged, match="x is damaged"):
            unseal(bytes(flipped), name="x")


def test_every_cut_is_found() -> None:
    """Each length shorter than the whole."""
    data = seal(DOCUMENT)
    for length in range(len(data)):
        with pytest.raises(Damaged, match="x is damaged"):
            unseal(data[:length], name="x")


@pytest.mark.parametrize("extra", [b" ", b"\n", b"\0", b"}"])
def test_a_longer_file_is_found(extra: bytes) -> None:
    """Bytes after the end are damage as well."""
    with pytest.raises(Damaged):
        unseal(seal(DOCUMENT) + extra, name="x")


def test_a_sealed_list_is_no_document() -> None:
    """Only an object can be sealed, whatever its checksum says."""
    body = b"[1"
    with pytest.raises(Damaged):
        unseal(body + b',"checksum":"' + blake3(body).hexdigest().encode() + b'"}', name="x")


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"b":{"a":1,"c":0,"a":1}}', '[{"a":1, "\\u0061":2}]'])
def test_a_member_given_twice_is_refused(text: str) -> None:
    """Readers differ in which of the two they take."""
    with pytest.raises(Damaged, match="member 'a' is given twice"):
        load(text.encode(), name="x")


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a":Infinity}', '{"a":1}x', "[" * 2000, '"\ud800"'])
def test_what_is_no_json_is_damaged(text: str) -> None:
    """NaN is not JSON either, though Python's own reader takes it."""
    with pytest.raises(Damaged, match="x is not the JSON"):
        load(text.encode("utf-8", "surrogatepass"), name="x")


@pytest.mark.parametrize("text", ['{ "a": 1 }', "[1e3]", '{"b":1,"a":2}'])
def test_json_of_another_hand_is_read(text: str) -> None:
    """What is not canonical is read all the same."""
    assert load(text.encode(), name="x") == json.loads(text)


def test_dump_keeps_the_order_and_dump_sorted_does_not() -> None:
    """One is for people, the other for digests."""
    assert dump({"b": 1, "a": 2}) == b'{"b":1,"a":2}'
    assert dump_sorted({"b": 1, "a": {"d": 1, "c": 2}}) == b'{"a":{"c":2,"d":1},"b":1}'


class _Thing:
    def __repr__(self) -> str:
        return "a thing"


PLAIN = {
    "number": (0.1, 0.1),
    "nan": (math.nan, "nan"),
    "big int": (2**70, str(2**70)),
    "tuple": ((1, "a"), [1, "a"]),
    "set": ({1}, [1]),
    "keys": ({1: {None: 2}}, {"1": {"None": 2}}),
    "object": (_Thing(), "a thing"),
    "surrogate": ("bad \udc80 name", "bad \\udc80 name"),
    "key with surrogate": ({"\udc80": 1}, {"\\udc80": 1}),
}


@pytest.mark.parametrize(("value", "expected"), PLAIN.values(), ids=PLAIN.keys())
def test_plain_makes_json_of_anything(value: object, expected: object) -> None:
    """What JSON can't hold of a config becomes its text, and the result can be written."""
    assert plain(value) == expected
    assert dump(plain(value))
