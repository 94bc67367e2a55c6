"""The epoch under way, as far as its data go: how it began, how far it is, and where a restart takes it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpt_tracker.integrations._transformers import data, workers
from ckpt_tracker.integrations._transformers import random as randomness
from ckpt_tracker.integrations._transformers import trainer as inner
from ckpt_tracker.tracker import Tracker

_STREAM = (
    "the training data are a stream that draws random numbers as it is loaded: if they decide which samples come, a "
    "restart inside an epoch gets others; every='1 epoch' continues exactly"
)
_WORKERS = (
    "DataLoader workers that live on from epoch to epoch draw random numbers, which no checkpoint can hold: "
    "dataloader_persistent_workers=False continues exactly"
)


class Epoch:
    """Of one training; one after the other."""

    def __init__(self, tracker: Tracker, trainer: Any) -> None:
        self._tracker = tracker
        self._trainer = trainer
        self._watch = workers.watch(self._loader)
        self._generators = randomness.Generators(trainer)
        self._start: randomness.Moment = {}
        self._feed: data.Feed | None = None
        self._position: data.Position | None = None
        self._resume: tuple[Mapping[str, Any], str] | None = None

    def begin(self) -> None:
        """It begins, or is taken up, with the random states of now."""
        self._feed = self._position = None
        self._generators.look()
        self._start = self._generators.take()

    def resume(self, own: Mapping[str, Any], path: str, *, trained: bool, evaluated: bool) -> None:
        """Restores what it began with, or where one had ended. `own` is what the checkpoint has of this process.

        `trained`, `evaluated`: for an epoch or once at least, so that workers that live on were there.
        """
        trainer = self._trainer
        if trained:
            workers.start(self._loader)
        if evaluated:
            for loader in inner.lasting_eval_loaders(trainer):
                workers.start(loader)
        randomness.put_seed(self._loader, own["data"]["seed"])
        # without a length a Trainer always takes it for begun; with ignore_data_skip it begins it once more
        begun = ("start" in own["data"] or not data.has_length(self._loader)) and not trainer.args.ignore_data_skip
        self._resume = (own, path) if begun else None
        self._generators.put(own["data"].get("start", _now(own)) if begun else _now(own))

    def end(self, own: Mapping[str, Any]) -> None:
        """Restores what the last one ended with, when none is trained."""
        self._generators.put(_now(own))

    def feed(self, batches: Any, *, epoch: int) -> data.Feed:
        """What the Trainer takes the data of its next step from; `batches` is what it would take them from."""
        if self._feed is None:
            self._feed = self._first(batches, epoch=epoch)
        if not self._feed.ended:
            self._position = self._feed.position()
        return self._feed

    def failed_with(self, error: BaseException) -> bool:
        """It was raised by the data, so that nothing has changed since they were asked for."""
        return self._feed is not None and self._feed.failed is error

    def progress(self, *, steps: int) -> float | None:
        """How much of it is done, where the Trainer could not tell after a restart: of `steps`, as it has no length."""
        return None if self._feed is None or data.has_length(self._loader) else self._feed.given / steps

    def stop(self) -> None:
        """The training stops inside it."""
        if self._feed is not None:
            self._position = self._feed.position()

    def state(self, *, inside: bool) -> dict[str, Any]:
        """The random states and the data's; `inside` it, those from before the next step's data are asked for."""
        if self._watch is not None and self._watch.drawn:
            self._tracker.warn_once("workers", _WORKERS)
        state: dict[str, Any] = {"seed": randomness.seed(self._loader)}
        if not inside or self._feed is None or self._position is None:
            now = self._generators.take()
        else:
            if self._feed.draws:
                self._tracker.warn_once("stream", _STREAM)
            now, ahead = self._position.now, self._position.ahead
            state["batches"] = self._position.batches
            state["start"] = randomness.saved(self._start)
            state["ahead"] = None if ahead is None else randomness.saved(ahead)
        found = randomness.saved(now)
        return {"rng": found["rng"], "data": {**state, "generators": found["generators"]}}

    @property
    def _loader(self) -> Any:
        return self._trainer.callback_handler.train_dataloader

    def _first(self, batches: Any, *, epoch: int) -> data.Feed:
        resume, self._resume = self._resume, None
        if not data.has_length(self._loader):
            data.begin_epoch(self._loader, epoch)
        if resume is None:
            return data.Feed(batches, self._generators, stream=data.is_stream(self._loader))
        own, path = resume
        # the Trainer would set them after the first step's data, which bring about the right ones
        inner.forget_random_states(self._trainer, path)
        return data.again(self._loader, self._generators, own["data"], _now(own), epoch=epoch)


def _now(own: Mapping[str, Any]) -> randomness.Moment:
    return {"rng": own["rng"], "generators": own["data"]["generators"]}
