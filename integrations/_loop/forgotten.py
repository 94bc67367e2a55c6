"""Parts of a training that nobody handed over: a resumed training would be another one, and nothing would say so.

They are found among the process' objects. One counts only once it was seen to take part: a scheduler that was stepped,
an optimizer that has changed a model's parameters. What earlier trainings of the process have left behind does not.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ckpt_tracker.integrations._loop.parts import Parts
from ckpt_tracker.integrations._shared import stateful as _stateful
from ckpt_tracker.integrations._shared.gradients import parameters

_KINDS = (LRScheduler, torch.optim.Optimizer, AveragedModel, torch.amp.GradScaler)


class Forgotten:
    """Looks for them at a training's start and at the end of its first epoch, and watches what it has found."""

    def __init__(self, parts: Parts, *, say: Callable[[str, str], None]) -> None:
        self._parts = parts
        self._say = say
        self._before: dict[int, tuple[weakref.ref[Any], Any]] = {}
        self._watched: list[tuple[weakref.ref[Any], Any, str]] | None = None

    def remember(self) -> None:
        """What there is before the training starts, and how far it has come."""
        self._before = {id(each): (weakref.ref(each), _moved(each)) for each in _living()}

    def look(self) -> None:
        """Says what has moved since then, and was not handed over."""
        if self._watched is None:
            self._watched = list(self._find())
        for found, before, keyword in self._watched:
            each = found()
            if each is not None and _moved(each) != before:
                self._say(
                    f"forgotten {keyword}",
                    f"a {type(each).__name__} takes part in this training and was not handed over, so a resumed one "
                    f"would begin it anew: CheckpointTracker(..., {keyword}=...)",
                )

    def _find(self) -> Iterator[tuple[weakref.ref[Any], Any, str]]:
        known = self._known()
        for each in _living():
            keyword = self._belongs(each)
            if keyword is not None and id(each) not in known:
                earlier, before = self._before.get(id(each), (None, 0))
                same = earlier is not None and earlier() is each
                yield weakref.ref(each), before if same else 0, keyword

    def _belongs(self, each: Any) -> str | None:
        """The keyword that the object should have been given by; None for what is no part of this training."""
        if isinstance(each, LRScheduler):
            own = {id(optimizer) for optimizer in self._parts.optimizers.values()}
            return "scheduler" if id(getattr(each, "optimizer", None)) in own else None
        if isinstance(each, torch.optim.Optimizer):
            return "optimizer" if self._trained() & {id(parameter) for parameter in parameters(each)} else None
        if isinstance(each, AveragedModel):
            return "ema" if self._parts.objects.get("ema") is None else None
        return "scaler" if self._parts.objects.get("scaler") is None else None

    def _known(self) -> set[int]:
        """What was handed over, and what that consists of."""
        found: set[int] = set()
        for name, value in self._parts.objects.items():
            for _, each in _stateful.members(value, name):
                found.update(map(id, each.modules()) if hasattr(each, "modules") else _within(each))
        return found

    def _trained(self) -> set[int]:
        models = [each for _, each in _stateful.members(self._parts.objects.get("model", ()), "model")]
        return {id(parameter) for each in models if hasattr(each, "parameters") for parameter in each.parameters()}


def _within(value: Any, depth: int = 3) -> Iterator[int]:
    """An object and what it consists of, as a scheduler may of others; but for the optimizer that it works on."""
    yield id(value)
    if depth and isinstance(value, (list, tuple)):
        for each in value:
            yield from _within(each, depth - 1)
    elif depth:
        for name, each in getattr(value, "__dict__", {}).items():
            if name != "optimizer" and isinstance(each, (list, tuple, *_KINDS)):
                yield from _within(each, depth - 1)


def _living() -> list[Any]:
    """The objects of those kinds. Their classes are looked at, as proxies answer isinstance with more than they are."""
    classes = {found for kind in _KINDS for found in _subclasses(kind)}
    try:
        living: list[Any] = [each for each in gc.get_objects() if type(each) in classes]
    except TypeError:  # a class that can't be hashed
        return []
    return [each for each in living if not _stands_before(each)]


def _subclasses(kind: type) -> Iterator[type]:
    yield kind
    further: list[type] = kind.__subclasses__()
    for each in further:
        yield from _subclasses(each)


def _stands_before(each: Any) -> bool:
    """A wrapper, such as Accelerate's, has no state of its own."""
    return isinstance(each, torch.optim.Optimizer) and "optimizer" in vars(each)


def _moved(each: Any) -> float:
    """How far it has come; 0 where it has not begun."""
    if isinstance(each, LRScheduler):
        return int(each.last_epoch)
    if isinstance(each, AveragedModel):
        return int(each.n_averaged)
    if isinstance(each, torch.optim.Optimizer):
        return sum(map(_count, each.state.values()))
    return float(each.get_scale()) if each.is_enabled() and each._scale is not None else 0


def _count(state: Any) -> int:
    """An optimizer's steps for one parameter; 1 where it keeps something and does not count."""
    step = state.get("step", 1) if isinstance(state, dict) and state else 0
    return int(step)
