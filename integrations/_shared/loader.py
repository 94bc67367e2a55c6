"""What is to be known of a loader to come back to a batch of it: what orders it, what its workers do, what it gives.

A loader is whatever a training loop runs over. Most are torch's DataLoader, bare or with something around it.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ckpt_tracker.integrations._shared import generators as _generators
from ckpt_tracker.integrations._shared import random as _random

_AROUND = ("base_dataloader", "dataloader", "_loader", "loader", "dl", "iterable")
_SEEDS = ("seed", "initial_seed")
_DEPTH = 3


def plain(loader: Any) -> Any:
    """The DataLoader inside what is around it, such as a progress bar's; None where there is none."""
    for _ in range(_DEPTH):
        inner = next((vars(loader)[name] for name in _AROUND if name in getattr(loader, "__dict__", {})), None)
        if inner is None:
            break
        loader = inner
    return loader if isinstance(loader, DataLoader) else None


def samplers(loader: Any) -> dict[str, Any]:
    """What orders the samples, from the outside to the inside: batch samplers, then samplers."""
    found: dict[str, Any] = {}
    at = plain(loader)
    while at is not None and len(found) < 2 * _DEPTH:
        name = "batch_sampler" if getattr(at, "batch_sampler", None) is not None else "sampler"
        at = getattr(at, name, None)
        if at is not None:
            found[f"{len(found)}.{type(at).__name__}"] = at
    return found


def describe(loader: Any) -> dict[str, Any]:
    """What decides which samples make up which batch, as plain values."""
    inner = plain(loader)
    if inner is None:
        return {"loader": type(loader).__name__, "batches": length(loader)}
    return {
        "length": _sized(inner.dataset),
        "batch_size": inner.batch_size or getattr(inner.batch_sampler, "batch_size", None),
        "drop_last": inner.drop_last or bool(getattr(inner.batch_sampler, "drop_last", False)),
        "sampler": ", ".join(type(each).__name__ for each in samplers(loader).values()),
        "dataset": type(inner.dataset).__name__,
        "num_workers": inner.num_workers,
    }


def length(loader: Any) -> int | None:
    """How many batches there are, where that is known for certain."""
    inner = plain(loader)
    # asking an IterableDataset makes torch warn later when its guess was wrong
    if inner is not None and isinstance(inner.dataset, IterableDataset):
        return None
    return _sized(loader)


def loads_here(loader: Any) -> bool:
    """The samples are loaded in this process, not by workers."""
    inner = plain(loader)
    return inner is None or inner.num_workers == 0


def is_map_style(loader: Any) -> bool:
    """Its workers load samples by their numbers: how many there are decides nothing about which."""
    inner = plain(loader)
    return inner is not None and not isinstance(inner.dataset, IterableDataset)


class Source:
    """The generators that a loader draws from, and its samplers' seeds and counters.

    A counter is a number that changes while the loader is run through: a sampler's count of its own passes. What a
    script sets before a pass, such as the epoch of a DistributedSampler, it sets again after a restart.
    """

    def __init__(self, loader: Any) -> None:
        # an iterator that nothing is to be known of would only keep its workers alive
        self.loader = loader if hasattr(loader, "__dict__") else None
        self.generators: dict[str, Any] = {}
        self._counting: set[str] = set()
        self._before: dict[str, int] = {}
        self.look()

    def is_of(self, loader: Any) -> bool:
        """It is that loader's, whatever is around it by now."""
        inside = plain(loader)
        return (loader is self.loader) if inside is None else inside is plain(self.loader)

    def look(self) -> None:
        """Finds the generators: a sampler may make its own when it is first iterated."""
        self.generators = _generators.behind(self.loader, name="loader")

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """While the loader is run through."""
        self._before = self._numbers()
        try:
            yield
        finally:
            self._watch()
            self._before = {}

    def capture(self) -> dict[str, Any]:
        """The states of the generators, and the counters."""
        self.look()
        self._watch()
        counters = {
            name: value
            for name, value in self._numbers().items()
            if name in self._counting or name.rpartition(".")[2] in _SEEDS
        }
        return {"generators": _generators.capture(self.generators), "counters": counters}

    def glance(self) -> dict[str, Any]:
        """`capture` for every batch: of the generators that it knows, and of no counters."""
        return {"generators": _generators.capture(self.generators), "counters": {}}

    def restore(self, state: Mapping[str, Any], *, but: Iterable[Any] = ()) -> None:
        """Puts them back, `but` for generators that have been put back already."""
        self.look()
        known = {id(each) for each in but}
        own = {name: each for name, each in self.generators.items() if id(each) not in known}
        _generators.restore(own, state["generators"])
        holders = self._holders()
        for name, value in state["counters"].items():
            holder, _, attribute = name.rpartition(".")
            if holder in holders:
                setattr(holders[holder], attribute, value)
                self._counting.add(name)

    def _watch(self) -> None:
        now = self._numbers()
        self._counting.update(name for name, value in self._before.items() if now.get(name, value) != value)

    def _holders(self) -> dict[str, Any]:
        return {"loader": self.loader, **samplers(self.loader)}

    def _numbers(self) -> dict[str, int]:
        return {
            f"{path}.{name}": value
            for path, holder in self._holders().items()
            for name, value in getattr(holder, "__dict__", {}).items()
            if type(value) is int and (path != "loader" or name == "iteration")
        }


