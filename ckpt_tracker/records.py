"""Values that travel between the floors: what a store knows about its runs, checkpoints and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

Mode = Literal["min", "max"]


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
class CheckpointRecord:
    """One checkpoint as the index knows it: all but the state."""

    run: str
    version: int
    epoch: int | None
    step: int | None
    metrics: Mapping[str, float]
    created_at: datetime
    digest: str
    nbytes: int
    """Logical bytes of all tensors; tied ones count once."""
    stored_bytes: int
    """Bytes that this checkpoint added to the store; what it shares with earlier ones is not in it."""
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

    @property
    def ref(self) -> str:
        """`RUN@vN`."""
        return f"{self.run}@v{self.version}"


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


@dataclass(frozen=True)
class Decision:
    """What a retention policy decides for one checkpoint, and why."""

    checkpoint: CheckpointRecord
    keep: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Decisions over the checkpoints of one or more runs, oldest first. Nothing is deleted until it is applied."""

    decisions: tuple[Decision, ...]
    freed_bytes: int = 0
    """Bytes of the objects that nothing kept refers to."""

    @property
    def removed(self) -> tuple[CheckpointRecord, ...]:
        """The checkpoints that applying the plan removes."""
        return tuple(each.checkpoint for each in self.decisions if not each.keep)


@dataclass(frozen=True)
class Finding:
    """One thing that `verify` found wrong."""

    ref: str
    path: Path
    problem: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` looked at, and what it found."""

    checkpoints: int
    objects: int
    bytes_read: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing was found wrong."""
        return not self.findings
