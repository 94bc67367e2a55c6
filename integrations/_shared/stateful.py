"""Objects that a training hands to its tracker: how their state is taken, and put back.

An object is anything with `state_dict()` and `load_state_dict()`, a random generator of torch, NumPy or Python, or a
dict or list of such objects (a GAN's two models, several optimizers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ckpt_tracker.errors import InvalidOption, StateMismatch
from ckpt_tracker.integrations._shared import generators as _generators

_SHOWN = 8
_WRAPPERS = ("DataParallel", "DistributedDataParallel")


def check(value: Any, *, name: str) -> None:
    """Raises InvalidOption, with the name, for an object whose state can't be taken."""
    for path, each in members(value, name):
        if not (hasattr(each, "state_dict") or hasattr(each, "get_state") or _generators.is_generator(each)):
            raise InvalidOption(
                f"{path} is a {type(each).__qualname__}: expected an object with state_dict() and load_state_dict()"
            )


def members(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """An object, or each in a dict or list, with its path."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from members(each, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from members(each, f"{name}[{index}]")
    else:
        yield name, value


def take(value: Any) -> Any:
    """The state of an object, or of each in a dict or list. Still the objects' own memory."""
    if isinstance(value, Mapping):
        return {key: take(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [take(each) for each in value]
    return bare(value).state_dict() if hasattr(value, "state_dict") else _generators.take(value)


def take_bare(value: Any) -> Any:
    """`take`, with every parameter named as if no module were wrapped, inside the model too."""
    if isinstance(value, Mapping):
        return {key: take_bare(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [take_bare(each) for each in value]
    names = _bare_names(value)
    state = take(value)
    return _renamed(state, names) if names else state


def put(value: Any, state: Any, *, name: str) -> None:
    """Puts back what `take_bare` gave. Raises StateMismatch, showing both sides, before that object is changed."""
    if isinstance(value, Mapping):
        if not isinstance(state, Mapping) or set(value) != set(state):
            raise StateMismatch(f"{name}: this script has {list(value)}, the checkpoint has {_kinds(state)}")
        for key, each in value.items():
            put(each, state[key], name=f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        if not isinstance(state, list) or len(value) != len(state):
            raise StateMismatch(f"{name}: this script has {len(value)}, the checkpoint has {_kinds(state)}")
        for index, each in enumerate(value):
            put(each, state[index], name=f"{name}[{index}]")
    else:
        _put_one(value, state, name=name)


def check_tensors(own: Mapping[str, Any], saved: Mapping[str, Any], *, name: str) -> None:
    """Raises StateMismatch where names or shapes of two state dicts differ, showing both sides."""
    problems = [f"{key}: in the checkpoint only" for key in saved if key not in own]
    problems += [f"{key}: in the script only" for key in own if key not in saved]
    for key, value in own.items():
        here, there = getattr(value, "shape", None), getattr(saved.get(key), "shape", None)
        if key in saved and here != there:
            problems.append(f"{key}: {_shape(here)} in the script, {_shape(there)} in the checkpoint")
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = "\n  ".join(problems[:_SHOWN])
        raise StateMismatch(
            f"{name} does not fit the checkpoint:\n  {shown}{more}\n"
            "build it as it was when the checkpoint was saved, or start anew with another run name or resume='never'"
        )


def bare(value: Any) -> Any:
    """The module inside DataParallel, DistributedDataParallel or torch.compile."""
    while True:
        inner = _wrapped(value)
        if inner is None:
            return value
        value = getattr(value, inner)


def _put_one(value: Any, state: Any, *, name: str) -> None:
    if not hasattr(value, "load_state_dict"):
        _generators.put(value, state)
        return
    target = bare(value)
    if hasattr(target, "named_parameters"):
        names = _bare_names(target)
        check_tensors(_renamed(target.state_dict(), names), state, name=name)
        state = _renamed(state, {bare_name: own for own, bare_name in names.items()})
    try:
        target.load_state_dict(state)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise StateMismatch(f"{name} ({type(target).__qualname__}) does not fit the checkpoint: {error}") from error
    if hasattr(target, "param_groups") and {"state", "param_groups"} <= set(state):
        _check_groups(target, name=name)
        _keep_types(target, state)


def _check_groups(optimizer: Any, *, name: str) -> None:
    """torch takes the state of any optimizer for that of any other, which then fails at its first step."""
    defaults = getattr(optimizer, "defaults", {})
    missing = sorted({str(key) for group in optimizer.param_groups for key in defaults if key not in group})
    if missing:
        raise StateMismatch(
            f"{name} is a {type(optimizer).__qualname__}, and the checkpoint holds no {', '.join(missing)}, so it was "
            "saved with another optimizer: use that one, or start anew with another run name or resume='never', from "
            "the weights alone if you like (checkpoint.load('model'))"
        )


def _keep_types(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """torch casts what an optimizer keeps to its parameter's type: float32 kept beside bfloat16 would be rounded."""
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        own = optimizer.state.get(parameter, {})
        for name, value in saved["state"].get(number, {}).items():
            if getattr(own.get(name), "dtype", None) != getattr(value, "dtype", None):
                own[name] = value.to(own[name].device) if hasattr(value, "to") else value


def _wrapped(value: Any) -> str | None:
    """The name of the attribute that a wrapper has its module under; None where it is no wrapper."""
    if "_orig_mod" in getattr(value, "_modules", ()):
        return "_orig_mod"
    return "module" if type(value).__name__ in _WRAPPERS else None


def _bare_names(value: Any) -> dict[str, str]:
    """Entries of a module's state whose names say that a module inside is wrapped, and their names if it were not."""
    target = bare(value)
    if not hasattr(target, "named_modules"):
        return {}
    modules = list(target.named_modules(remove_duplicate=False))
    prefixes = [(name, f"{name}.{inner}.") for name, each in modules for inner in [_wrapped(each)] if inner]
    names = {}
    for key in target.state_dict() if prefixes else ():
        short = key
        for outside, prefix in sorted(prefixes, key=lambda item: -len(item[1])):
            short = f"{outside}.{short.removeprefix(prefix)}" if short.startswith(prefix) else short
        names.update({key: short} if short != key else {})
    return names


def _renamed(state: Any, names: Mapping[str, str]) -> Any:
    """A state dict with other names, in its order; what torch keeps beside it is of no use to other names."""
    if not names:
        return state
    return {names.get(key, key): value for key, value in state.items()}


def _kinds(state: Any) -> str:
    return str(list(state)) if isinstance(state, Mapping) else f"{len(state)}" if isinstance(state, list) else "one"


def _shape(shape: Any) -> str:
    return "no tensor" if shape is None else str(list(shape))
