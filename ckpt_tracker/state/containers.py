"""JSON forms of Python's containers, each with its way back beside it.

Order matters where Python's own equality says so (lists, OrderedDict, the pairs of a dict whose keys are no strings);
a set is sorted, because the digest needs an order and sets have none.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import types
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ckpt_tracker.errors import Damaged, MissingExtra, UnstorableLeaf
from ckpt_tracker.state.leaves import class_name, class_named, lasting_name

Json = Any
_FACTORIES: dict[str, Callable[[], object]] = {each.__name__: each for each in (list, dict, set, int, float, str, bool)}
_DICT_CLASSES = frozenset(
    f"{package}:AttributeDict" for package in ("lightning.fabric.utilities.data", "lightning_fabric.utilities.data")
)
_MORE_THAN_FIELDS = (type, enum.Enum, dict, list, tuple, set, frozenset, str, bytes, int, float)


class Encoder(Protocol):
    """What a form asks of the walk over a state."""

    def encode(self, value: object, path: str) -> Json: ...
    def items(self, value: Mapping[Any, Any], path: str) -> Json: ...
    def pairs(self, value: Mapping[Any, Any], path: str) -> list[Json]: ...
    def sequence(self, value: Any, path: str) -> list[Json]: ...


class Decoder(Protocol):
    """What a form asks of the walk over a skeleton."""

    def decode(self, form: Json) -> Any: ...
    def pairs(self, body: Json) -> list[tuple[Any, Any]]: ...


@dataclasses.dataclass(frozen=True)
class Form:
    """One kind of container: the tag of its JSON form, the body under it, and the way back."""

    tag: str
    encode: Callable[[Encoder, Any, str], Json]
    decode: Callable[[Decoder, Json], Any]


def form_of(value: object) -> Form | None:
    """The form that `value` takes, or None when it is no container with a tag."""
    cls = type(value)
    form = _BY_TYPE.get(cls)
    if form is not None:
        return form
    if isinstance(value, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_asdict"):
        return NAMEDTUPLE
    name = class_name(cls)
    if name in _DICT_CLASSES:
        return DICT_CLASS
    if name == "argparse:Namespace":
        return NAMESPACE
    if dataclasses.is_dataclass(value) and not isinstance(value, _MORE_THAN_FIELDS):
        return DATACLASS
    if cls.__module__.split(".")[0] == "omegaconf":
        return OMEGACONF
    return None


def form_tagged(tag: str) -> Form | None:
    """The form with that tag, or None."""
    return _BY_TAG.get(tag)


def _encode_ordered(encoder: Encoder, value: Any, path: str) -> Json:
    # torch keeps the versions of a module's state in an attribute of the dict
    metadata = getattr(value, "_metadata", None)
    items = encoder.items(value, path)
    return [items] if metadata is None else [items, encoder.encode(metadata, f"{path}._metadata")]


def _decode_ordered(decoder: Decoder, body: Json) -> Any:
    ordered = collections.OrderedDict(decoder.decode(body[0]))
    if len(body) > 1:
        ordered._metadata = decoder.decode(body[1])  # type: ignore[attr-defined]
    return ordered


def _encode_defaultdict(encoder: Encoder, value: Any, path: str) -> Json:
    factory = value.default_factory
    name = getattr(factory, "__name__", None)
    if factory is not None and _FACTORIES.get(str(name)) is not factory:
        raise UnstorableLeaf(f"{path} is a defaultdict of {factory!r}: make it a dict before saving")
    return [name, encoder.pairs(value, path)]


def _decode_defaultdict(decoder: Decoder, body: Json) -> Any:
    factory = None if body[0] is None else _FACTORIES[body[0]]
    return collections.defaultdict(factory, _unique(decoder.pairs(body[1])))


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Damaged("a key of a dict is given twice")
    return members


def _encode_set(encoder: Encoder, value: Any, path: str) -> Json:
    return encoder.sequence(sorted(value, key=repr), path)


def _encode_fields(fields: Callable[[Any], Mapping[str, object]]) -> Any:
    def encode(encoder: Encoder, value: Any, path: str) -> Json:
        try:
            name = lasting_name(type(value))
        except TypeError as error:
            raise UnstorableLeaf(f"{path}: the class {error}: define it at the top of a module") from error
        return [name, encoder.items(fields(value), path)]

    return encode


def _dataclass_fields(value: Any) -> dict[str, object]:
    names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    # what __post_init__ and the like have added belongs to it as well
    return {name: getattr(value, name) for name in (*names, *getattr(value, "__dict__", ()))}


def _decode_namedtuple(decoder: Decoder, body: Json) -> Any:
    cls = class_named(body[0], base=tuple)
    values = decoder.decode(body[1])
    if not hasattr(cls, "_fields") or list(cls._fields) != list(values):
        raise Damaged(f"{body[0]} is not a named tuple of {', '.join(values)[:200] or 'nothing'}")
    # its own __new__ may be anybody's code
    return tuple.__new__(cls, values.values())


def _decode_dict_class(decoder: Decoder, body: Json) -> Any:
    if body[0] not in _DICT_CLASSES:
        raise Damaged(f"{body[0]} is not a dict that is saved as such")
    return class_named(body[0], base=dict)(decoder.decode(body[1]))


def _decode_dataclass(decoder: Decoder, body: Json) -> Any:
    cls: Any = class_named(body[0], base=object)
    if not hasattr(cls, "__dataclass_fields__"):
        raise Damaged(f"{body[0]} is not a dataclass")
    instance = object.__new__(cls)
    for name, value in decoder.decode(body[1]).items():
        if name.startswith("__"):
            raise Damaged(f"{body[0]} can't have a field {name}")
        object.__setattr__(instance, name, value)
    return instance


def _decode_namespace(decoder: Decoder, body: Json) -> Any:
    from argparse import Namespace

    return Namespace(**decoder.decode(body))


def _encode_omegaconf(encoder: Encoder, value: Any, path: str) -> Json:
    from omegaconf import OmegaConf

    return encoder.encode(OmegaConf.to_container(value, resolve=False), path)


def _decode_omegaconf(decoder: Decoder, body: Json) -> Any:
    try:
        from omegaconf import OmegaConf
    except ImportError as error:
        message = "the checkpoint holds an OmegaConf config, and omegaconf is not installed: pip install omegaconf"
        raise MissingExtra(message) from error
    content = decoder.decode(body)
    if not isinstance(content, (dict, list)):
        raise Damaged("an OmegaConf config is made of a dict or a list: text would be parsed as YAML")
    # interpolations stay what they are: nothing is looked up before somebody asks for the value
    return OmegaConf.create(content)


TUPLE = Form(
    "$tuple",
    lambda encoder, value, path: encoder.sequence(value, path),
    lambda decoder, body: tuple(decoder.decode(body)),
)
PAIRS = Form(
    "$dict",
    lambda encoder, value, path: encoder.pairs(value, path),
    lambda decoder, body: _unique(decoder.pairs(body)),
)
ORDERED = Form("$odict", _encode_ordered, _decode_ordered)
DEFAULTDICT = Form("$defaultdict", _encode_defaultdict, _decode_defaultdict)
COUNTER = Form(
    "$counter",
    lambda encoder, value, path: encoder.pairs(value, path),
    lambda decoder, body: collections.Counter(_unique(decoder.pairs(body))),
)
DEQUE = Form(
    "$deque",
    lambda encoder, value, path: [value.maxlen, encoder.sequence(value, path)],
    lambda decoder, body: collections.deque(decoder.decode(body[1]), maxlen=body[0]),
)
SET = Form("$set", _encode_set, lambda decoder, body: set(decoder.decode(body)))
FROZENSET = Form("$frozenset", _encode_set, lambda decoder, body: frozenset(decoder.decode(body)))
NAMESPACE = Form(
    "$namespace",
    lambda encoder, value, path: encoder.items(vars(value), path),
    _decode_namespace,
)
SIMPLE_NAMESPACE = Form(
    "$simplenamespace",
    lambda encoder, value, path: encoder.items(vars(value), path),
    lambda decoder, body: types.SimpleNamespace(**decoder.decode(body)),
)
MAPPING_PROXY = Form(
    "$mappingproxy",
    lambda encoder, value, path: encoder.items(value, path),
    lambda decoder, body: types.MappingProxyType(decoder.decode(body)),
)
NAMEDTUPLE = Form("$namedtuple", _encode_fields(lambda value: value._asdict()), _decode_namedtuple)
DICT_CLASS = Form("$dictclass", _encode_fields(dict), _decode_dict_class)
DATACLASS = Form("$dataclass", _encode_fields(_dataclass_fields), _decode_dataclass)
OMEGACONF = Form("$omegaconf", _encode_omegaconf, _decode_omegaconf)

_BY_TYPE: dict[type, Form] = {
    tuple: TUPLE,
    set: SET,
    frozenset: FROZENSET,
    collections.OrderedDict: ORDERED,
    collections.Counter: COUNTER,
    collections.defaultdict: DEFAULTDICT,
    collections.deque: DEQUE,
    types.SimpleNamespace: SIMPLE_NAMESPACE,
    types.MappingProxyType: MAPPING_PROXY,
}
_BY_TAG = {
    form.tag: form for form in (*_BY_TYPE.values(), PAIRS, NAMESPACE, NAMEDTUPLE, DICT_CLASS, DATACLASS, OMEGACONF)
}
