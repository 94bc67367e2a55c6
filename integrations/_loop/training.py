"""One training of a hand-written loop: how far it is, what it continues from, and how its state becomes a checkpoint.

What a checkpoint holds is put back twice: when the tracker is made, so that the script sees it, and where the loop goes
on, so that nothing done in between, such as the head of an epoch that is gone through once more, leaves a trace.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ckpt_tracker import guard
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.integrations._loop.forgotten import Forgotten
from ckpt_tracker.integrations._loop.hyperparameters import describe as hyperparameters
from ckpt_tracker.integrations._loop.parts import Parts
from ckpt_tracker.integrations._loop.ranks import Decisions, Ranks
from ckpt_tracker.integrations._shared import loader as _loader
from ckpt_tracker.integrations._shared.overlap import Overlap
from ckpt_tracker.integrations._shared.position import Position, is_inside
from ckpt_tracker.tracker import Tracker

_log = logging.getLogger("ckpt_tracker")
# what may not change while a position inside an epoch is to be found
_FIXED = ("length", "batch_size", "drop_last", "sampler", "loader", "batches")


class Training:
    """From the tracker's start to its close."""

    def __init__(self, tracker: Tracker, given: Mapping[str, Any], *, facts: Mapping[str, Any]) -> None:
        self.tracker = tracker
        self.epoch = 0
        """Epochs done."""
        self.step = 0
        """Optimizer steps done; batches where there is no optimizer."""
        self.parts = Parts(given)
        self.ranks = Ranks()
        self.decisions = Decisions(tracker, self.ranks)
        self.position = Position(self.parts.generators, say=self.say)
        given = hyperparameters(self.parts.optimizers, self.parts.schedulers)
        self._facts = {"world_size": self.ranks.count, **({"hyperparameters": given} if given else {}), **facts}
        self._forgotten = Forgotten(self.parts, say=self.say)
        self._state: Mapping[str, Any] | None = None
        self._was: Mapping[str, Any] = {}
        self._saved_step = 0
        self._first_step: int | None = None
        self._agreeing = True
        self._overlap: Overlap | None = None

    def say(self, key: str, message: str) -> None:
        """Warns once, in one process."""
        if self.ranks.first:
            self.tracker.warn_once(key, message)

    # -- start and close -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Takes the run, and puts back what there is to continue from. Raises as `Tracker.begin`, and StateMismatch."""
        try:
            if len(set(self.ranks.gather(self.tracker.name))) > 1:
                raise InvalidOption("processes that train together write one run: give their trackers the same name")
            name, ref = self.ranks.from_first(self._begin)
            state = self.tracker.take_state() if self.ranks.first else self._join(name, ref)
            self.tracker.context.update(self._facts)
            if state:
                self._restore(state)
        except BaseException as error:
            self.close(error=error)
            raise
        self.parts.count_steps(self._count_step)
        if self.tracker.options.overlap and self.ranks.first:
            self._overlap = self.parts.overlap(self.tracker.settle)

    def close(self, *, finished: bool = False, error: BaseException | None = None) -> None:
        """Gives the run back, and leaves the optimizers as they were."""
        self.parts.release()
        if self._overlap is not None:
            self._overlap.release()
        if not self.ranks.first:
            self.tracker.signals.stop()
        self.tracker.close(finished=finished, error=error)

    def _begin(self) -> tuple[str, str | None]:
        resumed = self.tracker.begin()
        return self.tracker.run.name, resumed.ref if resumed else None

    def _join(self, name: str, ref: str | None) -> dict[str, Any]:
        """A process that writes nothing reads what the first continues from."""
        tracker = self.tracker
        tracker.name = name
        tracker.signals.start()
        if ref is None:
            return {}
        tracker.resumed_from = tracker.store[ref]
        state: dict[str, Any] = tracker.resumed_from.load()
        return state

    def _count_step(self) -> None:
        self.step += 1

    # -- restoring -------------------------------------------------------------------------------------------

    def _restore(self, state: Mapping[str, Any]) -> None:
        checkpoint = self.tracker.resumed_from
        assert checkpoint is not None
        self._was = checkpoint.context
        both = self._facts.keys() & self._was.keys()
        found = guard.changes({name: self._was[name] for name in both}, {name: self._facts[name] for name in both})
        self._compare_world(guard.among(found, "world_size"), state, ref=checkpoint.ref)
        self._show(found)
        self._state = state
        self._put()
        self.epoch, self.step = state["loop"]["epoch"], state["loop"]["step"]
        self._saved_step = self.step
        own = self._own(state)
        if own is not None:
            self.position.resume(own, arrive=self._arrive)

    def _compare_world(self, found: tuple[guard.Change, ...], state: Mapping[str, Any], *, ref: str) -> None:
        if state.get("ranks"):
            guard.refuse(found, ref=ref, remedy="each process has random states of its own: start as many as before")
        elif is_inside(state):
            guard.refuse(found, ref=ref, remedy=self._way_out())

    def _put(self) -> None:
        state, checkpoint = self._state, self.tracker.resumed_from
        if state is None or checkpoint is None:
            return
        own = self._own(state) if not self.ranks.first else None
        self.parts.put(state, ref=checkpoint.ref, own=own and own["parts"], overrides=self.tracker.options.overrides)

    def _own(self, state: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What of a state is this process' own; None in one that there was not when it was saved."""
        of_all = [state, *state.get("ranks", ())]
        return of_all[self.ranks.rank] if self.ranks.rank < len(of_all) else None

    def _arrive(self) -> None:
        self._put()
        self._state = None

    def _show(self, found: tuple[guard.Change, ...]) -> None:
        if not self.ranks.first or self.tracker.resumed_from is None:
            return
        guard.show(found, ref=self.tracker.resumed_from.ref)
        if guard.among(found, "hyperparameters"):
            _log.warning("they go on with the checkpoint's hyperparameters: overrides={'lr': ...} sets others")

    # -- in the loop -----------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """The loop's turn: what was restored is restored once more."""
        if self._first_step is None:
            self._forgotten.remember()
        self._put()
        self.position.begin_epoch()
        if not self.position.resuming:
            self._state = None
        self._first_step = self.step

    def end_epoch(self) -> None:
        """The loop has come to its next turn."""
        self.epoch += 1
        self._forgotten.look()

    @property
    def begun(self) -> bool:
        """An epoch has begun. Without `epochs` there is but one."""
        return self._first_step is not None

    def can_follow(self) -> bool:
        """A position in the next loader says how far the epoch is: nothing was trained in it yet."""
        return not self.position.followed and not self.has_stepped

    @property
    def has_stepped(self) -> bool:
        """Something was trained in this epoch."""
        return self.step != self._first_step

    def accept(self, loader: Any) -> None:
        """Compares a loader to the one that the checkpoint's position is in. Raises StateMismatch where it can't be."""
        facts = {"data": _loader.describe(loader)}
        self.tracker.context.update(facts)
        was, self._was = self._was, {}
        found = guard.changes({"data": was.get("data", {})}, facts) if "data" in was else ()
        if found and self.position.resuming and self.tracker.resumed_from is not None:
            fixed = _FIXED if _loader.is_map_style(loader) else (*_FIXED, "num_workers")
            refused = guard.among(found, *(f"data.{name}" for name in fixed))
            guard.refuse(refused, ref=self.tracker.resumed_from.ref, remedy=self._way_out())
        self._show(found)
        if self.ranks.several:
            lengths = set(self.ranks.gather(_loader.length(loader)))
            self._agreeing = len(lengths) == 1 and None not in lengths

    def _way_out(self) -> str:
        ends: list[str] = []
        if self.ranks.first:
            for each in self.tracker.run.checkpoints():
                ends += [each.ref] if "world_size" in each.context and "batch" not in each.context else []
        anew = f"resume={ends[-1]!r}" if ends else "another run name or resume='never'"
        where = "continue from the end of an epoch" if ends else "start anew"
        return f"use what the checkpoint was saved with, or {where} with {anew}"

    # -- saving ----------------------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Something was trained since the last checkpoint, or since the one that it continued from."""
        return self.step != self._saved_step

    def due_inside(self) -> str | None:
        """Why to save now, inside an epoch, or None."""
        if self._agreeing:
            return self.decisions.due(step=self.step)
        if self.tracker.schedule.within_epochs:
            self.say(
                "uneven",
                "the processes' loaders have no common length, so they can't agree on saving inside an epoch: "
                "checkpoints are taken when it ends",
            )
        return None

    def state(self, *, inside: bool = False, failed: bool = False) -> dict[str, Any]:
        """All sections, those of the other processes in the first one's; still the objects' own memory."""
        state = self.parts.take()
        own = self.position.capture(inside=inside, failed=failed)
        loop = {"epoch": self.epoch, "step": self.step}
        if not self.ranks.several:
            return {**state, **own, "loop": loop}
        if state.pop("gradients", None):
            self.say(
                "gradients",
                "gradients are accumulated beyond an epoch's end, and each process' are its own: they are not saved, "
                "so let the last batch of an epoch be followed by an optimizer step",
            )
        others = self.ranks.gather({**own, "parts": self.parts.take_own()})[1:]
        return {**state, **own, "loop": loop, "ranks": others}

    def save(
        self,
        state: Mapping[str, Any],
        *,
        reason: str,
        epoch: int | None,
        metrics: Mapping[str, Any] | None,
        leave: bool = True,
        last: bool = False,
    ) -> None:
        """Saves what `state` gave; after a signal, stops once that is durable, unless `leave` says not to.

        What only a step changes is copied up to that, where the tracker overlaps, and this is not the `last` one.
        """
        self._saved_step = self.step
        self.tracker.context.pop("batch", None)
        if is_inside(state):
            self.tracker.context["batch"] = state["data"]["batch"]
        tracker, overlap, step = self.tracker, self._overlap, self.step
        together = self.ranks.several
        at_once = last or not leave or self.decisions.asked

        def write() -> None:
            if overlap is not None and tracker.overlapping and not at_once:
                steady = overlap.steady()
                tracker.save_overlapped(state, steady=steady, epoch=epoch, step=step, metrics=metrics, reason=reason)
                return
            leaves = leave and not together
            saved = tracker.save(state, epoch=epoch, step=step, metrics=metrics, reason=reason, leave=leaves)
            if self.decisions.asked:
                saved.wait()

        self.ranks.from_first(write)
        self.decisions.leave()

    def save_inside(self, reason: str, *, failed: bool = False, last: bool = False) -> None:
        """Saves a position inside the epoch. `failed`: the one before a batch that could not be loaded."""
        state = self.state(inside=True, failed=failed)
        self.save(state, reason=reason, epoch=self.before, metrics=None, last=last or failed)

    @property
    def before(self) -> int | None:
        """The epoch last finished."""
        return self.epoch - 1 if self.epoch else None
