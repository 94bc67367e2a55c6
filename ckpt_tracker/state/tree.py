"""State ⇄ a JSON skeleton and a list of tensors, without pickle.

Plain dicts with string keys, lists, strings, numbers, booleans and None are themselves in JSON. Every other
value is an object with one member whose name starts with `$` (`containers`, `leaves`). A tensor is
`{"$tensor": index}`, and tensors that share their memory share their index. What has no form is refused with
its path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from ckpt_tracker.disk.jsonfile import dump
from ckpt_tracker.errors import CkptTrackerError, Damaged, UnstorableLeaf
from ckpt_tracker.records import TensorSpec
from ckpt_tracker.state.containers import PAIRS, form_of, form_tagged
from ckpt_tracker.state.leaves import class_name, decode_leaf, encode_leaf
from ckpt_tracker.state.tensors import TensorKind, itemsize_fits, kind_of

Json = Any
_MAX_DEPTH = 48
"""Containers inside each other. Each takes up to 5 levels of JSON, and orjson writes 254."""
_LONG_KEY = 1000
_LONG_PATH = 1000
_PLAIN = frozenset((bool, int, float, str, type(None)))


@dataclasses.dataclass(frozen=True)
class TensorLeaf:
    """A live tensor of the state, with the kind that can copy it."""

    kind: TensorKind
    tensor: Any
    spec: TensorSpec


@dataclasses.dataclass(frozen=True)
class EncodedState:
    """A state as JSON and tensors. The tensors are still the loop's own memory."""

    skeleton: Json
    leaves: tuple[TensorLeaf, ...]


def encode(state: object) -> EncodedState:
    """Takes a state apart. Raises UnstorableLeaf, with the path, at the first value that has no form."""
    encoder = _Encoder()
    return EncodedState(encoder.encode(state, ""), tuple(encoder.leaves))


def decode(skeleton: Json, tensor: Callable[[int], object]) -> Any:
    """Puts a state together; `tensor(index)` is asked for each tensor each time it occurs.

    Raises Damaged for a skeleton that `encode` can't have made, StateMismatch for a class that isn't imported.
    """
    try:
        return _Decoder(tensor).decode(skeleton)
    except CkptTrackerError:
        raise
    # RuntimeError is what torch raises for a device or a size that can't be
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise Damaged(f"the checkpoint's tree is not one that was saved: {error}") from error


