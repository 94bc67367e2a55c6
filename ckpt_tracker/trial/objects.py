"""Which objects live in this process that a restarted training would have to bring back, and who holds them.

Random generators, optimizers, schedulers, modules, averages of weights, and whatever has a `state_dict`. Classes are
known by their names, so that no framework is imported; what is looked at is not changed, and no method is called.
"""

from __future__ import annotations

import gc
import itertools
import re
import sys
import sysconfig
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_KINDS = {
    "random.Random": "generator",
    "numpy.random._generator.Generator": "generator",
    "numpy.random.mtrand.RandomState": "generator",
    "torch._C.Generator": "generator",
    "keras.src.random.seed_generator.SeedGenerator": "generator",
    "tensorflow.python.ops.stateful_random_ops.Generator": "generator",
    "torch.optim.optimizer.Optimizer": "optimizer",
    "torch.optim.lr_scheduler.LRScheduler": "scheduler",
    "torch.optim.lr_scheduler.ReduceLROnPlateau": "scheduler",
    "torch.optim.swa_utils.AveragedModel": "average",
    "torch.nn.modules.module.Module": "module",
    "torch.amp.grad_scaler.GradScaler": "scaler",
    "torch.utils.data.dataloader.DataLoader": "loader",
}
# what these wrap is found by itself
_WRAPPERS = {"accelerate", "ckpt_tracker", "lightning", "lightning_fabric", "pytorch_lightning", "torchdata"}
_AVERAGE = re.compile(r"EMA|Ema(?![a-z])|(?<![a-z])ema(?![a-z])|[Aa]verage|[Ss]hadow|SWA|(?<![a-z])swa|[Pp]olyak")
_GLOBALS = (
    ("random", "random", "_inst"),
    ("numpy.random", "numpy.random.mtrand", "_rand"),
    ("torch", "torch", "default_generator"),
    ("torch.cuda", "torch.cuda", "default_generators"),
)
_INSTALLED = {"site-packages", "dist-packages"}
_TEMPORARY = "_RandomNameSequence."
_CLASSES: dict[type, str | None] = {}
_FEW = 64
_ATTRIBUTE, _VARIABLE, _FOREIGN = range(3)


@dataclass(frozen=True)
class Living:
    """An object, and where it was found: `NoisyDataset.rng`, `rng in main()`, or nothing."""

    kind: str
    value: Any
    holder: str


@dataclass(frozen=True)
class Survey:
    """What a look at the process finds."""

    objects: list[Living]
    """Each once, under the name that the script would call it by where there are several."""
    variables: dict[str, int | float | bool]
    """The numbers that the script itself keeps, and the lengths of its collections: attributes, globals, locals.
    No text: it might be a secret.
    """


def survey() -> Survey:
    """Looks at everything that Python's garbage collector knows, and at the variables of what is running."""
    found: dict[int, tuple[str, Any]] = {}
    names: dict[int, list[tuple[int, str]]] = {}
    numbers: dict[str, list[Any]] = {}
    for rank, name, value in _named_values():
        kind = _kind_of(value) or (_kind_by_name(name, value) if rank < _FOREIGN else None)
        if kind is not None:
            found[id(value)] = kind, value
            names.setdefault(id(value), []).append((rank, name))
        elif rank < _FOREIGN and type(value) in (int, float, bool):
            numbers.setdefault(name, []).append(value)
        elif rank < _FOREIGN and type(value) in (list, deque, dict, set):
            numbers.setdefault(_length_of(name), []).append(len(value))
    for value in gc.get_objects():
        kind = _kind_of(value)
        if kind is not None:
            found.setdefault(id(value), (kind, value))
    # Python's own, for the names of temporary files
    known = {identity for identity, of in names.items() if any(name.startswith(_TEMPORARY) for _, name in of)}
    inner = known | {
        id(part) for kind, value in found.values() if kind in ("module", "average") for part in _parts(value)
    }
    objects = [
        Living(kind, value, min(names.get(identity, [(0, "")]))[1])
        for identity, (kind, value) in found.items()
        if identity not in inner
    ]
    modules = [value for kind, value in found.values() if kind == "module"]
    objects += [Living("buffer", value, name) for each in modules for name, value in _passing_buffers(each)]
    return Survey(objects, {name: values[0] for name, values in numbers.items() if len(values) == 1})


