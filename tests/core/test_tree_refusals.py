"""What has no form without pickle is refused at the save, with its path; what a hostile tree asks for, at the load."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import json
import sys
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.disk.jsonfile import dump
from ckpt_tracker.errors import Damaged, StateMismatch, UnstorableLeaf
from ckpt_tracker.state.tree import decode, encode


class _MyList(list):  # type: ignore[type-arg]
    pass


class _Text(str):
    __slots__ = ()


@dataclasses.dataclass
class _Batch(dict):  # type: ignore[type-arg]
    size: int = 1


def _local_values() -> dict[str, object]:
    class Local(enum.Enum):
        A = 1

    class Pair(NamedTuple):
        x: int

    @dataclasses.dataclass
    class Settings:
        x: int

    return {"enum": Local.A, "named tuple": Pair(1), "dataclass": Settings(1)}


LOCAL = _local_values()
UNSTORABLE = {
    "function": lambda: None,
    "builtin": len,
    "class": dict,
    "partial": functools.partial(int, base=2),
    "object": object(),
    "generator": (i for i in ()),
    "lock": threading.Lock(),
    "module": sys,
    "subclass of list": _MyList([1]),
    "subclass of str": _Text("x"),
    "dataclass that is a dict": _Batch(),
    "class of dataclass": _Batch,
    "slice of arrays": slice(np.int64(1)),
    "range beyond 64 bits": range(2**70),
    "object array": np.array([object()]),
    "structured array": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    "masked array": np.ma.masked_array([1.0], mask=[True]),
    "defaultdict of a function": collections.defaultdict(lambda: 0),
}


@pytest.mark.parametrize("value", UNSTORABLE.values(), ids=UNSTORABLE.keys())
def test_a_value_without_a_form_is_refused_with_its_path(value: object) -> None:
    """The message begins with where in the state the value is."""
    with pytest.raises(UnstorableLeaf, match=r"^callbacks\.EarlyStopping\.fn\b"):
        encode({"callbacks": {"EarlyStopping": {"fn": value}}})


@pytest.mark.parametrize("value", LOCAL.values(), ids=LOCAL.keys())
def test_a_class_that_could_not_be_found_again_is_refused(value: object) -> None:
    """A class made inside a function has no name to find it by at the load, so its values are no checkpoint."""
    with pytest.raises(UnstorableLeaf, match=r"^loop\.it\b.*<locals>"):
        encode({"loop": {"it": value}})


def test_a_refusal_names_the_type_and_the_way_out() -> None:
    """The user learns what it is, and what can be saved instead."""
    with pytest.raises(UnstorableLeaf, match=r"builtins:object .*without pickle: save what it can be rebuilt from"):
        encode({"model": object()})


PATHS = {
    "model.layers[1].w": {"model": {"layers": [0, {"w": object()}]}},
    "model[3].w": {"model": {3: {"w": object()}}},
    "model['a b\\n']": {"model": {"a b\n": object()}},
    "model[2]": {"model": (0, 1, object())},
    "model[0]": {"model": collections.deque([object()])},
    "model.a": {"model": collections.OrderedDict(a=object())},
}


@pytest.mark.parametrize(("expected", "state"), PATHS.items(), ids=PATHS.keys())
def test_the_path_reads_like_the_expression_that_reaches_the_value(expected: str, state: object) -> None:
    """Names are joined by dots, and positions and odd keys are in brackets."""
    with pytest.raises(UnstorableLeaf) as refusal:
        encode(state)
    assert str(refusal.value).startswith(f"{expected} is a ")


def test_a_key_without_a_form_is_refused() -> None:
    """A dict's key is looked at as well as its value."""
    with pytest.raises(UnstorableLeaf, match=r"^model \(key <object"):
        encode({"model": {object(): 1}})


def test_a_refused_state_leaves_no_checkpoint(store: Store) -> None:
    """The save that is refused takes no version, and the next save works."""
    run = store.run("r")
    with pytest.raises(UnstorableLeaf):
        run.save({"model": {"fn": len}})
    assert run.save({"model": {"w": np.ones(3)}}).wait().ref == "r@v1"


@pytest.mark.parametrize("make", [list, dict, collections.deque, collections.OrderedDict])
def test_a_container_that_contains_itself_is_refused(make: Callable[[], object]) -> None:
    """A cycle is found at once, and its place is said."""
    inner = make()
    if isinstance(inner, dict):
        inner["again"] = inner
    else:
        inner.append(inner)  # type: ignore[attr-defined]
    with pytest.raises(UnstorableLeaf, match=r"^loop\.it.* contains itself"):
        encode({"loop": {"it": inner}})


