"""Values that travel between the floors: what a store knows about its runs, checkpoints and tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

Mode = Literal["min", "max"]
FindingKind = Literal[
    "store", "file", "run", "events", "index", "manifest", "missing manifest", "object", "missing object", "newer"
]
"""What is damaged: `store.json`, something that should be a plain file or folder, `run.json`, …; or `newer`, which is
no damage: a later version of ckpt_tracker wrote it.
"""
WEIGHTS_SECTIONS = frozenset({"model", "ema", "architecture", "hyperparameters"})
"""What predictions need: the sections that a checkpoint of weights only keeps."""


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, apart from its bytes."""

    kind: str
    """`torch` or `numpy`: as what it comes back."""
    dtype: str
    """The name both libraries use (`float32`, `bfloat16`, …), or NumPy's `dtype.str` where there is none."""
    shape: tuple[int, ...]
    nbytes: int
    flags: tuple[str, ...] = ()
    """`requires_grad`, `parameter`: what a torch tensor is besides."""


@dataclass(frozen=True)
class Piece:
    """A stretch of an object. A tensor's pieces, one after the other, are its C-contiguous bytes."""

    object: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as a manifest records it."""

    spec: TensorSpec
    hash: str
    """BLAKE3 of the tensor's bytes, however they are cut into pieces."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Parent:
    """The checkpoint that another one came from."""

    ref: str
    digest: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What was set to another value than the checkpoint had, when the training went on from it."""


@dataclass(frozen=True)
class Monitor:
    """Which metric says what `best` is."""

    metric: str
    mode: Mode


@dataclass(frozen=True)
class Evaluation:
    """A metric that was measured after the training, and recorded beside the training's own."""

    version: int
    name: str
    value: float
    at: datetime
    """When it was recorded; with the checkpoint's own times, in UTC."""
    by: str | None = None
    """What recorded it: `python`, or a command."""
    user: str | None = None


@dataclass(frozen=True)
class CheckpointRecord:
    """One checkpoint as the index knows it: all but the state."""

    run: str
    version: int
    epoch: int | None
    step: int | None
    metrics: Mapping[str, float]
    """The training's own, and later evaluations."""
    created_at: datetime
    digest: str
    nbytes: int
    """Logical bytes of all tensors; tied ones count once."""
    stored_bytes: int
    """Bytes that it added to the store when it was saved; what it shares with earlier ones is not in it."""
    sections: tuple[str, ...]
    kind: str = "training"
    reason: str | None = None
    parents: tuple[Parent, ...] = ()
    stall_seconds: float = 0.0
    """Time the training was held up by this save."""
    write_seconds: float = 0.0
    """Time the background writer took for the objects."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What is no state, but makes a resume right or wrong: world size, length of the data, batch size, …"""
    tags: tuple[str, ...] = ()
    pinned: bool = False
    """Retention keeps it, as it does what has a tag."""
    full_digest: str | None = None
    """Of a checkpoint that holds its weights only by now: the digest that it had when it was whole."""
    nonfinite: Mapping[str, str] = field(default_factory=dict)
    """The tensors of section `model` that hold NaN (`nan`) or infinities (`inf`), by path: such a one is never best."""
    evaluations: tuple[Evaluation, ...] = ()
    """Which of the metrics were recorded later, by whom; the others are the training's own."""

    @classmethod
    def of(cls, fields: dict[str, Any]) -> CheckpointRecord:
        """The record that has these fields, all of them; the dict becomes its own.

        For whoever makes thousands: the constructor of a frozen dataclass puts each field by itself past the freeze,
        and takes four times as long.
        """
        record = object.__new__(cls)
        object.__setattr__(record, "__dict__", fields)
        return record

    @property
    def own_metrics(self) -> dict[str, float]:
        """The metrics that the training saved it with."""
        if not self.evaluations:
            return dict(self.metrics)
        later = {each.name for each in self.evaluations}
        return {name: value for name, value in self.metrics.items() if name not in later}

    @property
    def ref(self) -> str:
        """`RUN@vN`."""
        return f"{self.run}@v{self.version}"

    @property
    def weights_problem(self) -> str:
        """`NaN in model.fc.weight`: what keeps it from ever being best; empty where its weights are numbers."""
        path = next(iter(self.nonfinite), None)
        if path is None:
            return ""
        more = f" and {len(self.nonfinite) - 1} more" if len(self.nonfinite) > 1 else ""
        return f"{'NaN' if self.nonfinite[path] == 'nan' else 'Inf'} in {path}{more}"

    @property
    def strippable(self) -> bool:
        """It has a model, and sections that predictions don't need."""
        return "model" in self.sections and not WEIGHTS_SECTIONS.issuperset(self.sections)


