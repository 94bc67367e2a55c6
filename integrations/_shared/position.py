"""The position of a training in its data: which batch of the epoch, and the random states that it was reached with.

A loader is brought back to a position by replay: the random states of just before its `iter()` are put back, the
batches before the position are loaded once more, and the random states of the position are put back. That is exact for
any loader whose order and worker seeds come from those states.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations._shared import generators as _generators
from ckpt_tracker.integrations._shared import loader as _loader
from ckpt_tracker.integrations._shared import random as _random
from ckpt_tracker.integrations._shared.loader import Source

Batch = TypeVar("Batch")
Say = Callable[[str, str], None]
_log = logging.getLogger("ckpt_tracker")


class Position:
    """Follows the first loader of each epoch, and knows the generators of all that `batches` is given.

    `held` are the generators that the training's other objects hold; `say` tells the user something once.
    """

    def __init__(self, held: Mapping[str, Any], *, say: Say) -> None:
        self.batch = 0
        """Batches that the followed loader has given in this epoch."""
        self.followed = False
        """A loader is run through, or was, in this epoch."""
        self.inside = False
        """There are batches of it still to come, as far as one can know."""
        self.whole = False
        """It has come to its end."""
        self.loading = False
        """It is about to give a batch: what is raised now comes from it, and leaves everything else as it was."""
        self._held = held
        self._say = say
        self._sources: list[Source] = []
        self._earlier: list[Source] = []
        self._begun: dict[str, Any] = {}
        self._start: dict[str, Any] = {}
        self._first: str | None = None
        self._asked: dict[str, Any] | None = None
        self._given: dict[str, Any] | None = None
        self._lasting = False
        self._probed = False
        self._resume: Mapping[str, Any] | None = None
        self._waiting: list[Any] = []
        self._arrive: Callable[[], None] = lambda: None

    @property
    def source(self) -> Any:
        """The followed loader; None before there is one."""
        return self._sources[0].loader if self.followed else None

    @property
    def resuming(self) -> bool:
        """A position inside an epoch is still to be found."""
        return self._resume is not None

    # -- from epoch to epoch ---------------------------------------------------------------------------------

    def resume(self, state: Mapping[str, Any], *, arrive: Callable[[], None]) -> None:
        """The next epoch begins, or goes on, where `state` says; there, inside an epoch, `arrive` is called."""
        self._resume, self._arrive = state, arrive
        self._waiting, self._lasting = list(state["data"]["loaders"]), state["data"]["lasting"]

    def begin_epoch(self) -> None:
        """A new epoch: its first loader is followed. After a resume, everything random is as it was here."""
        resume = self._resume
        if resume is not None and is_inside(resume):
            self._put(resume["data"]["begun"])
        elif resume is not None:
            self._put(_now(resume))
            self._resume = None
        self.followed = self.inside = self.whole = False
        self._earlier, self._sources = self._known(), []
        self._begun = self._take()

    def capture(self, *, inside: bool, failed: bool = False) -> dict[str, Any]:
        """The sections of a position `inside` the followed loader, or at an epoch's end.

        `failed`: as it was before a batch was loaded that could not be.
        """
        now = self._asked if failed and self._asked else self._take()
        sources = self._known()
        loaders = [each.capture() for each in sources] + self._waiting[len(sources) :]
        if failed and self._asked:
            loaders[0] = {**loaders[0], "generators": self._asked["source"]["generators"]}
        data = {"loaders": loaders, "lasting": any(_loader.workers_started(each.loader) for each in sources[:1])}
        if inside:
            loader = self.source
            # one that is through begins anew
            skips = _loader.has_exact_state(loader) and not failed and not self.whole
            data = {
                **{"loaders": loaders, "lasting": self._lasting, "batch": self.batch, "first": self._first},
                **{"begun": _used(self._begun), "start": _used(self._start)},
                **{"given": self._given and _used(self._given), "own": loader.state_dict() if skips else None},
            }
        return {"rng": _random.of_used(now["rng"]), "generators": now["generators"], "data": data}

    # -- the loaders -----------------------------------------------------------------------------------------

    def other(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a loader that is not followed."""
        with self._see(loader).passing():
            yield from loader

    def iterate(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of the loader that is followed, from the position to resume at."""
        source = self._see(loader)
        self.followed, self.inside, self.whole, self.loading = True, True, False, False
        with source.passing():
            yield from self._pass_over(loader, source)
        self.inside, self.whole = False, True

    def _pass_over(self, loader: Iterable[Batch], source: Source) -> Iterator[Batch]:
        iterator: Iterator[Any] = self._begin(loader, source)
        length = _loader.length(loader)
        here = _loader.loads_here(loader)
        while True:
            self._asked = {**self._take(), "source": source.glance()} if here else None
            self.loading = True
            batch = next(iterator, self)
            self.loading = False
            if batch is self:
                break
            self._look_at(batch, source)
            self.batch, self._given = self.batch + 1, self._asked
            self.inside = self.batch != length
            yield batch  # type: ignore[misc]

    def _look_at(self, batch: Any, source: Source) -> None:
        if self.batch == 0:
            self._first = _loader.fingerprint(batch)
            source.look()
        if not self._probed:
            self._look_at_workers(source.loader)
        self._probed = True

    def _look_at_workers(self, loader: Any) -> None:
        if _loader.has_lasting_workers(loader) and _loader.may_draw(loader):
            self._say(
                "lasting workers",
                "the loader's workers live on (persistent_workers=True), and the random numbers that they draw go on "
                "where no checkpoint can follow: exact resuming needs persistent_workers=False",
            )
        if _loader.is_out_of_order(loader):
            self._say(
                "order",
                "the loader gives batches as its workers get ready (in_order=False), so that no two trainings have "
                "the same order: exact resuming needs in_order=True",
            )

    def _begin(self, loader: Any, source: Source) -> Iterator[Any]:
        resume, self._resume = self._resume, None
        if self._lasting:
            moment = {**self._take(), "source": source.capture()}
            _loader.start_workers(loader)
            self._put(moment, source)
        if resume is not None:
            self._put(resume["data"]["start"], source)
        elif _loader.is_under_way(loader):
            self._say(
                "under way",
                "batches() was given an iterator that had already begun: a restarted training can't begin it there, "
                "so give it the loader itself",
            )
        self._start = {**self._take(), "source": source.capture()} if resume is None else resume["data"]["start"]
        self._lasting = _loader.workers_started(loader)
        self.batch, self._first, self._given = 0, None, None
        return iter(loader) if resume is None else self._gone_on(loader, source, resume)

    def _gone_on(self, loader: Any, source: Source, resume: Mapping[str, Any]) -> Iterator[Any]:
        """An iterator that has given the batches before the position."""
        data = resume["data"]
        self._first = data["first"]
        skips = data["own"] is not None and _loader.has_exact_state(loader)
        if skips:
            loader.load_state_dict(data["own"])
        iterator: Iterator[Any] = iter(loader)
        if not skips:
            self._replay(iterator, source, data)
        self.batch = data["batch"]
        self._arrive()
        self._put(_now(resume), source)
        return iterator

    def _replay(self, iterator: Iterator[Any], source: Source, data: Mapping[str, Any]) -> None:
        if data["batch"]:
            _log.info("loading the %d batches before the position once more", data["batch"])
        for done in range(data["batch"]):
            if done == data["batch"] - 1 and data["given"] is not None:
                # some loaders load the next batch before they give this one
                self._put(data["given"], source)
                self._given = {**self._take(), "source": source.glance()}
            try:
                batch = next(iterator)
            except StopIteration as error:
                raise StateMismatch(
                    f"the checkpoint was taken after batch {data['batch']} of an epoch, and this loader "
                    f"ends after {done}: use the same data and batch size"
                ) from error
            if done == 0:
                source.look()
                self._compare(_loader.fingerprint(batch))

    def _compare(self, first: str) -> None:
        if first != self._first:
            self._say(
                "other batches",
                "the loader's first batch is not the one that this epoch began with before the interruption, so "
                "samples may be repeated or left out: continue from an epoch's end, or make loading depend on nothing "
                "but the random generators",
            )

    def _see(self, loader: Any) -> Source:
        """The source behind a loader; seen for the first time after a resume, it is put where it was."""
        known = next((each for each in self._sources if each.is_of(loader)), None)
        if known is not None:
            return known
        source = next((each for each in self._earlier if each.is_of(loader)), None) or Source(loader)
        place = len(self._sources)
        if place < len(self._waiting) and self._waiting[place] is not None:
            earlier = (generator for each in self._sources for generator in each.generators.values())
            source.restore(self._waiting[place], but=[*earlier, *self._held.values()])
            self._waiting[place] = None
        self._sources.append(source)
        return source

    def _known(self) -> list[Source]:
        """By their order in an epoch: those of this epoch, and those of the one before that are still to come."""
        return self._sources + self._earlier[len(self._sources) :]

    # -- everything random -----------------------------------------------------------------------------------

    def _take(self) -> dict[str, Any]:
        return {"rng": _random.capture_all(), "generators": _generators.capture(self._held)}

    def _put(self, moment: Mapping[str, Any], source: Source | None = None) -> None:
        if source is not None and "source" in moment:
            source.restore(moment["source"])
        _generators.restore(self._held, moment["generators"])
        _random.restore(moment["rng"])


def is_inside(state: Mapping[str, Any]) -> bool:
    """A checkpoint's state was taken inside an epoch."""
    return "start" in state["data"]


def _now(state: Mapping[str, Any]) -> dict[str, Any]:
    loaders = state["data"]["loaders"]
    return {"rng": state["rng"], "generators": state["generators"], **({"source": loaders[0]} if loaders else {})}


def _used(moment: Mapping[str, Any]) -> dict[str, Any]:
    return {**moment, "rng": _random.of_used(moment["rng"])}
