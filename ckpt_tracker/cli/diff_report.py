"""What two checkpoints differ in: metrics, the run's config, code and environment, and their states leaf by leaf."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckpt_tracker.cli.documents import Document
from ckpt_tracker.cli.output import Progress
from ckpt_tracker.comparison import Difference, SavedState, differences, measured, section_of
from ckpt_tracker.errors import CheckpointNotFound
from ckpt_tracker.files import run_files
from ckpt_tracker.guard import Change, changes
from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.selection import nearest
from ckpt_tracker.store import Store


@dataclass(frozen=True)
class Report:
    """Two checkpoints, compared."""

    first: CheckpointRecord
    second: CheckpointRecord
    config: tuple[Change, ...]
    code: tuple[Change, ...]
    environment: tuple[Change, ...]
    tensors: int
    """Of both together, each path once."""
    found: tuple[Difference, ...]
    """What is in one of them only first, then by how far tensors are apart, then the other leaves."""

    @property
    def equal(self) -> bool:
        """The states are bit-equal."""
        return self.first.digest == self.second.digest

    @property
    def changed(self) -> int:
        """How many tensors are not the same in both."""
        return sum(each.is_tensor for each in self.found)

    def metrics(self) -> dict[str, tuple[float | None, float | None]]:
        """Each metric in both."""
        names = [*self.first.metrics, *(name for name in self.second.metrics if name not in self.first.metrics)]
        return {name: (self.first.metrics.get(name), self.second.metrics.get(name)) for name in names}

    def document(self) -> Document:
        """For `--json`."""
        return {
            "first": _end(self.first),
            "second": _end(self.second),
            "equal": self.equal,
            "metrics": {name: list(values) for name, values in self.metrics().items()},
            **{name: [_change(each) for each in getattr(self, name)] for name in ("config", "code", "environment")},
            "tensors": self.tensors,
            "changed_tensors": self.changed,
            "differences": [_difference(each) for each in self.found],
        }


def compare(
    store: Store,
    first: CheckpointRecord,
    second: CheckpointRecord,
    *,
    section: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Reads both manifests, and what tensors differ, a stretch at a time.

    Raises Damaged, CheckpointGone; CheckpointNotFound for a section that neither has.
    """
    one, other = (SavedState.read(store.layout, store.objects, each) for each in (first, second))
    if section is not None:
        _check_section(section, one, other)
    found = [each for each in differences(one, other) if section in (None, each.section)]
    facts = [_facts(store, each) for each in (first, second)]
    told = changes(*(each["environment"] for each in facts))
    tensors = {path for state in (one, other) for path in state.leaves if state.tensor(path) is not None}
    return Report(
        first=first,
        second=second,
        config=changes(*(each["config"] for each in facts)),
        code=tuple(each for each in told if _is_code(each)),
        environment=tuple(each for each in told if not _is_code(each)),
        tensors=sum(section in (None, section_of(path)) for path in tensors),
        found=tuple(sorted(_measured_all(found, one, other, progress), key=_rank)),
    )


def _check_section(section: str, one: SavedState, other: SavedState) -> None:
    known = {**one.sections, **other.sections}
    if section not in known:
        refs = f"{one.record.ref} nor {other.record.ref}"
        raise CheckpointNotFound(f"neither {refs} has a section {section!r}{nearest(section, known)}")


def _measured_all(
    found: Sequence[Difference], one: SavedState, other: SavedState, progress: Progress
) -> Iterator[Difference]:
    sizes = [_nbytes(each, one) for each in found]
    done = 0
    for each, nbytes in zip(found, sizes, strict=True):
        yield measured(each, one, other)
        done += nbytes
        progress(done, sum(sizes))


def _nbytes(difference: Difference, state: SavedState) -> int:
    entry = state.tensor(difference.path)
    return entry.spec.nbytes if entry is not None and difference.measurable else 0


def _rank(difference: Difference) -> tuple[int, float]:
    if not difference.is_tensor:
        return 2, 0.0
    if difference.distance is None:
        return 0, 0.0
    apart = difference.distance.relative_l2
    return 1, -math.inf if math.isnan(apart) or any(difference.distance.nans) else -apart


def _facts(store: Store, record: CheckpointRecord) -> Mapping[str, Any]:
    """Config and environment of the start that the checkpoint comes from; the run's own where no tracker told."""
    found: Mapping[str, Any] = {}
    for event in run_files.events(store.layout, record.run):
        if event["event"] == "start" and str(event.get("at", "")) <= record.created_at.isoformat():
            found = event
    run = store.run_record(record.run)
    return {"config": found.get("config", run.config), "environment": found.get("environment", run.environment)}


def _is_code(change: Change) -> bool:
    return change.name == "script" or change.name.startswith("code.")


def _end(record: CheckpointRecord) -> Document:
    names = ("ref", "run", "version", "epoch", "step", "created_at", "digest", "nbytes")
    return {name: getattr(record, name) for name in names}


def _change(change: Change) -> Document:
    return {"name": change.name, "values": [change.was, change.now]}


def _difference(each: Difference) -> Document:
    what = {"path": each.path, "section": each.section, "tensor": each.is_tensor, "values": [each.first, each.second]}
    return {**what, "distance": None if each.distance is None else dataclasses.asdict(each.distance)}
