"""The position of a training in its data: how the order of this epoch was drawn, and how many batches are done.

A DataLoader can't be put to a batch. So its epoch is drawn again from the random states that it was drawn from, and
the batches that are done are fetched and passed over. Both ends of this lie between two batches: after all that
belongs to the one, before anything of the next is fetched. A loader without a length is read one batch ahead of the
training; a StatefulDataLoader is put to its place by itself where its dataset has a state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import compress
from typing import Any

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations._lightning.random import Randomness
from ckpt_tracker.integrations._shared.workers import WorkerWatch


class TrainPosition:
    """Watches a CombinedLoader: `between` is called before each batch of an epoch but the first is fetched."""

    def __init__(self, between: Callable[[], None], *, random: Randomness, fetcher: Callable[[], Any]) -> None:
        self.before_fetch: dict[str, Any] = {}
        """The random states from before the last fetch, also of one that failed."""
        self.failed: BaseException | None = None
        """What the last fetch raised."""
        self._between = between
        self._random = random
        self._fetcher = fetcher
        self._loader: Any = None
        self._plain: type | None = None
        self._drawn: dict[str, Any] | None = None
        self._first: dict[str, Any] | None = None
        self._states: list[Any] = []
        self._ahead: tuple[dict[str, Any], list[Any]] = ({}, [])
        """What it was before the last batch was fetched, and states of loaders."""
        self._fresh: list[bool] = []
        self._replay: Callable[[], Any] | None = None
        self._replaying = False
        self._workers: list[WorkerWatch] = []

    def watch(self, loader: Any) -> None:
        """Watches `loader` from now on, and no other."""
        if loader is not self._loader:
            self.release()
            self._loader, self._plain = loader, type(loader)
            loader.__class__ = self._watched(type(loader))
            self._random.see()
            self._workers = [WorkerWatch(each) for each in loader.flattened if _lasting_workers(each)]

    def release(self) -> None:
        """Leaves the loader as it was."""
        if self._loader is not None:
            self._loader.__class__ = self._plain
        for each in self._workers:
            each.release()
        self._loader = self._drawn = self._first = None

    @property
    def problem(self) -> str | None:
        """Why no checkpoint inside this epoch could be continued."""
        if type(self._fetcher()).__name__ != "_PrefetchDataFetcher":
            return "training_step(dataloader_iter) fetches its batches itself"
        if self._drawn is None:
            return "this Lightning does not show its train dataloader before it is iterated"
        if any(isinstance(each, Iterator) for each in self._loader.flattened):
            return "the train dataloader is an iterator, which does not begin again"
        return None

    @property
    def workers_draw(self) -> bool:
        """Random numbers are drawn where their states can't be captured."""
        return any(each.drawn for each in self._workers)

    def capture(self, *, inside: bool) -> dict[str, Any]:
        """How the order of this epoch was drawn; for loaders that find their place by themselves, that place."""
        ahead = inside and self._reads_ahead()
        position = {
            "drawn": self._ready(self._drawn if inside else None),
            "first": self._ready(self._first if inside else None),
            "ahead": self._ready(self._ahead[0] if ahead else None),
            "states": [],
            "fresh": self._fresh if inside else [],
        }
        if _self_placing(self._loader):
            states = self._ahead[1] if ahead else self._loader_states()
            position.update(drawn=None, first=None, states=states)
        return position

    def _ready(self, noted: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if noted is None else self._random.ready(noted)

    def begin_with(self, state: Mapping[str, Any] | None) -> None:
        """The next epoch begins where one had ended."""
        if state and state["states"]:
            _put_own_states(self._loader, state["states"])
            # a finished iterator's state is taken up by making that one, and the next
            for each in _self_placing(self._loader):
                iter(each)

    def resume(self, state: Mapping[str, Any], *, batches: int, then: Callable[[dict[str, Any]], None]) -> None:
        """Lets the next batch be the one after `batches`. Just before it is fetched `then` is called, with the random
        states from before the replay. Where the loader is read ahead, that is before the one after it.
        """
        ahead = self._reads_ahead()

        def replay() -> Any:
            now = self._random.note()
            self._draw(state, batches)
            batch = None
            if ahead:
                self._random.restore(state["ahead"])
                self._ahead = (state["ahead"], state["states"])
                batch = next(self._loader)
            then(now)
            return batch

        if ahead:
            self._fetcher().batches = _Pending(lambda: self._while_replaying(replay))
        else:
            self._replay = replay

    def _draw(self, state: Mapping[str, Any], batches: int) -> None:
        self._drawn, self._first = state["drawn"], state["first"]
        if self._drawn is None:
            self._drawn = self._first = self._random.note()
            _put_own_states(self._loader, state["states"])
            iter(self._loader)
            return
        self._random.restore(state["drawn"])
        self._fresh = state["fresh"]
        for loader in compress(self._loader.flattened, self._fresh):
            # workers that live on are started once, and a number is drawn for it
            loader._iterator = None
        iter(self._loader)
        self._random.restore(state["first"])
        for done in range(batches):
            try:
                next(self._loader)
            except StopIteration:
                raise StateMismatch(
                    f"the checkpoint was taken after batch {batches} of an epoch, and this training's data end after "
                    f"{done}: give it the data that it had"
                ) from None

    def _watched(self, plain: Any) -> type:
        position: TrainPosition = self

        class Watched(plain):
            def __iter__(self) -> Iterator[Any]:
                position._on_iter()
                found: Iterator[Any] = plain.__iter__(self)
                return found

            def __next__(self) -> Any:
                position._on_next()
                try:
                    batch = plain.__next__(self)
                except Exception as error:
                    position.failed = error
                    raise
                position._on_fetched()
                return batch

        return Watched

    def _on_iter(self) -> None:
        if not self._replaying:
            self._replay = self._first = None
            self._fresh = [_starts_lasting_workers(each) for each in self._loader.flattened]
            self._drawn = self._random.note()

    def _on_next(self) -> None:
        if self._replaying:
            return
        replay, self._replay = self._replay, None
        if replay is not None:
            self._while_replaying(replay)
        elif self._first is None:
            self._first = self._random.note()
        else:
            self._between()
        self.before_fetch = self._random.glance()
        self._states = self._loader_states() if self._reads_ahead() else []

    def _on_fetched(self) -> None:
        if not self._replaying:
            self._ahead = (self.before_fetch, self._states)

    def _loader_states(self) -> list[Any]:
        return [each.state_dict() for each in _self_placing(self._loader)]

    def _reads_ahead(self) -> bool:
        """Lightning does where there is no length, to know which batch is the last."""
        return self._fetcher().length is None

    def _while_replaying(self, replay: Callable[[], Any]) -> Any:
        self._replaying = True
        try:
            return replay()
        finally:
            self._replaying = False


class _Pending(list[Any]):
    """What a fetcher has read ahead: one batch, which is fetched when it is taken."""

    def __init__(self, fetch: Callable[[], Any]) -> None:
        super().__init__([None])
        self._fetch: Callable[[], Any] | None = fetch

    def pop(self, index: Any = -1) -> Any:
        taken, fetch, self._fetch = super().pop(index), self._fetch, None
        return taken if fetch is None else fetch()


def _self_placing(combined: Any) -> list[Any]:
    """Stateful loaders with a dataset that has a state too: it can't be told how that would begin anew."""
    loaders = getattr(combined, "flattened", ())
    return [each for each in loaders if _stateful(each) and _stateful(getattr(each, "dataset", None))]


def _put_own_states(combined: Any, states: list[Any]) -> None:
    for loader, state in zip(_self_placing(combined), states, strict=False):
        loader.load_state_dict(state)


def _starts_lasting_workers(loader: Any) -> bool:
    from ckpt_tracker.integrations._shared import loader as _loader

    return _loader.has_lasting_workers(loader) and not _loader.workers_started(loader)


def _lasting_workers(loader: Any) -> bool:
    """Its workers are not started anew when the training is resumed as they were when it began."""
    lasting = getattr(loader, "persistent_workers", False) or (_stateful(loader) and _stateful(loader.dataset))
    return bool(lasting and getattr(loader, "num_workers", 0))


def _stateful(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
