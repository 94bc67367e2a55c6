"""Reading a checkpoint's state back from its manifest and objects."""

from __future__ import annotations

from typing import Any

from ckpt_tracker import manifest as manifests
from ckpt_tracker.errors import CheckpointNotFound
from ckpt_tracker.layout import Layout
from ckpt_tracker.objects import ObjectFolder
from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.selection import nearest
from ckpt_tracker.tensors import kind_named
from ckpt_tracker.tree import decode


def load_state(
    layout: Layout, objects: ObjectFolder, record: CheckpointRecord, *, section: str | None, as_numpy: bool
) -> Any:
    """The whole tree, or that of one section, with every tensor checked against its hash; tied ones stay tied.

    Raises Damaged, CheckpointGone, CheckpointNotFound for an unknown section.
    """
    found = manifests.read(layout.manifests(record.run), record.version, run=record.run)
    tree = dict(found.sections)
    if section is not None and section not in tree:
        raise CheckpointNotFound(f"{record.ref} has no section {section!r}{nearest(section, tree)}")
    names = found.tensor_names()
    loaded: dict[int, Any] = {}

    def tensor(index: int) -> Any:
        if index not in loaded:
            entry = found.tensors[index]
            kind = kind_named("numpy" if as_numpy else entry.spec.kind)
            data = objects.read(entry, ref=record.ref, name=names.get(index, f"number {index}"))
            loaded[index] = kind.build(entry.spec, data)
        return loaded[index]

    return decode(tree if section is None else tree[section], tensor)
