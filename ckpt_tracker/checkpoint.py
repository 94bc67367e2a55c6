"""Checkpoint: one immutable, numbered version of a run, as the user holds it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ckpt_tracker.errors import CkptTrackerError
from ckpt_tracker.records import CheckpointRecord, Evaluation, Parent, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_tracker.files.layout import Layout
    from ckpt_tracker.files.object_folder import ObjectFolder
    from ckpt_tracker.writer import Pending

    Evaluate = Callable[[CheckpointRecord, Mapping[str, float]], CheckpointRecord]


class Checkpoint:
    """A checkpoint: on disk, or on its way there when `save` has just returned it.

    What is known only once it is written (`digest`, `nbytes`, `stored_bytes`) waits for that.
    """

    def __init__(
        self,
        record: CheckpointRecord,
        *,
        layout: Layout,
        objects: ObjectFolder,
        pending: Pending[CheckpointRecord] | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        self._record = record
        self._layout = layout
        self._objects = objects
        self._pending = pending
        self._evaluate = evaluate

    def __repr__(self) -> str:
        return f"<Checkpoint {self.ref} epoch={self.epoch} step={self.step}>"

    @property
    def run(self) -> str:
        """The name of its run."""
        return self._record.run

    @property
    def version(self) -> int:
        """Its number in the run, from 1. Never given twice."""
        return self._record.version

    @property
    def ref(self) -> str:
        """`RUN@vN`."""
        return self._record.ref

    @property
    def epoch(self) -> int | None:
        """0-based index of the epoch last finished."""
        return self._record.epoch

    @property
    def step(self) -> int | None:
        """Optimizer steps done."""
        return self._record.step

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics it was saved with, and those that were measured later."""
        return self._record.metrics

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Which of its metrics were measured later: when, by what and by whom."""
        return self._record.evaluations

    @property
    def created_at(self) -> datetime:
        """When it was captured (UTC)."""
        return self._record.created_at

    @property
    def sections(self) -> tuple[str, ...]:
        """The names of its sections."""
        return self._record.sections

    @property
    def weights_only(self) -> bool:
        """Retention has left it with what predictions need: a training can't resume from it."""
        return self._record.full_digest is not None

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags when it was looked up."""
        return self._record.tags

    @property
    def pinned(self) -> bool:
        """Whether it was pinned when it was looked up."""
        return self._record.pinned

    @property
    def parents(self) -> tuple[Parent, ...]:
        """The checkpoints it came from; none for a training from scratch."""
        return self.record.parents

    @property
    def context(self) -> Mapping[str, Any]:
        """What is no state, but makes a resume right or wrong: world size, length of the data, batch size, …"""
        return self._record.context

    @property
    def reason(self) -> str | None:
        """Why it was saved: a trigger (`1 epoch`), `end`, a signal (`SIGTERM`), `exception`, …"""
        return self._record.reason

    @property
    def digest(self) -> str:
        """One hash over every tensor and leaf: two checkpoints are bit-equal exactly when their digests are."""
        return self.record.digest

    @property
    def nbytes(self) -> int:
        """Logical bytes of all its tensors."""
        return self.record.nbytes

    @property
    def stored_bytes(self) -> int:
        """Bytes that it added to the store when it was saved; what it shares with earlier checkpoints is not in it."""
        return self.record.stored_bytes

    @property
    def record(self) -> CheckpointRecord:
        """All of this as a value. Waits until the checkpoint is durable."""
        self.wait()
        return self._record

    @property
    def done(self) -> bool:
        """It is not being written any more: `wait` returns, or raises, at once."""
        return self._pending is None or self._pending.done

    def wait(self, timeout: float | None = None) -> Checkpoint:
        """Returns once the checkpoint is durable: it survives a kill and a power cut from then on.

        Raises what kept it from being saved; TimeoutError after `timeout` seconds.
        """
        if self._pending is not None:
            self._record = self._pending.wait(timeout)
            self._pending = None
        return self

    def load(self, section: str | None = None, *, as_numpy: bool = False, into: Any = None) -> Any:
        """The state that was saved, or one section of it, on the CPU; every tensor is checked against its hash.

        Tensors come back as what they were; with `as_numpy` all as NumPy arrays, which needs no torch. `into` is such
        a state as the training has it now: its tensors that fit are overwritten and stand in the result, which saves
        their memory and a copy. Where it raises Damaged then, some of them are the checkpoint's already.
        Raises Damaged naming the tensor, CheckpointGone when it was deleted meanwhile, CheckpointNotFound for
        a section that it doesn't have.
        """
        from ckpt_tracker.loading import load_state

        self.wait()
        return load_state(self._layout, self._objects, self._record, section=section, as_numpy=as_numpy, into=into)

    def add_metrics(self, metrics: Mapping[str, float] | None = None, /, **named: float) -> Checkpoint:
        """Records what was measured after the training (`test_acc=0.93`), durably, beside the training's own metrics.

        It is one more event of the run, with the moment and the user; of a metric that is added again the last value
        counts. What is best and what retention keeps may change with it. Returns the checkpoint itself. Raises
        InvalidOption for what is no number, and for a metric that the training recorded itself: that one stays.
        CheckpointGone, StoreReadOnly.
        """
        if self._evaluate is None:
            raise CkptTrackerError(f"{self.ref} belongs to no store: ask the store for it")
        self._record = self._evaluate(self.record, {**(metrics or {}), **named})
        return self

    def verify(self, *, deep: bool = True) -> VerifyReport:
        """Checks its manifest and its objects: their sizes, and with `deep` every byte."""
        from ckpt_tracker.inspection.verification import verify_checkpoint

        self.wait()
        return verify_checkpoint(self._layout, self._objects, self.run, self.version, deep=deep)
