"""Reading a checkpoint's state back from its manifest and objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckpt_tracker.errors import (
    CheckpointGone,
    CheckpointNotFound,
    CkptTrackerError,
    Damaged,
    MissingExtra,
    StateMismatch,
)
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.files.object_folder import ObjectFolder
from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.selection import nearest
from ckpt_tracker.state.tensors import kind_named
from ckpt_tracker.state.tree import decode


def load_state(
    layout: Layout, objects: ObjectFolder, record: CheckpointRecord, *, section: str | None, as_numpy: bool
) -> Any:
    """The whole tree, or that of one section, with every tensor checked against its hash; tied ones stay tied.

    Of a section nothing is needed but what is in it. Raises Damaged, CheckpointGone, CheckpointNotFound for an
    unknown section.
    """
    found = manifests.read(layout.manifests(record.run), record.version, run=record.run)
    tree = dict(found.sections)
    wanted = record.sections if section is None else (section,)
    if found.record.full_digest and any(name in record.sections and name not in tree for name in wanted):
        raise CheckpointGone(
            f"{record.ref} holds its weights only by now, in {', '.join(tree)}: retention gave up the rest; "
            "load('model') gives them"
        )
    if section is not None and section not in tree:
        raise CheckpointNotFound(f"{record.ref} has no section {section!r}{nearest(section, tree)}")
    loaded: dict[int, Any] = {}

    def tensor(index: int) -> Any:
        if index not in loaded:
            loaded[index] = _tensor(found, index, objects, as_numpy=as_numpy)
        return loaded[index]

    try:
        return decode(tree if section is None else tree[section], tensor)
    except (Damaged, MissingExtra, StateMismatch) as error:
        if record.ref in str(error):
            raise
        raise type(error)(f"{record.ref}: {error}") from error


@dataclass(frozen=True)
class _Name:
    """The path of a tensor, for an error: to look up all of them takes longer than to load a small checkpoint."""

    found: manifests.Manifest
    index: int

    def __str__(self) -> str:
        return self.found.name_of(self.index)


def _tensor(found: manifests.Manifest, index: int, objects: ObjectFolder, *, as_numpy: bool) -> Any:
    entry = found.tensors[index]
    kind = kind_named("numpy" if as_numpy else entry.spec.kind)
    ref = found.record.ref
    data = objects.read(entry, ref=ref, name=_Name(found, index))
    try:
        return kind.build(entry.spec, data)
    except CkptTrackerError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        spec = f"{entry.spec.dtype} of shape {list(entry.spec.shape)}"
        raise Damaged(f"{ref}: tensor {found.name_of(index)} can't be a {spec}: {error}") from error
