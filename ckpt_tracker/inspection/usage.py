"""What the space of a store is used for: by run, by section, by trash. What is shared counts once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ckpt_tracker.disk import formats
from ckpt_tracker.errors import CheckpointGone, CkptTrackerError
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.files.manifest import Manifest
from ckpt_tracker.files.object_folder import ObjectFolder

_log = logging.getLogger("ckpt_tracker")
Stretch = tuple[str, int, int]
"""Object, offset, bytes: what tensors share they share whole."""


@dataclass(frozen=True)
class RunUsage:
    """One run."""

    run: str
    checkpoints: int
    nbytes: int
    """Logical: of all its checkpoints together, as if each stood alone."""
    needed_bytes: int
    """On the disk: of the objects that it needs."""
    own_bytes: int
    """Of these, what no other run needs."""


@dataclass(frozen=True)
class SectionUsage:
    """One section, of all the runs together."""

    section: str
    nbytes: int
    """Logical."""
    needed_bytes: int
    """Of the tensors that are different, each counted once: in the first section that has it."""


@dataclass(frozen=True)
class Usage:
    """A store."""

    runs: tuple[RunUsage, ...]
    sections: tuple[SectionUsage, ...]
    object_bytes: int
    """Of all objects on the disk."""
    trash_bytes: int
    """Of the objects that only what is in the trash needs."""
    unneeded_bytes: int
    """Of those that nothing needs, for the next sweep to delete."""


@dataclass
class _Counts:
    checkpoints: int = 0
    nbytes: int = 0
    objects: set[str] = field(default_factory=set)


def measure(layout: Layout, objects: ObjectFolder) -> Usage:
    """Reads every manifest, and the sizes of all objects. A manifest that can't be read is left out, and named.

    Raises Damaged for an encoded object that can't be read.
    """
    counts: dict[str, _Counts] = {name: _Counts() for name in layout.run_names()}
    logical: Counter[str] = Counter()
    stretches: dict[Stretch, str] = {}
    for name, own in counts.items():
        for found in _readable(layout.manifests(name), name):
            own.checkpoints += 1
            own.nbytes += found.record.nbytes
            own.objects |= found.objects
            _count_sections(found, logical, stretches)
    for own in counts.values():
        own.objects = set(objects.with_bases(own.objects))
    sizes = {name: objects.stored_size(name) for name in objects.names()}
    users = Counter(name for own in counts.values() for name in own.objects)
    trashed = objects.with_bases(
        name for run in counts for found in _readable(layout.trash / run, run) for name in found.objects
    )
    stored = _stored_sections(stretches, objects)
    return Usage(
        tuple(_run_usage(name, own, sizes, users) for name, own in counts.items()),
        tuple(SectionUsage(name, nbytes, stored[name]) for name, nbytes in logical.most_common()),
        object_bytes=sum(sizes.values()),
        trash_bytes=sum(sizes.get(name, 0) for name in trashed if name not in users),
        unneeded_bytes=sum(size for name, size in sizes.items() if name not in users and name not in trashed),
    )


def section_sizes(found: Manifest) -> dict[str, dict[str, int]]:
    """Tensors and bytes of each section; a tensor that several share counts in the first."""
    sizes = {name: {"tensors": 0, "nbytes": 0} for name in found.sections}
    for index, section in _sections_of(found):
        sizes[section]["tensors"] += 1
        sizes[section]["nbytes"] += found.tensors[index].spec.nbytes
    return sizes


def _run_usage(name: str, own: _Counts, sizes: dict[str, int], users: Counter[str]) -> RunUsage:
    needed = {each: sizes.get(each, 0) for each in own.objects}
    alone = sum(size for each, size in needed.items() if users[each] == 1)
    return RunUsage(name, own.checkpoints, own.nbytes, sum(needed.values()), alone)


def _count_sections(found: Manifest, logical: Counter[str], stretches: dict[Stretch, str]) -> None:
    for index, section in _sections_of(found):
        entry = found.tensors[index]
        logical[section] += entry.spec.nbytes
        for piece in entry.pieces:
            stretches.setdefault((piece.object, piece.offset, piece.nbytes), section)


def _stored_sections(stretches: dict[Stretch, str], objects: ObjectFolder) -> Counter[str]:
    """Of an encoded object each tensor is taken to have its share."""
    stored: Counter[str] = Counter()
    for (name, _, nbytes), section in stretches.items():
        raw = objects.raw.size(name)
        stored[section] += nbytes if raw else round(nbytes * objects.stored_size(name) / (objects.size(name) or nbytes))
    return stored


def _sections_of(found: Manifest) -> Iterator[tuple[int, str]]:
    for index, name in found.tensor_names().items():
        yield index, name.replace("[", ".").partition(".")[0]


def _readable(folder: Path, run: str) -> Iterator[Manifest]:
    for version in formats.versions(folder):
        try:
            yield manifests.read(folder, version, run=run)
        except CheckpointGone:
            continue  # removed meanwhile
        except CkptTrackerError as error:
            _log.warning("%s@v%d is not counted: %s", run, version, error)
