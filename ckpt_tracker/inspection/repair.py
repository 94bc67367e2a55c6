"""Repair: what a verify has found is put right, as far as it can be.

First a plan, which says what would be done and what is lost; then it is applied, while no save is under way. Damaged
files go to quarantine, and nothing is deleted but what a gc deletes. A checkpoint whose manifest is damaged is gone,
and its version is not given again. One that lost an object stays: the sections that don't need it load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ckpt_tracker.disk.formats import COMPACTED, read_document, versions
from ckpt_tracker.disk.plain_files import kind_of_file
from ckpt_tracker.errors import CheckpointGone, Damaged, FormatTooNew
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files import run_files
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.files.object_folder import ObjectFolder
from ckpt_tracker.inspection import event_audit, quarantine
from ckpt_tracker.records import Finding, VerifyReport

if TYPE_CHECKING:
    from ckpt_tracker.index.database import Index

Deed = Literal["quarantine", "note", "rewrite", "rebuild"]
_DEEDS: dict[str, Deed] = {
    "missing manifest": "note",
    "missing object": "note",
    "events": "note",
    "run": "rewrite",
    "store": "rewrite",
    "index": "rebuild",
}
_COSTLY = ("manifest", "missing manifest", "object", "missing object")


@dataclass(frozen=True)
class Step:
    """One thing that a repair does."""

    deed: Deed
    """`quarantine`: move it there; `note`: record that it is lost; `rewrite`, `rebuild`: make it anew."""
    finding: Finding

    @property
    def path(self) -> Path:
        """What it is done to."""
        return self.finding.path


@dataclass(frozen=True)
class Loss:
    """A checkpoint that is not what it was."""

    ref: str
    loads: tuple[str, ...]
    """The sections that still load; none where its manifest is lost."""


@dataclass(frozen=True)
class RepairPlan:
    """What is damaged, and what a repair would do. Nothing is changed until it is applied."""

    report: VerifyReport

    @property
    def steps(self) -> tuple[Step, ...]:
        """In the order in which they are done; one for each file."""
        found: dict[Path, Finding] = {}
        for each in self._mendable():
            found.setdefault(each.path, each)
        return tuple(Step(_DEEDS.get(each.kind, "quarantine"), each) for each in found.values())

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The checkpoints that lost something, also by what earlier repairs have found."""
        found: dict[str, tuple[str, ...]] = {}
        for each in (*self.report.findings, *self.report.lost):
            if each.kind in _COSTLY:
                found[each.ref] = each.loads
        return tuple(Loss(ref, loads) for ref, loads in found.items())

    @property
    def newer(self) -> tuple[Finding, ...]:
        """What a later version of ckpt_tracker wrote: as long as there is some nothing is repaired."""
        return tuple(each for each in self.report.findings if each.kind == "newer")

    def _mendable(self) -> Iterator[Finding]:
        # what is in the way of events first; objects last: what needs them is settled then
        order = {"file": 0, "object": 2, "missing object": 2}
        mendable = (each for each in self.report.findings if each.kind != "newer")
        yield from sorted(mendable, key=lambda each: order.get(each.kind, 1))


def apply(plan: RepairPlan, layout: Layout, objects: ObjectFolder, index: Index) -> None:
    """Does what the plan says, where it is still so. To be called while the store's lock is held alone.

    Raises FormatTooNew, and changes nothing, where a later version has written to the store.
    """
    if plan.newer:
        raise FormatTooNew(f"nothing is repaired: {plan.newer[0].problem}")
    mender = _Mender(layout, objects)
    for step in plan.steps:
        mender.do(step.finding)
    for run in dict.fromkeys(each.ref.partition("@")[0] for each in plan.report.findings if each.kind == "events"):
        mender.excuse_events(run, plan.report.findings)
    if any(step.deed == "rebuild" for step in plan.steps):
        index.rebuild()


def clear_locks(plan: RepairPlan, layout: Layout) -> None:
    """Quarantines what lies in the place of a lock: nobody can take it, so this can't wait for one."""
    for step in plan.steps:
        if step.path.parent == layout.locks and kind_of_file(step.path) not in (None, "a file"):
            quarantine.move(layout, step.path)


def plan_store_file(layout: Layout) -> RepairPlan | None:
    """What there is to do before the store can be opened at all; None where `store.json` is not damaged."""
    try:
        read_document(layout.store_file, newest=COMPACTED)
    except Damaged as error:
        return RepairPlan(VerifyReport(0, 0, 0, (Finding("", layout.store_file, str(error), "store"),)))
    except FileNotFoundError:
        pass
    return None


def apply_to_store_file(layout: Layout) -> None:
    """Quarantines a damaged `store.json`; opening the store makes it anew."""
    quarantine.move(layout, layout.store_file)


class _Mender:
    def __init__(self, layout: Layout, objects: ObjectFolder) -> None:
        self._layout = layout
        self._objects = objects

    def do(self, finding: Finding) -> None:
        match finding.kind:
            case "manifest":
                self._manifest(finding)
            case "missing manifest":
                if kind_of_file(finding.path) is None:
                    self._tell_removed(finding, reason="missing")
            case "object" | "missing object":
                self._object(finding.path)
            case "run":
                self._run_file(finding)
            case "file":
                if kind_of_file(finding.path) is not None:
                    quarantine.move(self._layout, finding.path)

    def excuse_events(self, run: str, findings: Iterable[Finding]) -> None:
        """Records which lines are damaged, and how long the file once was: no news from then on."""
        log = run_files.events(self._layout, run)
        audit = event_audit.audit(log)
        lines = [line.hash for line in audit.damaged if line.hash]
        longest = max((found.events for found in self._manifests(run)), default=0)
        log.append("repair", lines=lines, nbytes=max(longest, audit.least, log.nbytes))

    def _manifest(self, finding: Finding) -> None:
        try:
            found = manifests.read(finding.path.parent, int(finding.path.stem), run=_run(finding))
            if manifests.digest(found.sections, found.tensors) == found.record.digest:
                return
        except CheckpointGone:
            return
        except Damaged:
            pass
        if finding.path.parent.name == "manifests":
            # first of all the version must never be given again
            self._tell_removed(finding, reason="damaged")
        quarantine.move(self._layout, finding.path)

    def _tell_removed(self, finding: Finding, *, reason: str) -> None:
        log = run_files.events(self._layout, _run(finding))
        log.append("evict", versions=[int(finding.path.stem)], reason=reason)

    def _object(self, path: Path) -> None:
        if kind_of_file(path) is None:
            quarantine.note_missing(self._layout, path.name)
            return
        try:
            self._objects.check(path.name)
        except Damaged:
            quarantine.move(self._layout, path)

    def _run_file(self, finding: Finding) -> None:
        run = _run(finding)
        try:
            run_files.read_start(self._layout, run)
        except Damaged:
            quarantine.move(self._layout, finding.path)
        except FileNotFoundError:
            pass
        else:
            return
        created = min((found.record.created_at for found in self._manifests(run)), default=None)
        run_files.rewrite(self._layout, run, created_at=created)

    def _manifests(self, run: str) -> Iterator[manifests.Manifest]:
        folder = self._layout.manifests(run)
        for version in versions(folder):
            try:
                yield manifests.read(folder, version, run=run)
            except (CheckpointGone, Damaged):
                continue


def _run(finding: Finding) -> str:
    return finding.ref.partition("@")[0]
