"""Every form that a value of a state can take comes back from disk as what it was."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import math
import pathlib
import types
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from ckpt_tracker import Store


class Point(NamedTuple):
    """A named tuple of a module."""

    x: int
    y: object = None


class Colour(enum.Enum):
    """An enum whose values could not be stored themselves."""

    RED = object()
    BLUE = object()


class Level(enum.IntEnum):
    """An enum that is also a number."""

    LOW = 1
    HIGH = 2


class Permission(enum.Flag):
    """An enum whose members combine."""

    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Settings:
    """A dataclass that would refuse to be made from nothing."""

    rate: float
    names: list[str]

    def __post_init__(self) -> None:
        assert self.rate > 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A dataclass that refuses assignment."""

    size: int


@dataclasses.dataclass
class Slotted:
    """A dataclass without a dict of attributes."""

    __slots__ = ("size",)
    size: int


def _ordered_with_metadata() -> collections.OrderedDict[str, object]:
    ordered = collections.OrderedDict([("b", 1), ("a", 2)])
    ordered._metadata = collections.OrderedDict([("", {"version": 1})])  # type: ignore[attr-defined]
    return ordered


FORMS = {
    "none": None,
    "bool": True,
    "int": -7,
    "int of 63 bits": -(2**63),
    "int of 64 bits": 2**64 - 1,
    "big int": 2**200 + 1,
    "big negative int": -(2**100),
    "float": 0.1,
    "smallest float": 5e-324,
    "negative zero": -0.0,
    "nan": math.nan,
    "infinity": math.inf,
    "negative infinity": -math.inf,
    "complex": complex(-0.0, math.inf),
    "str": "wärme\n\x00 \u2028",
    "surrogate str": "bad \udc80 name",
    "bytes": bytes(range(256)),
    "bytearray": bytearray(b"\x00\xff"),
    "range": range(10, 0, -3),
    "slice": slice(1, None, 2),
    "ellipsis": ...,
    "datetime": datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc),
    "datetime without a zone": datetime.datetime(2026, 1, 2),  # noqa: DTZ001 - people have them in their configs
    "date": datetime.date(2026, 1, 2),
    "timedelta": datetime.timedelta(days=-1, microseconds=5),
    "path": pathlib.Path("a/b.txt"),
    "enum": Colour.BLUE,
    "int enum": Level.HIGH,
    "flag": Permission.WRITE,
    "combined flags": Permission.READ | Permission.WRITE,
    "no flag": Permission(0),
    "empty list": [],
    "nested list": [1, [2, [None]]],
    "tuple": (1, (2.5, "x"), ()),
    "named tuple": Point(1, [Point(2)]),
    "set": {3, 1, 2},
    "frozenset": frozenset({"a", "b"}),
    "deque": collections.deque([1, 2], maxlen=5),
    "deque without a limit": collections.deque([[]]),
    "empty dict": {},
    "dict": {"b": 1, "a": {"": []}},
    "dict with int keys": {1: "a", -1: "b", 2**70: "c"},
    "dict with mixed keys": {"1": "a", 1.5: "b", None: "c", (1, "x"): "d", False: "e", b"k": "f"},
    "dict with keys like tags": {"$tensor": 0, "$tuple": [1]},
    "dict with a key of two lines": {"a\nb": 1, "\ud800": 2},
    "ordered dict": collections.OrderedDict([("b", 1), ("a", 2)]),
    "ordered dict with int keys": collections.OrderedDict([(2, 1), (1, 2)]),
    "ordered dict with _metadata": _ordered_with_metadata(),
    "counter": collections.Counter({"a": 2, 3: 1}),
    "defaultdict": collections.defaultdict(list, {"a": [1], 2: []}),
    "defaultdict without factory": collections.defaultdict(None, {"a": 1}),
    "namespace": argparse.Namespace(lr=0.1, layers=(1, 2)),
    "simple namespace": types.SimpleNamespace(a={1: 2}),
    "mapping proxy": types.MappingProxyType({"a": 1}),
    "dataclass": Settings(0.5, ["a"]),
    "frozen dataclass": Frozen(3),
    "slotted dataclass": Slotted(3),
    "numpy float scalar": np.float32(0.1),
    "numpy nan": np.float64("nan"),
    "numpy int scalar": np.int8(-1),
    "numpy bool": np.bool_(True),
    "numpy complex scalar": np.complex64(1 + 2j),
    "numpy str": np.str_("wärme"),
    "numpy str with a zero": np.str_("a\0"),
    "empty numpy str": np.str_(""),
    "empty numpy bytes": np.bytes_(b""),
    "numpy datetime": np.datetime64("2026-01-02T03:04:05", "ns"),
    "numpy duration": np.timedelta64(5, "m"),
    "numpy dtype": np.dtype("float16"),
    "big-endian dtype": np.dtype(">i4"),
}


@pytest.mark.parametrize("value", FORMS.values(), ids=FORMS.keys())
def test_a_form_comes_back_as_what_it_was(store: Store, same: Callable[[object, object], bool], value: object) -> None:
    """Type, order and every bit of the value are the same after a save and a load."""
    checkpoint = store.run("r").save({"callbacks": {"value": value}})
    actual = checkpoint.load("callbacks")["value"]
    assert same(value, actual), actual


def test_all_forms_together_come_back(store: Store, same: Callable[[object, object], bool]) -> None:
    """One state that holds every form at once."""
    checkpoint = store.run("r").save({"callbacks": FORMS})
    assert same(FORMS, checkpoint.load("callbacks"))


def test_a_list_held_twice_becomes_two_equal_lists(store: Store) -> None:
    """A checkpoint is a tree: only tensors stay shared."""
    shared = [1, 2]
    loaded = store.run("r").save({"loop": {"a": shared, "b": shared}}).load("loop")
    assert [loaded["a"], loaded["b"]] == [[1, 2], [1, 2]]
    assert loaded["a"] is not loaded["b"]


def test_a_mapping_of_sections_may_be_any_mapping(store: Store) -> None:
    """`save` takes an OrderedDict or a proxy as well as a dict."""
    state = types.MappingProxyType({"model": {"w": 1}})
    assert store.run("r").save(state).load() == {"model": {"w": 1}}
