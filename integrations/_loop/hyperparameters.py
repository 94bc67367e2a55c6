"""What a script gives its optimizers and schedulers, to be compared when a training goes on.

A checkpoint brings back its own hyperparameters with the rest of their states, so that what was changed in the script
since then has no effect; nobody should have to find that out.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

_GROUPS = 8
# what a scheduler moves, and what it then keeps of the value that the script gave
_MOVED = {"lr": "initial_lr", "momentum": "base_momentum", "betas": "base_momentum"}
_PLACES = ("optimizer", "last_epoch")


def describe(optimizers: Mapping[str, Any], schedulers: Mapping[str, Any]) -> dict[str, Any]:
    """Their classes and hyperparameters, as plain values, by the objects' names."""
    return {
        **{name: _of_optimizer(each) for name, each in optimizers.items()},
        **{name: _of_scheduler(each) for name, each in schedulers.items()},
    }


def _of_optimizer(optimizer: Any) -> dict[str, Any]:
    groups = [_plain(_as_given(group)) for group in optimizer.param_groups[:_GROUPS]]
    numbered = {f"group {index}": group for index, group in enumerate(groups)}
    return {"class": type(optimizer).__name__, **(groups[0] if len(groups) == 1 else numbered)}


def _as_given(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params" and _MOVED.get(name) not in group}


def _of_scheduler(scheduler: Any) -> dict[str, Any]:
    """What its constructor takes and it keeps under the same name."""
    kept = getattr(scheduler, "__dict__", {})
    given = {name: kept[name] for name in _parameters(type(scheduler)) if name in kept}
    return {"class": type(scheduler).__name__, **_plain(given)}


def _parameters(kind: type) -> list[str]:
    try:
        return [name for name in inspect.signature(kind).parameters if name not in _PLACES]
    except (TypeError, ValueError):  # not written in Python
        return []


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _simple(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def _simple(value: Any) -> Any:
    """Numbers, texts and short rows of them, as JSON gives them back; None for anything else."""
    if isinstance(value, (tuple, list)):
        row = [_simple(each) for each in value[:_GROUPS]]
        return None if None in row else row
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if type(value) in (int, bool, str) else None
