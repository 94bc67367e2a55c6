"""Which Lightning: the packages `lightning` and `pytorch_lightning` hold two copies of every class.

A Trainer recognises the callbacks of its own copy only, and which one a script uses is not known before it has
imported it, often after this package. So the choice is made when an object is made, not when its class is.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

from ckpt_tracker.errors import InvalidOption, MissingExtra

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def require_lightning() -> None:
    """Raises MissingExtra where neither package is installed; imports nothing."""
    if not _installed():
        raise MissingExtra(
            "neither 'lightning' nor 'pytorch_lightning' is installed: pip install 'ckpt-tracker[lightning]'"
        )


def flavoured(cls: type, base: str, *, loaded_only: bool = False) -> type:
    """`cls` as a subclass of `base` ("Checkpoint", …) of every Lightning that the script has imported so far.

    Where it has imported none, one is imported, unless `loaded_only`.
    """
    packages = [each for each in _PACKAGES if each in sys.modules]
    if not packages and not loaded_only:
        packages = _installed()[:1]
    modules = [importlib.import_module(f"{package}.callbacks") for package in packages]
    return _joined(cls, tuple(getattr(module, base) for module in modules))


def plain(cls: type) -> type:
    """The class that `flavoured` was given."""
    given: type = cls.__dict__.get("_given", cls)
    return given


def require_flavour(tracker: object, trainer: Any) -> None:
    """Raises InvalidOption where the trainer is of a Lightning that was imported after the tracker was made."""
    own = _package(type(trainer).__mro__)
    if own and not own & _package(type(tracker).__mro__):
        (name,) = own
        raise InvalidOption(
            f"the tracker was made before {name!r} was imported, whose Trainer does not know it: "
            f"import {name!r} first, and then make the tracker"
        )


def _installed() -> list[str]:
    return [each for each in _PACKAGES if importlib.util.find_spec(each.partition(".")[0])]


def _package(classes: Iterable[type]) -> set[str]:
    roots = {each.partition(".")[0] for each in _PACKAGES}
    return roots & {each.__module__.partition(".")[0] for each in classes}


@functools.cache
def _joined(cls: type, bases: tuple[type, ...]) -> type:
    missing = tuple(base for base in bases if not issubclass(cls, base))
    if not missing:
        return cls
    names = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "_given": cls,
    }
    return type(cls.__name__, (*([] if cls is object else [cls]), *missing), names)
