"""State ⇄ a JSON skeleton and a list of tensors, without pickle.

Plain dicts with string keys, lists, strings, numbers, booleans and None are themselves in JSON. Every other
value is an object with one member whose name starts with `$` (`containers`, `leaves`). A tensor is
`{"$tensor": index}`, and tensors that share their memory share their index. What has no form is refused with
its path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from ckpt_tracker.containers import PAIRS, form_of, form_tagged
from ckpt_tracker.errors import CkptTrackerError, Damaged, UnstorableLeaf
from ckpt_tracker.leaves import class_name, decode_leaf, encode_leaf
from ckpt_tracker.records import TensorSpec
from ckpt_tracker.tensors import TensorKind, kind_of

Json = Any
_MAX_DEPTH = 48
"""Containers inside each other. Each takes up to 5 levels of JSON, and orjson writes 254."""


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
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise Damaged(f"the checkpoint's tree is not one that was saved: {error}") from error


def replace_tensors(skeleton: Json, replacement: Callable[[int], Json]) -> Json:
    """The same JSON with something else in place of each `{"$tensor": index}`."""
    if isinstance(skeleton, list):
        return [replace_tensors(each, replacement) for each in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if "$tensor" in skeleton:
        return replacement(skeleton["$tensor"])
    return {key: replace_tensors(each, replacement) for key, each in skeleton.items()}


class _Encoder:
    def __init__(self) -> None:
        self.leaves: list[TensorLeaf] = []
        self._known: dict[Hashable, int] = {}
        self._above: list[int] = []

    def encode(self, value: object, path: str) -> Json:
        kind = kind_of(value)
        if kind is not None:
            return {"$tensor": self._tensor(kind, value, path)}
        if type(value) is dict or type(value) is list or form_of(value) is not None:
            return self._container(value, path)
        try:
            return encode_leaf(value)
        except TypeError:
            raise UnstorableLeaf(_refusal(value, path)) from None

    def items(self, value: Mapping[Any, Any], path: str) -> Json:
        # isprintable also keeps lone surrogates out, which are no UTF-8
        if all(type(key) is str and key[:1] != "$" and key.isprintable() for key in value):
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
        except TypeError as error:
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
            return {key: self.decode(each) for key, each in form.items()}
        if tag == "$tensor":
            return self._tensor(form[tag])
        known = form_tagged(tag)
        return decode_leaf(tag, form[tag]) if known is None else known.decode(self, form[tag])


def _refusal(value: object, path: str) -> str:
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return (
        f"{path or 'the state'} is a {class_name(type(value))} ({shown}), which has no form without pickle: "
        "save what it can be rebuilt from (numbers, strings, lists, dicts, arrays, tensors, its state_dict())"
    )
