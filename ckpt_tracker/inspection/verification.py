"""Verify: are the bytes on disk those that were written? Reads only; what is wrong is named, and the rest goes on.

Whether a file that is not there any more should be there is told by what others say of it: a manifest is the parent
of the next one, events name versions, and each manifest says how long the events were when it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tracker.disk.formats import file_name, versions
from ckpt_tracker.disk.plain_files import kind_of_file
from ckpt_tracker.errors import CheckpointGone, CkptTrackerError, Damaged, FormatTooNew, MissingExtra
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.files.object_folder import ObjectFolder
from ckpt_tracker.inspection import runs as run_inspection
from ckpt_tracker.records import Finding, FindingKind, VerifyReport
from ckpt_tracker.state.tree import tensor_paths

if TYPE_CHECKING:
    from ckpt_tracker.files.manifest import Manifest
    from ckpt_tracker.index.database import Index

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""


@dataclass(frozen=True)
class _Place:
    """Where a manifest is: in its run, or in the trash."""

    folder: Path
    run: str
    version: int

    @property
    def path(self) -> Path:
        return self.folder / file_name(self.version)

    @property
    def ref(self) -> str:
        trashed = "" if self.folder.name == "manifests" else " (in the trash)"
        return f"{self.run}@v{self.version}{trashed}"


class _Check:
    def __init__(self, layout: Layout, objects: ObjectFolder, *, deep: bool) -> None:
        self._layout = layout
        self._objects = objects
        self._deep = deep
        self.findings: list[Finding] = []
        self.lost: list[Finding] = []
        self.users: dict[str, list[_Place]] = {}
        self.needed: dict[str, int] = {}
        self.bases: dict[str, str] = {}
        self.checkpoints = 0
        self.bytes_read = 0

    # -- manifests -------------------------------------------------------------------------------------------

    def run(self, name: str, index: Index | None) -> None:
        """Looks at everything of a run but its objects."""
        folder = self._layout.manifests(name)
        try:
            places = [_Place(folder, name, version) for version in versions(folder)]
            trashed = self._layout.trash / name
            places += [_Place(trashed, name, version) for version in versions(trashed)]
        except Damaged as error:
            self.findings.append(Finding(name, _path_in(error, folder), str(error), "file"))
            return
        read = {place: found for place in places if (found := self.manifest(place)) is not None}
        self.findings += run_inspection.findings(self._layout, name, read.values())
        if index is not None:
            records = [found.record for place, found in read.items() if place.folder == folder]
            self.findings += run_inspection.index_findings(index, name, records)

    def manifest(self, place: _Place) -> Manifest | None:
        """Reads a manifest, and remembers the objects it needs."""
        self.checkpoints += 1
        try:
            found = manifests.read(place.folder, place.version, run=place.run)
            if manifests.digest(found.sections, found.tensors) != found.record.digest:
                raise Damaged(f"{place.ref}: its digest is not that of its tree")
        except CheckpointGone:
            return None  # evicted since it was listed; one that is missing is looked for elsewhere
        except FormatTooNew as error:
            self.findings.append(Finding(place.ref, place.path, str(error), "newer"))
            return None
        except CkptTrackerError as error:
            self.findings.append(Finding(place.ref, place.path, str(error), "manifest"))
            return None
        for entry in found.tensors:
            for piece in entry.pieces:
                end = piece.offset + piece.nbytes
                self.needed[piece.object] = max(end, self.needed.get(piece.object, 0))
                users = self.users.setdefault(piece.object, [])
                if place not in users[-1:]:
                    users.append(place)
        return replace(found, sections={}, tensors=())

    # -- objects ---------------------------------------------------------------------------------------------

    def objects(self, *, progress: Progress | None) -> None:
        """Checks the objects that the manifests need, and what those are encoded against, each once."""
        self._add_bases()
        total = sum(self.needed.values())
        done = 0
        bad: dict[str, str] = {}
        for name, nbytes in self.needed.items():
            problem = self._problem(name, nbytes)
            if problem:
                bad[name] = problem
            done += nbytes
            if progress is not None:
                progress(done, total)
        for place in dict.fromkeys(place for name in bad for place in self.users[name]):
            self._tell_loss(place, {name: problem for name, problem in bad.items() if place in self.users[name]})

    def _add_bases(self) -> None:
        for name in list(self.needed) if self._objects.encoded.exists else ():
            try:
                header = self._objects.encoded.header(name)
            except CkptTrackerError:
                continue  # it is told of when its turn comes
            if header is not None and header.base is not None:
                self.bases[name] = header.base
                self.needed[header.base] = header.nbytes
                self.users[header.base] = list(dict.fromkeys([*self.users.get(header.base, ()), *self.users[name]]))

    def _problem(self, name: str, nbytes: int) -> str | None:
        try:
            path = self._objects.file(name)
            size = self._objects.size(name)
            if size is None:
                found = kind_of_file(path)
                return f"object {path} is {found}" if found else f"object {path} is missing"
            if size < nbytes:
                return f"object {path} has {size} bytes: expected {nbytes}"
            if self._deep:
                self.bytes_read += self._objects.check(name)
        except MissingExtra:
            raise
        except CkptTrackerError as error:
            return str(error)
        return None

    def _tell_loss(self, place: _Place, bad: dict[str, str]) -> None:
        """Which sections of a checkpoint those objects leave. Of one that was evicted meanwhile nothing is told."""
        try:
            found = manifests.read(place.folder, place.version, run=place.run)
        except CkptTrackerError:
            return
        lost = {
            index: found.name_of(index)
            for index, entry in enumerate(found.tensors)
            if any({piece.object, self.bases.get(piece.object)} & bad.keys() for piece in entry.pieces)
            and not self._loads(found, index)
        }
        sections = [name for name, tree in found.sections.items() if not lost.keys() & set(_indexes(tree))]
        what = f"; lost: {', '.join(list(lost.values())[:3])}{', …' if len(lost) > 3 else ''}" if lost else ""
        for name, problem in bad.items():
            kind: FindingKind = "object" if kind_of_file(self._path(name)) else "missing object"
            finding = Finding(place.ref, self._path(name), problem + what, kind, tuple(sections))
            if not self._is_quarantined(name):
                self.findings.append(finding)
            elif lost:
                told = f"{self._path(name)} was lost before the last repair{what}"
                self.lost.append(replace(finding, problem=told))

    def _loads(self, found: Manifest, index: int) -> bool:
        entry = found.tensors[index]
        if not self._deep and not any(self._is_quarantined(piece.object) for piece in entry.pieces):
            sizes = [self._objects.usable_size(piece.object) - piece.offset - piece.nbytes for piece in entry.pieces]
            return min(sizes) >= 0
        try:
            self._objects.read(entry, ref=found.record.ref, name=index)
        except MissingExtra:
            raise
        except CkptTrackerError:
            return False
        return True

    def _is_quarantined(self, name: str) -> bool:
        """A repair has moved it away, or found it missing, and no save has written it anew."""
        paths = (self._layout.quarantine / folder / name[:2] / name for folder in ("objects", "encoded"))
        return any(map(kind_of_file, paths)) and kind_of_file(self._path(name)) is None

    def _path(self, name: str) -> Path:
        return self._objects.file(name)

    # -- the store -------------------------------------------------------------------------------------------

    def store(self, index: Index | None) -> None:
        """Looks at what is nobody's but the store's."""
        layout = self._layout
        if layout.remade:
            self.findings.append(Finding("", layout.store_file, f"{layout.store_file} was missing", "store"))
        for path in _odd_files(layout):
            message = f"{path} is {kind_of_file(path)}: nothing that is written there would be the store's"
            self.findings.append(Finding("", path, message, "file"))
        problem = index.problem() if index is not None else None
        if index is not None and problem:
            self.findings.append(Finding("", index.path, f"the index {index.path} is damaged: {problem}", "index"))

    def report(self) -> VerifyReport:
        found = tuple(self.findings)
        return VerifyReport(self.checkpoints, len(self.needed), self.bytes_read, found, tuple(self.lost))


def verify_checkpoint(layout: Layout, objects: ObjectFolder, run: str, version: int, *, deep: bool) -> VerifyReport:
    """Verifies one checkpoint."""
    check = _Check(layout, objects, deep=deep)
    place = _Place(layout.manifests(run), run, version)
    if check.manifest(place) is None and not check.findings:
        message = f"{place.ref} has no manifest any more"
        check.findings.append(Finding(place.ref, place.path, message, "missing manifest"))
    check.objects(progress=None)
    return check.report()


def verify_runs(
    layout: Layout,
    objects: ObjectFolder,
    runs: Iterable[str] | None,
    *,
    deep: bool,
    index: Index | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Verifies every checkpoint of the runs, in the trash too; an object that several share is read once.

    With None as `runs` all of the store: `store.json`, the index, what is no plain file.
    """
    check = _Check(layout, objects, deep=deep)
    if runs is None:
        check.store(index)
    for run in layout.run_names() if runs is None else runs:
        check.run(run, index)
    check.objects(progress=progress)
    return check.report()


def _indexes(tree: object) -> Iterator[int]:
    try:
        yield from (index for index, _ in tensor_paths(tree))
    except (LookupError, TypeError, ValueError):
        return


def _odd_files(layout: Layout) -> Iterator[Path]:
    """What is a symlink, a FIFO and the like where a store has folders and files that it writes to."""
    folders = [path for path in (*_entries(layout.objects), *_entries(layout.encoded)) if len(path.name) == 2]
    folders += [path for path in _entries(layout.runs) if kind_of_file(path) == "a symlink"]
    folders += _entries(layout.trash)
    yield from (path for path in folders if kind_of_file(path) not in ("a folder", "a file"))
    files = [*_entries(layout.locks), *_entries(layout.tmp)]
    files += [layout.run(name) / "lock" for name in layout.run_names()]
    yield from (path for path in files if kind_of_file(path) not in (None, "a file"))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _path_in(error: Damaged, folder: Path) -> Path:
    """Which of the folders the error is about."""
    return next((path for path in (folder.parent, folder) if kind_of_file(path) != "a folder"), folder)
