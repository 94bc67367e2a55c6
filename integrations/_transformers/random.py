"""All that a Trainer's training draws random numbers from in this process, at one moment: the process' generators, and
those that the model's modules, the data and the collator hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpt_tracker.integrations._shared import generators as _generators
from ckpt_tracker.integrations._shared import random as _random

Moment = Mapping[str, Any]


class Generators:
    """Of one training."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._held: dict[str, Any] = {}
        self.look()

    def look(self) -> None:
        """Looks for those that are held."""
        trainer, loader = self._trainer, self._trainer.callback_handler.train_dataloader
        found = {
            **_generators.in_modules(trainer.model, name="model"),
            **_generators.behind(loader, name="data"),
        }
        ordering = getattr(sampler(loader), "generator", None) if seed(loader) is not None else None
        self._held = {name: each for name, each in found.items() if each is not ordering}

    def take(self) -> Moment:
        """Their states, now."""
        return {"rng": _random.capture_all(), "generators": _generators.capture(self._held)}

    def put(self, moment: Moment) -> None:
        """Puts them back."""
        _generators.restore(self._held, moment["generators"])
        _random.restore(moment["rng"])


def saved(moment: Moment) -> dict[str, Any]:
    """A moment as a checkpoint holds it, without generators that nothing is drawn from."""
    return {"rng": _random.of_used(moment["rng"]), "generators": moment["generators"]}


def seed(loader: Any) -> int | None:
    """What the order of the samples in each epoch follows from alone, where it does."""
    found: int | None = getattr(sampler(loader), "initial_seed", None)
    return found


def put_seed(loader: Any, saved: int | None) -> None:
    """Puts it back, so that another seed of the process does not change the order."""
    if saved is not None and seed(loader) is not None:
        sampler(loader).initial_seed = saved


def sampler(loader: Any) -> Any:
    """What orders the samples."""
    outer = getattr(loader, "batch_sampler", None)
    # a BatchSamplerShard holds the batch sampler of which it takes this process' part
    inside = getattr(getattr(outer, "batch_sampler", None), "sampler", None)
    return inside or getattr(outer, "sampler", None)


def same(first: Any, second: Any) -> bool:
    """Two moments are, or two states."""
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)):
        return all(map(same, first, second))
    equal = first == second
    return bool(equal.all()) if hasattr(equal, "all") else bool(equal)