DEEPER: dict[str, Callable[[object], object]] = {
    "list": lambda inner: [inner],
    "tuple": lambda inner: (inner,),
    "int keys": lambda inner: {1: inner},
    "ordered int keys": lambda inner: collections.OrderedDict({1: inner}),
    "defaultdict": lambda inner: collections.defaultdict(list, {1: inner}),
}


def _nested(depth: int, wrap: Callable[[object], object]) -> object:
    value: object = np.float64(1.0)
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", DEEPER.values(), ids=DEEPER.keys())
def test_a_state_too_deep_is_refused_before_it_is_queued(wrap: Callable[[object], object]) -> None:
    """The depth that a manifest cannot hold is refused with the path, not by the writer in the background."""
    with pytest.raises(UnstorableLeaf, match="deep: flatten it"):
        encode({"model": _nested(49, wrap)})


@pytest.mark.parametrize("wrap", DEEPER.values(), ids=DEEPER.keys())
def test_the_deepest_state_is_saved(
    store: Store, same: Callable[[object, object], bool], wrap: Callable[[object], object]
) -> None:
    """Whatever container is nested, as deep as is allowed comes back."""
    state = {"model": _nested(47, wrap)}
    assert same(state, store.run("r").save(state).load())


def _no_tensor(index: int) -> object:
    raise LookupError(index)


BROKEN = {
    "unknown form": {"$pickle": "gASVAA=="},
    "unknown tensor": {"$tensor": 5},
    "text for a number": {"$int": "zz"},
    "two numbers for a range": {"$range": [1, "x", 2]},
    "no base64": {"$npscalar": ["<f4", "%%%"]},
    "no type": {"$npscalar": ["O", "AAAA"]},
    "no pairs": {"$dict": [[1]]},
    "unhashable key": {"$dict": [[[1], 2]]},
    "unknown member of an enum": {"$enum": ["enum:EnumMeta", "X"]},
    "not a dataclass": {"$dataclass": ["collections:Counter", {}]},
    "not a named tuple": {"$namedtuple": ["builtins:tuple", {}]},
    "not a dict class": {"$dictclass": ["collections:OrderedDict", {}]},
    "too deep": json.loads("[" * 300 + "]" * 300),
}


@pytest.mark.parametrize("skeleton", BROKEN.values(), ids=BROKEN.keys())
def test_a_tree_that_was_never_saved_is_damaged(skeleton: object) -> None:
    """Whatever is wrong with a tree, the error is one of ours."""
    with pytest.raises((Damaged, StateMismatch)):
        decode({"model": skeleton}, _no_tensor)


@pytest.mark.parametrize("tag", ["$enum", "$flag", "$namedtuple", "$dataclass"])
def test_loading_never_imports_the_module_that_a_tree_names(tag: str) -> None:
    """A class of a module that is not imported yet is an error that says what to import; nothing of it runs."""
    assert "antigravity" not in sys.modules
    with pytest.raises(StateMismatch, match="import antigravity before loading"):
        decode({tag: ["antigravity:fly", "x"]}, _no_tensor)
    assert "antigravity" not in sys.modules


def test_a_dataclass_is_rebuilt_without_running_its_code() -> None:
    """Neither `__init__` nor `__post_init__` of a class that the tree names is called."""
    skeleton = {"$dataclass": [f"{__name__}:_Explosive", {"x": 1}]}
    assert decode(skeleton, _no_tensor).x == 1


@dataclasses.dataclass
class _Explosive:
    x: int

    def __post_init__(self) -> None:
        raise AssertionError("ran")


def test_attributes_that_post_init_added_come_back(store: Store) -> None:
    """Everything that a dataclass holds is saved, not its fields alone."""
    value = _Tally(2)
    loaded = store.run("r").save({"loop": {"it": value}}).load("loop")["it"]
    assert vars(loaded) == {"start": 2, "total": 20}


@dataclasses.dataclass
class _Tally:
    start: int

    def __post_init__(self) -> None:
        self.total = 10 * self.start


def test_torch_forms_are_readable_without_torch(python: Callable[..., str]) -> None:
    """A torch.Size, dtype and device in a state don't keep it from being read where torch is not installed."""
    output = python(
        """
        import sys
        sys.modules["torch"] = None
        from ckpt_tracker.state.tree import decode
        print(decode([{"$size": [2, 3]}, {"$dtype": "float32"}, {"$device": "cuda:0"}], None))
        """
    )
    assert output == "[(2, 3), 'float32', 'cuda:0']"


def test_a_tree_is_plain_json() -> None:
    """What a state becomes is what any JSON reader reads; tensors are referred to by number."""
    encoded = encode({"model": {"w": np.ones(2), "lr": 0.1, "betas": (0.9, 0.99)}})
    expected = b'{"model":{"w":{"$tensor":0},"lr":0.1,"betas":{"$tuple":[0.9,0.99]}}}'
    assert expected == dump(encoded.skeleton)