# -- workers that live on ------------------------------------------------------------------------------------


def has_lasting_workers(loader: Any) -> bool:
    """Its workers go on from epoch to epoch, with random states that nothing can take or put back."""
    inner = plain(loader)
    return inner is not None and inner.num_workers > 0 and inner.persistent_workers


def workers_started(loader: Any) -> bool:
    """Its lasting workers are there: another pass over it draws no seed for them."""
    return has_lasting_workers(loader) and plain(loader)._iterator is not None


def start_workers(loader: Any) -> None:
    """Starts lasting workers, so that the next pass over the loader is one like any but the first."""
    if has_lasting_workers(loader) and not workers_started(loader):
        iter(plain(loader))


def is_out_of_order(loader: Any) -> bool:
    """Which batch comes next depends on which worker is the fastest."""
    inner = plain(loader)
    return inner is not None and inner.num_workers > 1 and not getattr(inner, "in_order", True)


def may_draw(loader: Any) -> bool:
    """Loading a sample may draw random numbers. Loads one to see, where there is one to be asked for."""
    inner = plain(loader)
    if isinstance(inner.dataset, IterableDataset):
        return True
    source, before = Source(inner), _random.capture_all()
    held = source.capture()
    try:
        sample = inner.dataset[0]
        if inner.batch_sampler is not None:
            inner.collate_fn([sample])
        return not (_same(before, _random.capture_all()) and _same(held, source.capture()))
    except Exception:
        return True
    finally:
        _random.restore(before)
        source.restore(held)


# -- a StatefulDataLoader's own position ---------------------------------------------------------------------


def has_exact_state(loader: Any) -> bool:
    """A StatefulDataLoader that loads here and whose order its own state brings back, so that nothing is loaded twice.

    With workers that state is without their random states, and with a foreign sampler it counts on nothing being drawn.
    """
    if not type(loader).__module__.startswith("torchdata.") or loader.num_workers > 0:
        return False
    if isinstance(loader.dataset, IterableDataset):
        return hasattr(loader.dataset, "state_dict") and hasattr(loader.dataset, "load_state_dict")
    return all(
        type(each).__module__.startswith("torchdata.") or type(each) is torch.utils.data.SequentialSampler
        for each in samplers(loader).values()
    )


# -- what a loader gives -------------------------------------------------------------------------------------


def is_under_way(loader: Any, depth: int = _DEPTH) -> bool:
    """An iterator that has given something already: a restart can't begin it there."""
    if not isinstance(loader, Iterator) or depth == 0:
        return False
    if inspect.isgenerator(loader) and inspect.getgeneratorstate(loader) != inspect.GEN_CREATED:
        return True
    given = getattr(loader, "_num_yielded", None)
    return bool(given) or any(is_under_way(each, depth - 1) for each in gc.get_referents(loader))


def fingerprint(batch: Any) -> str:
    """A hash of all tensors, arrays, numbers and texts of a batch."""
    from blake3 import blake3

    digest = blake3()
    for each in _leaves(batch):
        digest.update(each)
    return digest.hexdigest()[:32]


def _leaves(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield str(name).encode()
            yield from _leaves(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, torch.Tensor):
        if value.layout is torch.strided and not value.is_quantized:
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield value.tobytes() if value.dtype != object else repr(value.tolist()).encode()
    elif isinstance(value, (str, bytes, int, float, complex, np.generic)):
        yield repr(value).encode()


def _sized(value: Any) -> int | None:
    try:
        return len(value)
    except Exception:  # there is none, or nobody can say it yet
        return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    same = one == other
    return bool(same.all()) if hasattr(same, "all") else bool(same)
