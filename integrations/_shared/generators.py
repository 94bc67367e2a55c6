"""Random generators, wherever a training keeps them: torch's, NumPy's and Python's, as attributes of what it uses.

A dataset, a sampler or a module that holds a generator of its own draws from it without the process' generators
moving. They are found by looking through attributes, and named by the path to them.
"""

from __future__ import annotations

import functools
import random
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ckpt_tracker.integrations._shared import random as _random

_DEPTH = 6
_ITEMS = 64
_OBJECTS = 5000
_PLAIN = (str, bytes, bytearray, int, float, complex, type(None), type, types.ModuleType, np.ndarray, np.generic)
# an iterator of a DataLoader leads to its queues and processes
_PASSED_OVER = ("_iterator",)
# Accelerate's sampler makes its own when it is first iterated, and seeds it each time: nothing depends on its state
_SEEDED_EACH_TIME = "SeedableRandomSampler"

States = dict[str, Any]


def is_generator(value: Any) -> bool:
    """Something to draw random numbers from whose state can be taken and put back."""
    if isinstance(value, (np.random.Generator, np.random.RandomState, np.random.BitGenerator)):
        return True
    if isinstance(value, random.Random):
        return not isinstance(value, random.SystemRandom)
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Generator)


def take(generator: Any) -> Any:
    """The state of a generator."""
    if isinstance(generator, random.Random):
        return _random.of_python(generator)
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.state if isinstance(generator, np.random.BitGenerator) else generator.get_state()


def put(generator: Any, state: Any) -> None:
    """The reverse of `take`."""
    if isinstance(generator, random.Random):
        _random.put_python(generator, state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.BitGenerator):
        generator.state = state
    else:
        generator.set_state(state)


def capture(generators: Mapping[str, Any]) -> States:
    """The states of generators, by their names."""
    return {name: take(each) for name, each in generators.items()}


def restore(generators: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Puts back the states of those that there are."""
    for name, each in generators.items():
        if name in states:
            put(each, states[name])


def behind(value: Any, *, name: str) -> dict[str, Any]:
    """The generators that an object leads to by its attributes, each once, by their paths."""
    return _each_once(_walk(value, name, set(), _DEPTH))


def in_modules(model: Any, *, name: str) -> dict[str, Any]:
    """The generators that a network's modules hold, by their paths."""
    return _each_once(
        (f"{name}.{path}.{attribute}".replace("._orig_mod", "").replace("..", "."), value)
        for path, module in model.named_modules()
        for attribute, value in vars(module).items()
        if is_generator(value)
    )


def _each_once(found: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    unique = {id(each): (name, each) for name, each in reversed(list(found))}
    return dict(sorted(unique.values(), key=lambda item: item[0]))


def _walk(value: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if is_generator(value):
        yield path, value
    elif depth and len(seen) < _OBJECTS and id(value) not in seen and not isinstance(value, _PLAIN):
        seen.add(id(value))
        for name, each in _parts(value):
            yield from _walk(each, f"{path}{name}", seen, depth - 1)


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """What an object consists of. Long collections are data: they are not looked through."""
    if isinstance(value, (list, tuple)):
        return [(f"[{at}]", each) for at, each in enumerate(value)] if len(value) <= _ITEMS else ()
    if isinstance(value, dict):
        return [(f"[{key!r}]", each) for key, each in value.items()] if len(value) <= _ITEMS else ()
    if isinstance(value, functools.partial):
        return [("()", value.func), ("(*)", value.args), ("(**)", value.keywords)]
    if isinstance(value, types.MethodType):
        return [("()", value.__self__)]
    if isinstance(value, types.FunctionType):
        return _closed_over(value)
    without = ("generator",) if type(value).__name__ == _SEEDED_EACH_TIME else _PASSED_OVER
    return [(f".{name}", each) for name, each in _attributes(value) if name not in without]


def _attributes(value: Any) -> list[tuple[str, Any]]:
    slots = [name for each in type(value).__mro__ for name in _names(vars(each).get("__slots__", ()))]
    found = [(name, getattr(value, name, None)) for name in slots if not name.startswith("__")]
    return [*found, *getattr(value, "__dict__", {}).items()]


def _names(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _closed_over(function: types.FunctionType) -> list[tuple[str, Any]]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = []
    for name, cell in cells:
        try:
            found.append((f".{name}", cell.cell_contents))
        except ValueError:  # not set yet
            continue
    return found