@dataclass(frozen=True)
class RunRecord:
    """A run's `run.json`: written once, when the run starts."""

    name: str
    created_at: datetime
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    unnamed: bool = False
    """The tracker made the name up."""
    finished: bool = False
    """Its last training came to its end."""
    monitor: Monitor | None = None
    last_start: Mapping[str, Any] = field(default_factory=dict)
    """The event of its last start: when, from which checkpoint, with which config and environment."""
    tags: Mapping[str, int] = field(default_factory=dict)
    """Tag → version."""
    pins: tuple[int, ...] = ()
    """The versions that are pinned."""
    evaluations: tuple[Evaluation, ...] = ()
    """What was measured of its checkpoints later, by version and name."""


@dataclass(frozen=True)
class Decision:
    """What a retention policy decides for one checkpoint, and why."""

    checkpoint: CheckpointRecord
    keep: bool
    reasons: tuple[str, ...]
    """Of one that is kept: each policy's. Of one that a budget drops: in which order it goes, and what spoke for it."""
    weights_only: bool = False
    """It is kept, and loses what predictions don't need."""


@dataclass(frozen=True)
class Plan:
    """Decisions over the checkpoints of one or more runs, oldest first. Nothing is deleted until it is applied."""

    decisions: tuple[Decision, ...]
    keep: str = ""
    """The retention, as text."""
    count: Callable[[Plan], int] | None = field(default=None, repr=False, compare=False)
    """Counts what it frees, which takes longer than to decide: every manifest of the store is read for that."""

    @cached_property
    def freed_bytes(self) -> int:
        """Bytes of the objects that nothing kept refers to. Counted when first asked for, or else when applied."""
        return self.count(self) if self.count is not None else 0

    @property
    def removed(self) -> tuple[CheckpointRecord, ...]:
        """The checkpoints that applying the plan removes."""
        return tuple(each.checkpoint for each in self.decisions if not each.keep)

    @property
    def stripped(self) -> tuple[CheckpointRecord, ...]:
        """The checkpoints that applying the plan leaves with their weights only."""
        return tuple(each.checkpoint for each in self.decisions if each.keep and each.weights_only)

    @property
    def emptied(self) -> tuple[str, ...]:
        """The runs of which it keeps nothing: such a plan is refused when it is applied."""
        kept = {each.checkpoint.run for each in self.decisions if each.keep}
        return tuple(dict.fromkeys(each.run for each in self.removed if each.run not in kept))


@dataclass(frozen=True)
class Finding:
    """One thing that `verify` found wrong."""

    ref: str
    """The checkpoint, or the run; empty for what is the whole store's."""
    path: Path
    problem: str
    kind: FindingKind
    loads: tuple[str, ...] = ()
    """Of a checkpoint: the sections that still load."""


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` looked at, and what it found."""

    checkpoints: int
    objects: int
    bytes_read: int
    findings: tuple[Finding, ...]
    lost: tuple[Finding, ...] = ()
    """What an earlier repair found lost, and nobody can bring back: no news, and nothing that makes `ok` false."""

    @property
    def ok(self) -> bool:
        """Nothing was found wrong."""
        return not self.findings
