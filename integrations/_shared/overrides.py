"""Hyperparameters that a resumed training is to have instead of those in its checkpoint: `overrides={"lr": 1e-4}`.

They are set once everything is restored. `lr` is the base learning rate: a schedule goes on from where it is, scaled,
as if the training had begun with it. Any other name is a member of the optimizers' parameter groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ckpt_tracker.errors import InvalidOption

_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
_SCHEDULED_RATES = ("base_lrs", "max_lrs", "_last_lr")


def apply(optimizers: Iterable[Any], schedulers: Iterable[Any], overrides: Mapping[str, Any]) -> None:
    """Sets `overrides` in torch's optimizers and schedulers. Raises InvalidOption for what none has, or can't be."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    known = sorted({str(name) for group in groups for name in group} - {"params"})
    for name, value in overrides.items():
        if name not in known:
            raise InvalidOption(f"overrides={{{name!r}: ...}}: the optimizers have {', '.join(known) or 'none'}")
        for group in groups:
            _check(name, value, group.get(name, value))
        if name == "lr":
            _scale(groups, list(schedulers), value)
        else:
            for group in groups:
                if name in group:
                    group[name] = _like(group[name], value)


def _check(name: str, value: Any, old: Any) -> None:
    """Raises InvalidOption for a value that the optimizer would stumble over at its next step."""
    if isinstance(old, tuple):
        fits = isinstance(value, (tuple, list)) and len(value) == len(old) and all(map(_is_number, value))
    else:
        fits = _is_number(value) or not (_is_number(old) or hasattr(old, "copy_"))
    if not fits or (name == "lr" and value < 0):
        raise InvalidOption(f"overrides={{{name!r}: {value!r}}}: expected something like {_shown(old)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    return repr(value.tolist() if hasattr(value, "tolist") else value)


def _scale(groups: list[dict[str, Any]], schedulers: list[Any], rate: float) -> None:
    bases = [float(group.get("initial_lr", group["lr"])) for group in groups]
    if not all(bases):
        raise InvalidOption(f"overrides={{'lr': {rate!r}}}: a base learning rate of 0 can't be scaled")
    # several groups keep their proportions to the first
    factor = float(rate) / bases[0]
    for group in groups:
        for name in _RATES:
            if name in group and group[name] is not None:
                group[name] = _like(group[name], group[name] * factor)
    for scheduler in schedulers:
        for each in (scheduler, *getattr(scheduler, "_schedulers", ())):
            for name in _SCHEDULED_RATES:
                if isinstance(getattr(each, name, None), list):
                    setattr(each, name, [value * factor for value in getattr(each, name)])


def _like(old: Any, new: Any) -> Any:
    """Tensors, as capturable optimizers have them, keep being the same ones."""
    if hasattr(old, "copy_"):
        return old.copy_(new if hasattr(new, "copy_") else old.new_tensor(new))
    return tuple(new) if isinstance(old, tuple) else new
