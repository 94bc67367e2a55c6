"""Everything random that a training of Lightning's depends on, on one rank.

The process' generators; those that the dataloaders, their samplers and datasets, and the modules hold; and the numbers
by which samplers draw or count: a seed, which Lightning takes from `seed_everything`, an epoch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations._shared import generators as _generators
from ckpt_tracker.integrations._shared import random as _random

_SEEDS = ("seed", "initial_seed")
# a loader's own, or its sampler's: what decides the order of the data
_OF_LOADERS = re.compile(r"\d+(\.(batch_)?sampler)*\.generator")

Say = Callable[[str, str], None]


class Randomness:
    """Of one `fit`. `say` tells the user something once."""

    def __init__(self, trainer: Any, *, say: Say) -> None:
        self._trainer = trainer
        self._say = say
        self._held: dict[str, Any] = {}
        self._counted: dict[str, int] = {}

    def see(self) -> None:
        """The dataloaders are new: how they are now is how they are made."""
        self._held = self._find()
        self._counted = dict(self._counters())

    def capture(self) -> dict[str, Any]:
        """What decides which numbers are drawn from here on."""
        # a sampler may make its generator when it is first iterated
        self._held = self._find()
        return self.ready(self.note())

    def note(self) -> dict[str, Any]:
        """The same as it is, for `restore`, or for `ready` later on."""
        return {**self.glance(), "counters": self._moved()}

    def glance(self) -> dict[str, Any]:
        """A note in a hurry, of what loading a batch may change."""
        return {"rng": _random.capture_all(), "generators": _generators.capture(self._held)}

    def ready(self, noted: Mapping[str, Any]) -> dict[str, Any]:
        """What was noted, as it is saved; what was restored is that already."""
        fresh = isinstance(noted["rng"].get("python"), tuple)
        rng = _random.of_used(noted["rng"]) if fresh else noted["rng"]
        return {"counters": self._moved(), **noted, "rng": rng}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The reverse of `capture`. Raises StateMismatch where the dataloaders have other generators."""
        restore_generators(self._find(), state["generators"], say=self._say)
        saved = {**self._counted, **state["counters"]}
        for name, (holder, attribute) in self._places().items():
            if name in saved and getattr(holder, attribute) != saved[name]:
                setattr(holder, attribute, saved[name])
        _random.restore(state["rng"])

    def _find(self) -> dict[str, Any]:
        trainer = self._trainer
        module = _generators.in_modules(trainer.lightning_module, name="module")
        return {**module, **generators_of(trainer.train_dataloader)}

    def _moved(self) -> dict[str, int]:
        """What else a sampler is made with is the script's to say."""
        return {
            name: value
            for name, value in self._counters()
            if value != self._counted.get(name) or name.rpartition(".")[2] in _SEEDS
        }

    def _counters(self) -> Iterator[tuple[str, int]]:
        for name, (holder, attribute) in self._places().items():
            yield name, getattr(holder, attribute)

    def _places(self) -> dict[str, tuple[Any, str]]:
        from ckpt_tracker.integrations._shared import loader as _loader

        return {
            f"{number}.{path}.{attribute}": (sampler, attribute)
            for number, loader in enumerate(leaves(self._trainer.train_dataloader))
            for path, sampler in _loader.samplers(loader).items()
            for attribute, value in getattr(sampler, "__dict__", {}).items()
            if type(value) is int
        }


def generators_of(loaders: Any) -> dict[str, Any]:
    """The generators that dataloaders lead to, by the paths to them."""
    found: dict[str, Any] = {}
    for number, loader in enumerate(leaves(loaders)):
        for path, generator in _generators.behind(loader, name=str(number)).items():
            # several loaders may share one
            if all(generator is not each for each in found.values()):
                found[path] = generator
    return found


def restore_generators(found: Mapping[str, Any], saved: Mapping[str, Any], *, say: Say) -> None:
    """Puts their states back. Raises StateMismatch where the data would be in another order."""
    ordering = [sorted(filter(_OF_LOADERS.fullmatch, names)) for names in (saved, found)]
    if ordering[0] != ordering[1]:
        before, now = (", ".join(names) or "none" for names in ordering)
        raise StateMismatch(
            f"the checkpoint was saved with these torch.Generators in the dataloaders: {before}; now there are: {now}. "
            "Pass the same DataLoader(generator=...) as before"
        )
    missing = sorted(set(saved) - set(found))
    if missing:
        say(
            "generators",
            f"random generators that there were are not made yet, and so not restored: {', '.join(missing)}; "
            "make them in __init__",
        )
    _generators.restore(found, saved)


def leaves(loaders: Any) -> Iterator[Any]:
    """Each dataloader, always in the same order."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        for each in loaders:
            yield from leaves(each)
    elif loaders is not None:
        yield loaders
