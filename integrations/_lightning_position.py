"""The position of a training in its data: how the order of this epoch was drawn, and how many batches are done.

A DataLoader can't be put to a batch. So its epoch is drawn again from the random states that it was drawn from, and
the batches that are done are fetched and passed over. Both ends of this lie between two batches: after all that
belongs to the one, before anything of the next is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations import _random
from ckpt_tracker.integrations._lightning_state import sources_of_order


def capture_random(loaders: Any) -> dict[str, Any]:
    """The random states that decide what comes next, those of the loaders and their samplers included."""
    seeds = [sampler.seed for sampler in _seeded(loaders)]
    return {"rng": _random.capture(), "generators": generator_states(loaders), "seeds": seeds}


def restore_random(state: Mapping[str, Any], loaders: Any) -> None:
    """The reverse of `capture_random`. Raises StateMismatch where the loaders have other generators."""
    restore_generators(state["generators"], loaders)
    for sampler, seed in zip(_seeded(loaders), state["seeds"], strict=False):
        sampler.seed = seed
    _random.restore(state["rng"])


def generator_states(loaders: Any) -> list[Any]:
    """The states of the `torch.Generator`s that the loaders hold."""
    return [generator.get_state() for generator in _generators(loaders)]


def restore_generators(saved: list[Any], loaders: Any) -> None:
    """The reverse of `generator_states`. Raises StateMismatch where there are others."""
    found = _generators(loaders)
    if len(found) != len(saved):
        raise StateMismatch(
            f"the checkpoint was saved with {len(saved)} torch.Generator(s) in the dataloaders, "
            f"now there are {len(found)}: pass the same DataLoader(generator=...) as before"
        )
    for generator, state in zip(found, saved, strict=True):
        generator.set_state(state)


class TrainPosition:
    """Watches a CombinedLoader: `between` is called before each batch of an epoch but the first."""

    def __init__(self, between: Callable[[], None]) -> None:
        self._between = between
        self._loader: Any = None
        self._plain: type | None = None
        self._drawn: dict[str, Any] | None = None
        self._first: dict[str, Any] | None = None
        self._replay: Callable[[], None] | None = None
        self._replaying = False

    def watch(self, loader: Any) -> None:
        """Watches `loader` from now on, and no other."""
        if loader is not self._loader:
            self.release()
            self._loader, self._plain = loader, type(loader)
            loader.__class__ = self._watched(type(loader))

    def release(self) -> None:
        """Leaves the loader as it was."""
        if self._loader is not None:
            self._loader.__class__ = self._plain
        self._loader = None

    def capture(self) -> dict[str, Any]:
        """How the order of this epoch was drawn."""
        return {"drawn": self._drawn, "first": self._first}

    def resume(self, state: Mapping[str, Any], *, batches: int, then: Callable[[], None]) -> None:
        """Lets the next batch be the one after `batches`; `then` is called just before it is fetched."""

        def replay() -> None:
            self._drawn, self._first = state["drawn"], state["first"]
            loaders = self._loader.iterables
            if self._drawn is not None:
                restore_random(self._drawn, loaders)
            iter(self._loader)
            restore_random(state["first"], loaders)
            for _ in range(batches):
                next(self._loader)
            then()

        self._replay = replay

    def draws_early(self) -> bool:
        """The order is drawn, at least in part, when the loader is iterated and not at the first batch."""
        loaders = () if self._loader is None else self._loader.flattened
        return any(getattr(each, "num_workers", 0) for each in loaders)

    def _watched(self, plain: Any) -> type:
        position = self

        class Watched(plain):
            def __iter__(self) -> Iterator[Any]:
                position._on_iter()
                found: Iterator[Any] = plain.__iter__(self)
                return found

            def __next__(self) -> Any:
                position._on_next()
                return plain.__next__(self)

        return Watched

    def _on_iter(self) -> None:
        if not self._replaying:
            self._drawn = capture_random(self._loader.iterables)
            self._first = None

    def _on_next(self) -> None:
        if self._replaying:
            return
        replay, self._replay = self._replay, None
        if replay is not None:
            self._replaying = True
            try:
                replay()
            finally:
                self._replaying = False
        elif self._first is None:
            self._first = capture_random(self._loader.iterables)
        else:
            self._between()


def _generators(loaders: Any) -> list[Any]:
    """Several loaders may share one."""
    held = (getattr(each, "generator", None) for each in sources_of_order(loaders))
    return list({id(each): each for each in held if each is not None}.values())


def _seeded(loaders: Any) -> list[Any]:
    """A DistributedSampler draws its order from a number, which Lightning takes from `seed_everything`."""
    return [each for each in sources_of_order(loaders) if isinstance(getattr(each, "seed", None), int)]
