"""Objects that a training hands to its tracker: how their state is taken, and put back.

An object is anything with `state_dict()` and `load_state_dict()`, a random generator of torch or NumPy, or a dict
or list of such objects (a GAN's two models, several optimizers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpt_tracker.errors import InvalidOption, StateMismatch

_SHOWN = 8


def check(value: Any, *, name: str) -> None:
    """Raises InvalidOption, with the name, for an object whose state can't be taken."""
    for path, each in _members(value, name):
        if not any(hasattr(each, way) for way in ("state_dict", "get_state", "bit_generator")):
            raise InvalidOption(
                f"{path} is a {type(each).__qualname__}: expected an object with state_dict() and load_state_dict()"
            )


def take(value: Any) -> Any:
    """The state of an object, or of each in a dict or list. Still the objects' own memory."""
    if isinstance(value, Mapping):
        return {key: take(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [take(each) for each in value]
    if hasattr(value, "state_dict"):
        return bare(value).state_dict()
    return value.bit_generator.state if hasattr(value, "bit_generator") else value.get_state()


def put(value: Any, state: Any, *, name: str) -> None:
    """Puts a state back. Raises StateMismatch, with what both sides have, before anything of the object is changed."""
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
        inner = getattr(value, "_orig_mod", None)
        if inner is None and type(value).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = value.module
        if inner is None:
            return value
        value = inner


def _put_one(value: Any, state: Any, *, name: str) -> None:
    if hasattr(value, "bit_generator"):
        value.bit_generator.state = state
        return
    if not hasattr(value, "load_state_dict"):
        value.set_state(state)
        return
    target = bare(value)
    if hasattr(target, "named_parameters"):
        check_tensors(target.state_dict(), state, name=name)
    try:
        target.load_state_dict(state)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise StateMismatch(f"{name} ({type(target).__qualname__}) does not fit the checkpoint: {error}") from error


def _members(value: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [found for key, each in value.items() for found in _members(each, f"{name}.{key}")]
    if isinstance(value, (list, tuple)):
        return [found for at, each in enumerate(value) for found in _members(each, f"{name}[{at}]")]
    return [(name, value)]


def _kinds(state: Any) -> str:
    return str(list(state)) if isinstance(state, Mapping) else f"{len(state)}" if isinstance(state, list) else "one"


def _shape(shape: Any) -> str:
    return "no tensor" if shape is None else str(list(shape))
