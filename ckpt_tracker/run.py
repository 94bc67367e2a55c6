"""Run: one training, and the checkpoints it left."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.errors import InvalidOption, StoreReadOnly
from ckpt_tracker.records import CheckpointRecord, Mode, Monitor, Parent, Plan, RunRecord
from ckpt_tracker.selection import check_monitor, check_tag

if TYPE_CHECKING:
    from ckpt_tracker.criteria import Tie
    from ckpt_tracker.history import Entry
    from ckpt_tracker.retention import Retention
    from ckpt_tracker.run_writer import AfterSave, Capture, RunWriter
    from ckpt_tracker.store import Store


class Run:
    """A run of a store, made by `store.run(name)`. Saving takes the run's lock until the run or its store is closed."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name
        self._writer: RunWriter | None = None
        self._named: Monitor | None = None

    def __repr__(self) -> str:
        return f"<Run {self.name} of {self._store.path}>"

    @property
    def record(self) -> RunRecord:
        """What the store knows of the run: config, environment, tags, monitor."""
        return self._store.run_record(self.name)

    @property
    def config(self) -> Mapping[str, Any]:
        """The hyperparameters it was started with."""
        return self.record.config

    # -- saving ----------------------------------------------------------------------------------------------

    def save(
        self,
        state: Mapping[str, object],
        *,
        epoch: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
        reason: str | None = None,
    ) -> Checkpoint:
        """Captures `state` (section → its tree) as the run's next checkpoint and writes it in the background.

        The state may change once this returns; the checkpoint is durable once its `wait()` returns.
        Raises UnstorableLeaf, RunBusy, InvalidOption; and, once, the error of an earlier save in the background.
        """
        numbers = check_metrics(metrics or {})
        epoch, step = _count("epoch", epoch), _count("step", step)
        self.writer().raise_pending()
        capture = self.capture(state)
        return self.submit(capture, epoch=epoch, step=step, metrics=numbers, reason=reason)

    def capture(self, state: Mapping[str, object], *, steady: frozenset[int] = frozenset()) -> Capture:
        """The first half of `save`: copies the state. Goes to `submit` or `discard` before the next capture.

        Large tensors at `steady` addresses are copied in a thread: they must not change until `settle` returns.
        """
        _check_sections(state)
        return self.writer().capture(state, steady=steady)

    def settle(self, capture: Capture) -> tuple[Capture, str | None]:
        """Waits until a capture is whole; returns it, and what changed meanwhile: then it must be discarded."""
        return self.writer().settle(capture)

    def discard(self, capture: Capture) -> None:
        """Forgets a capture."""
        self.writer().discard(capture)

    def submit(
        self,
        capture: Capture,
        *,
        epoch: int | None,
        step: int | None,
        metrics: Mapping[str, float],
        reason: str | None = None,
        context: Mapping[str, Any] | None = None,
        kind: str = "training",
        then: AfterSave | None = None,
    ) -> Checkpoint:
        """The second half of `save`; `then` is called in the background once the checkpoint is durable."""
        draft = CheckpointRecord(
            run=self.name,
            version=0,
            epoch=epoch,
            step=step,
            metrics=dict(metrics),
            created_at=capture.created_at,
            digest="",
            nbytes=0,
            stored_bytes=0,
            sections=(),
            kind=kind,
            reason=reason,
            context=context or {},
        )
        record, pending = self.writer().submit(capture, draft, then=then)
        return Checkpoint(
            record,
            layout=self._store.layout,
            objects=self._store.objects,
            pending=pending,
            evaluate=self._store.evaluate,
        )

    def writer(self) -> RunWriter:
        """The run's writer; takes the run's lock when there is none yet. Raises RunBusy, StoreReadOnly."""
        if self._writer is None:
            if self._store.read_only:
                raise StoreReadOnly(f"the store {self._store.path} can't be written: check its permissions")
            # only what saves pays for loading it
            from ckpt_tracker.run_writer import RunWriter

            self._writer = RunWriter(self._store, self.name)
        return self._writer

    def continue_from(self, checkpoint: Checkpoint | None, *, overrides: Mapping[str, Any] | None = None) -> None:
        """The next checkpoint's parent is that one, with what was set to other values since, or none."""
        record = checkpoint.record if checkpoint is not None else None
        self.writer().parent = Parent(record.ref, record.digest, overrides or {}) if record else None

    def close(self, timeout: float | None = None) -> list[str]:
        """Waits until what was saved is durable and gives the lock back.

        Returns the references that are not durable after `timeout` seconds. Raises, once, a save's error.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return []
        late = writer.close(timeout)
        writer.raise_pending()
        return late

    # -- looking up ------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Checkpoint]:
        """All durable checkpoints, oldest first."""
        self._drain()
        return [self._store.checkpoint(record) for record in self._store.index.checkpoints(self.name)]

    def last(self) -> Checkpoint:
        """The newest. Raises CheckpointNotFound where there is none."""
        return self._store[f"{self.name}@last"]

    def best(
        self,
        metric: str | None = None,
        mode: Mode | None = None,
        *,
        tie: Tie = "first",
        min_delta: float = 0.0,
    ) -> Checkpoint:
        """The best by a metric or an expression over metrics (`ckpt_tracker.criteria` has the grammar); by the run's
        own monitor where none is named, or else by the one named last here.

        NaN, infinite and missing values never win, nor do weights that hold such. Of equal ones it is the earlier, or
        with `tie="last"` the later; what is better by `min_delta` or less counts as equal. Raises CheckpointNotFound
        where no checkpoint can be ranked, InvalidOption where nothing says what best is.
        """
        from ckpt_tracker import choosing

        choosing.check_terms(tie=tie, min_delta=min_delta)
        named = check_monitor(metric, mode)
        self._named = named or self._named
        monitor = named or self._store.index.monitor(self.name) or self._named
        if monitor is None:
            raise InvalidOption(f"run {self.name!r} monitors no metric: name one, best('val_loss', mode='min')")
        self._drain()
        plain = tie == "first" and not min_delta
        version = self._store.index.best(self.name, monitor) if plain else None
        if version is not None:
            return self._store[f"{self.name}@v{version}"]
        records = self._store.index.checkpoints(self.name)
        what = f"run {self.name!r}"
        return self._store.checkpoint(choosing.best_of(records, monitor, what=what, tie=tie, min_delta=min_delta))

    def plan(self, keep: Retention | str, *, now: datetime | None = None) -> Plan:
        """What `keep` decides, with reasons. Nothing is deleted; `store.apply(plan)` does that."""
        self._drain()
        return self._store.plan(keep, runs=[self.name], now=now)

    def tag(self, tag: str, checkpoint: Checkpoint | None = None) -> int | None:
        """Names a checkpoint (the newest, unless one is given): retention keeps it, and `RUN@TAG` finds it.

        A name that another one has moves, and its version is returned. Raises CheckpointGone.
        """
        from ckpt_tracker.retention import keeping

        check_tag(tag)
        return keeping.tag(self._store, self._own(checkpoint), tag)

    def untag(self, tag: str) -> int:
        """Takes a name away; returns the version that had it. Raises CheckpointNotFound."""
        from ckpt_tracker.retention import keeping

        return keeping.untag(self._store, self.name, tag)

    def pin(self, checkpoint: Checkpoint | None = None) -> bool:
        """Has retention keep a checkpoint (the newest, unless one is given); False where it is pinned already."""
        from ckpt_tracker.retention import keeping

        return keeping.pin(self._store, self._own(checkpoint))

    def unpin(self, checkpoint: Checkpoint | None = None) -> bool:
        """Leaves a pinned checkpoint to retention again; False where it is not pinned."""
        from ckpt_tracker.retention import keeping

        return keeping.unpin(self._store, self._own(checkpoint))

    def history(self) -> list[Entry]:
        """What was saved, evicted, removed, restored, tagged and pinned, oldest first, as far as the events tell."""
        from ckpt_tracker import history

        self._drain()
        return history.of_run(self._store, self.name)

    def tags_at(self, moment: datetime) -> dict[str, int]:
        """Where each tag stood at a moment (with its zone): tag → version."""
        from ckpt_tracker import history

        return history.tags_at(self._store, self.name, moment)

    def _own(self, checkpoint: Checkpoint | None) -> CheckpointRecord:
        chosen = checkpoint or self.last()
        if chosen.run != self.name:
            raise InvalidOption(f"{chosen.ref} is not of run {self.name!r}: ask that run")
        return chosen.record

    def _drain(self) -> None:
        if self._writer is not None:
            self._writer.drain()


def check_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as floats. Raises InvalidOption for one that is no single number."""
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[str(name)] = as_number(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidOption(f"metric {name!r} is {value!r}: expected one number") from error
    return numbers


def as_number(value: Any) -> float:
    """A number, or an array or tensor of one element, as a float. Raises TypeError, ValueError or RuntimeError."""
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except OverflowError as error:
        raise ValueError("too large") from error


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if not 0 <= count < 2**63:
        raise InvalidOption(f"{name}={value!r}: expected a whole number, 0 or more, or None")
    return count


def _check_sections(state: Any) -> None:
    if not isinstance(state, Mapping):
        found = f"a {type(state).__name__}"
    else:
        odd = [name for name in state if not (isinstance(name, str) and name.isidentifier())]
        if not odd:
            return
        found = f"sections named {', '.join(map(repr, odd[:5]))}"
    raise InvalidOption(f"a state is a dict of named sections, {{'model': ..., 'optimizer': ...}}; found {found}")
