"""Verify: are the bytes on disk those that were written? Reads only; what is wrong is named, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ckpt_tracker import manifest as manifests
from ckpt_tracker.errors import CkptTrackerError, Damaged
from ckpt_tracker.formats import file_name, versions
from ckpt_tracker.layout import Layout
from ckpt_tracker.objects import ObjectFolder
from ckpt_tracker.records import Finding, VerifyReport

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""


class _Check:
    def __init__(self, layout: Layout, objects: ObjectFolder) -> None:
        self._layout = layout
        self._objects = objects
        self.findings: list[Finding] = []
        self.users: dict[str, list[str]] = {}
        self.needed: dict[str, int] = {}
        self.checkpoints = 0
        self.bytes_read = 0

    def manifest(self, run: str, version: int) -> None:
        """Reads a manifest, and remembers the objects it needs."""
        self.checkpoints += 1
        folder = self._layout.manifests(run)
        ref = f"{run}@v{version}"
        try:
            found = manifests.read(folder, version, run=run)
            if manifests.digest(found.sections, found.tensors) != found.record.digest:
                raise Damaged(f"{ref}: its digest is not that of its tree")
        except CkptTrackerError as error:
            self.findings.append(Finding(ref, folder / file_name(version), str(error)))
            return
        for entry in found.tensors:
            for piece in entry.pieces:
                end = piece.offset + piece.nbytes
                self.needed[piece.object] = max(end, self.needed.get(piece.object, 0))
                users = self.users.setdefault(piece.object, [])
                if ref not in users[-1:]:
                    users.append(ref)

    def objects(self, *, deep: bool, progress: Progress | None) -> None:
        """Checks the objects that the manifests need, each once."""
        total = sum(self.needed.values())
        done = 0
        for name, nbytes in self.needed.items():
            problem = self._problem(name, nbytes, deep=deep)
            if problem:
                path = self._objects.path(name)
                self.findings += [Finding(ref, path, problem) for ref in self.users[name]]
            done += nbytes
            if progress is not None:
                progress(done, total)

    def _problem(self, name: str, nbytes: int, *, deep: bool) -> str | None:
        path: Path = self._objects.path(name)
        size = self._objects.size(name)
        if size is None:
            return f"object {path} is missing"
        if size < nbytes:
            return f"object {path} has {size} bytes: expected {nbytes}"
        if deep:
            try:
                self.bytes_read += self._objects.check(name)
            except (CkptTrackerError, OSError) as error:
                return str(error)
        return None

    def report(self) -> VerifyReport:
        return VerifyReport(self.checkpoints, len(self.needed), self.bytes_read, tuple(self.findings))


def verify_checkpoint(layout: Layout, objects: ObjectFolder, run: str, version: int, *, deep: bool) -> VerifyReport:
    """Verifies one checkpoint."""
    check = _Check(layout, objects)
    check.manifest(run, version)
    check.objects(deep=deep, progress=None)
    return check.report()


def verify_runs(
    layout: Layout,
    objects: ObjectFolder,
    runs: Iterable[str],
    *,
    deep: bool,
    progress: Progress | None = None,
) -> VerifyReport:
    """Verifies every checkpoint of the runs; an object that several share is read once."""
    check = _Check(layout, objects)
    for run in runs:
        for version in versions(layout.manifests(run)):
            check.manifest(run, version)
    check.objects(deep=deep, progress=progress)
    return check.report()