def replace_tensors(skeleton: Json, replacement: Callable[[int], Json]) -> Json:
    """The same JSON with something else in place of each `{"$tensor": index}`."""
    if isinstance(skeleton, list):
        return [replace_tensors(each, replacement) for each in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if "$tensor" in skeleton and len(skeleton) == 1:
        return replacement(skeleton["$tensor"])
    return {key: replace_tensors(each, replacement) for key, each in skeleton.items()}


def leaves(skeleton: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every leaf with its path (`model.fc.weight`); a tensor is `{"$tensor": index}`, an empty container a leaf."""
    members = _members(skeleton)
    if members is None:
        yield path, skeleton
        return
    for step, each in members:
        yield from leaves(each, path + step if path else step.removeprefix("."))


def tensor_paths(skeleton: Json, path: str = "") -> Iterator[tuple[int, str]]:
    """The index of every tensor, with its path, which is cut short where it is long: names may come from anybody."""
    if isinstance(skeleton, dict) and "$tensor" in skeleton:
        yield skeleton["$tensor"], path
        return
    for step, each in _members(skeleton) or ():
        if isinstance(each, (dict, list)):
            yield from tensor_paths(each, _shortened(path + step if path else step.removeprefix(".")))


def _members(skeleton: Json) -> Iterator[tuple[str, Json]] | None:
    """What is in a container, each with what it adds to the path; None for a leaf."""
    if not isinstance(skeleton, (dict, list)) or not skeleton:
        return None
    if isinstance(skeleton, list):
        return ((f"[{index}]", each) for index, each in enumerate(skeleton))
    tag = next(iter(skeleton))
    if tag in _PAIRS:
        pairs = skeleton[tag] if _PAIRS[tag] is None else skeleton[tag][_PAIRS[tag]]
        return ((f"[{dump(name).decode()}]", each) for name, each in pairs)
    if form_tagged(tag) is not None:
        return iter([("", skeleton[tag][_BODIES[tag]] if tag in _BODIES else skeleton[tag])])
    if tag.startswith("$"):
        return None
    return ((f".{key}", each) for key, each in skeleton.items())


def _shortened(path: str) -> str:
    return path if len(path) <= _LONG_PATH else f"{path[: _LONG_PATH // 2]}…{path[-_LONG_PATH // 2 :]}"


# where in the body of a form its members are
_BODIES = {"$odict": 0, "$deque": 1, "$namedtuple": 1, "$dataclass": 1, "$dictclass": 1}
_PAIRS = {"$dict": None, "$counter": None, "$defaultdict": 1}


class _Encoder:
    def __init__(self) -> None:
        self.leaves: list[TensorLeaf] = []
        self._known: dict[Hashable, int] = {}
        self._above: list[int] = []

    def encode(self, value: object, path: str) -> Json:
        cls = type(value)
        if cls is dict or cls is list:
            return self._container(value, path)
        if cls not in _PLAIN:
            kind = kind_of(value)
            if kind is not None:
                return {"$tensor": self._tensor(kind, value, path)}
            if form_of(value) is not None:
                return self._container(value, path)
        try:
            return encode_leaf(value)
        except TypeError:
            raise UnstorableLeaf(_refusal(value, path)) from None

    def items(self, value: Mapping[Any, Any], path: str) -> Json:
        # isprintable also keeps lone surrogates out, which are no UTF-8
        if all(type(key) is str and key[:1] != "$" and key.isprintable() and len(key) <= _LONG_KEY for key in value):
            above = f"{path}." if path else ""
            return {key: self.encode(each, above + key) for key, each in value.items()}
        return {PAIRS.tag: self.pairs(value, path)}

    def pairs(self, value: Mapping[Any, Any], path: str) -> list[Json]:
        return [
            [self.encode(key, f"{path} (key {key!r})"), self.encode(each, f"{path}[{key!r}]")]
            for key, each in value.items()
        ]

    def sequence(self, value: Any, path: str) -> list[Json]:
        return [self.encode(each, f"{path}[{index}]") for index, each in enumerate(value)]

    def _container(self, value: object, path: str) -> Json:
        if id(value) in self._above:
            raise UnstorableLeaf(f"{path} contains itself: a checkpoint holds trees only")
        if len(self._above) >= _MAX_DEPTH:
            raise UnstorableLeaf(f"{path} is nested more than {_MAX_DEPTH} deep: flatten it")
        self._above.append(id(value))
        try:
            if type(value) is dict:
                return self.items(value, path)
            if type(value) is list:
                return self.sequence(value, path)
            form = form_of(value)
            assert form is not None
            return {form.tag: form.encode(self, value, path)}
        finally:
            self._above.pop()

    def _tensor(self, kind: TensorKind, tensor: Any, path: str) -> int:
        try:
            spec = kind.describe(tensor)
            if not itemsize_fits(spec):
                raise TypeError(f"a {spec.dtype} tensor of shape {list(spec.shape)} and {spec.nbytes} bytes")
        except (TypeError, Damaged) as error:
            message = f"{path or 'the state'} is {error}, which a checkpoint can't hold: save a dense copy"
            raise UnstorableLeaf(message) from error
        identity = kind.identity(tensor)
        if identity is None or identity not in self._known:
            self.leaves.append(TensorLeaf(kind, tensor, spec))
            self._known[identity] = len(self.leaves) - 1
        return self._known[identity]


class _Decoder:
    def __init__(self, tensor: Callable[[int], object]) -> None:
        self._tensor = tensor
        self._depth = 0

    def decode(self, form: Json) -> Any:
        # one container of a state is two of JSON: the object with the tag, and its body
        if self._depth > 3 * _MAX_DEPTH:
            raise Damaged("the checkpoint's tree is nested deeper than any that was saved")
        if not isinstance(form, (dict, list)):
            return form
        self._depth += 1
        try:
            return self._container(form)
        finally:
            self._depth -= 1

    def pairs(self, body: Json) -> list[tuple[Any, Any]]:
        return [(self.decode(key), self.decode(value)) for key, value in body]

    def _container(self, form: dict[str, Json] | list[Json]) -> Any:
        if isinstance(form, list):
            return [self.decode(each) for each in form]
        tag = next(iter(form), "")
        if not tag.startswith("$"):
            return {_key(key): self.decode(each) for key, each in form.items()}
        if len(form) > 1:
            raise Damaged(f"the checkpoint's tree has a form {tag[:60]!r} with other members beside it")
        if tag == "$tensor":
            return self._tensor(_index(form[tag]))
        known = form_tagged(tag)
        return decode_leaf(tag, form[tag]) if known is None else known.decode(self, form[tag])


def _key(key: str) -> str:
    if key[:1] == "$" or len(key) > _LONG_KEY:
        raise Damaged(f"the checkpoint's tree has a member {key[:60]!r}, which is not one that was saved")
    return key


def _index(body: Json) -> int:
    # Python would take -1 for the last one
    if type(body) is not int or body < 0:
        raise Damaged("the checkpoint's tree refers to a tensor by something that is no index")
    return body


def _refusal(value: object, path: str) -> str:
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return (
        f"{path or 'the state'} is a {class_name(type(value))} ({shown}), which has no form without pickle: "
        "save what it can be rebuilt from (numbers, strings, lists, dicts, arrays, tensors, its state_dict())"
    )