@cache
def is_the_scripts(module: str) -> bool:
    """The module is neither installed nor part of Python: the user wrote it."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module.partition(".")[0] == "ckpt_tracker":
        return False
    return module == "__main__" or (file is not None and _is_the_scripts_file(file))


def _is_the_scripts_file(file: str) -> bool:
    paths = sysconfig.get_paths()
    foreign = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    # an environment may see packages of another one, or of the user's
    if file.startswith("<") or _INSTALLED & set(Path(file).parts):
        return False
    return not any(file.startswith(each) for each in foreign)


def _kind_of(value: object) -> str | None:
    cls = type(value)
    if cls not in _CLASSES:
        _CLASSES[cls] = _kind(cls)
    return _CLASSES[cls]


def _kind(cls: type) -> str | None:
    module = _module(cls)
    names = [f"{_module(each)}.{each.__qualname__}" for each in cls.__mro__]
    if module.partition(".")[0] in _WRAPPERS:
        return None
    for name in names:
        if name in _KINDS:
            return _KINDS[name]
    if hasattr(cls, "set_epoch"):
        return "sampler"
    if names[0].startswith(("torch.", "keras.", "tensorflow.", "transformers.", "jax.")):
        return None
    saveable = hasattr(cls, "state_dict") and hasattr(cls, "load_state_dict")
    if _AVERAGE.search(cls.__name__) and (saveable or is_the_scripts(module)):
        return "average"
    if not saveable:
        return None
    return "scheduler" if "sched" in cls.__name__.lower() else "object"


def _module(cls: type) -> str:
    # a class may have anything there
    name: object = cls.__module__
    return name if isinstance(name, str) else ""


def _kind_by_name(name: str, value: Any) -> str | None:
    """`shadow = {name: tensor}` is an average too."""
    own_name = name.partition(" in ")[0].rpartition(".")[2]
    if not _is_a(value, dict, list) or not value or not _AVERAGE.search(own_name):
        return None
    some = next(iter(value.values() if isinstance(value, dict) else value))
    return "average" if hasattr(some, "shape") and hasattr(some, "dtype") else None


def _parts(module: Any) -> Iterator[Any]:
    yield from (each for each in getattr(module, "_modules", {}).values() if each is not None)


def _passing_buffers(module: Any) -> Iterator[tuple[str, Any]]:
    """Those that no state dict holds (persistent=False): most are constants, but some change while training."""
    held = getattr(module, "_buffers", {})
    for name in sorted(getattr(module, "_non_persistent_buffers_set", ())):
        if held.get(name) is not None:
            yield f"{type(module).__qualname__}.{name}", held[name]


def _named_values() -> Iterator[tuple[int, str, Any]]:
    """A rank, a name, the value: what the script calls its own comes first."""
    yield from ((_ATTRIBUTE, name, value) for name, value in _global_generators())
    for frame_name, values in _running():
        for name, value in values:
            yield from ((_VARIABLE, f"{each} in {frame_name}", inner) for each, inner in _members(name, value))
    for holder in gc.get_objects():
        cls = type(holder)
        if not cls.__dictoffset__ or cls in (ModuleType, FunctionType) or issubclass(cls, type):
            continue
        try:
            attributes = list(object.__getattribute__(holder, "__dict__").items())
        except (AttributeError, RuntimeError, TypeError):
            continue
        own = is_the_scripts(_module(cls))
        for name, value in attributes:
            path = f"{cls.__qualname__}.{name}"
            if own:
                yield from ((_ATTRIBUTE, each, inner) for each, inner in _members(path, value))
            else:
                yield _FOREIGN, path, value


def _global_generators() -> Iterator[tuple[str, Any]]:
    """Those behind `random.random()`, `numpy.random.rand()` and `torch.rand()`, which nothing of the script holds."""
    for package, module, path in _GLOBALS:
        if module in sys.modules:
            found = getattr(sys.modules[module], path, None)
            for each in found if isinstance(found, tuple) else (found,):
                yield f"{package}'s own generator", each


def _running() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """The variables of the script's functions that called us, and of its modules."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        code, owner = frame.f_code, str(frame.f_globals.get("__name__"))
        ours = owner.partition(".")[0] == "ckpt_tracker"
        if code.co_name != "<module>" and not ours and _is_the_scripts_file(code.co_filename):
            yield f"{code.co_name}()", list(frame.f_locals.items())
    for name, module in list(sys.modules.items()):
        if is_the_scripts(name):
            file = Path(getattr(module, "__file__", None) or "the script").name
            yield file, [item for item in vars(module).items() if not item[0].startswith("__")]


def _length_of(name: str) -> str:
    """`len(queue) in train.py`: what fills up while a training goes on."""
    variable, place, where = name.partition(" in ")
    return f"len({variable}){place}{where}"


def _members(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The value, and where it is a small container what is in it."""
    yield name, value
    if _is_a(value, dict):
        yield from ((f"{name}[{key!r}]", each) for key, each in itertools.islice(value.items(), _FEW))
    elif _is_a(value, list, tuple):
        yield from ((f"{name}[{index}]", each) for index, each in enumerate(value[:_FEW]))


def _is_a(value: Any, *classes: type) -> bool:
    """isinstance would ask the value itself, if it is a proxy, which may load a module or warn."""
    return issubclass(type(value), classes)
