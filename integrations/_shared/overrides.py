"""Hyperparameters that a resumed training is to have instead of those in its checkpoint: `overrides={"lr": 1e-4}`.

They are set once everything is restored. `lr` is the base learning rate: a schedule goes on from where it is, scaled,
as if the training had begun with it. Any other name is a member of the optimizers' parameter groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ckpt_tracker.errors import InvalidOption

_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
_SCHEDULED_RATES = ("base_lrs", "max_lrs", "_last_lr")


def apply(optimizers: Iterable[Any], schedulers: Iterable[Any], overrides: Mapping[str, Any]) -> None:
    """Sets `overrides` in torch's optimizers and schedulers. Raises InvalidOption for what none of them has."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    known = sorted({str(name) for group in groups for name in group} - {"params"})
    for name, value in overrides.items():
        if name not in known:
            raise InvalidOption(f"overrides={{{name!r}: ...}}: the optimizers have {', '.join(known) or 'none'}")
        if name == "lr":
            _scale(groups, list(schedulers), value)
        else:
            for group in groups:
                if name in group:
                    group[name] = _like(group[name], value)


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
