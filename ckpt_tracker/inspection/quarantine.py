"""Where a repair puts what is damaged: `trash/quarantine/`, each thing under the path that it had in the store.

Nothing deletes it but a person. A damaged object is read from there, as far as its tensors have their hashes, and an
empty file stands for an object that was missing. What a manifest in quarantine names is not swept: somebody may know
how to mend it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ckpt_tracker.disk.filesystem import create, make_folder, sync, sync_folder, unused_name
from ckpt_tracker.disk.jsonfile import MOST_BYTES
from ckpt_tracker.disk.plain_files import kind_of_file, read_plain
from ckpt_tracker.errors import Damaged
from ckpt_tracker.files.layout import Layout

_NAME = re.compile(rb"[0-9a-f]{64}")


def move(layout: Layout, path: Path) -> Path:
    """Moves something of the store away, as it is and durably, and returns where it is. A symlink is not followed."""
    target = layout.quarantine / path.relative_to(layout.root)
    make_folder(target.parent)
    if kind_of_file(target) is not None:
        target = target.with_name(unused_name(target.name))
    os.replace(path, target)
    sync_folder(target.parent)
    sync_folder(path.parent)
    return target


def note_missing(layout: Layout, name: str) -> None:
    """Leaves an empty file for an object that is missing; durable when it returns."""
    target = layout.quarantine / "objects" / name[:2] / name
    make_folder(target.parent)
    if kind_of_file(target) is None:
        descriptor = create(target, b"")
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(target.parent)


def named_objects(layout: Layout) -> frozenset[str]:
    """Every hash in the manifests in quarantine, as far as they can be read at all."""
    names: set[str] = set()
    for folder in (layout.quarantine / "runs", layout.quarantine / "trash"):
        for path in folder.rglob("[0-9]*.json*"):
            try:
                names.update(name.decode() for name in _NAME.findall(read_plain(path, most=MOST_BYTES)))
            except (Damaged, FileNotFoundError):
                continue
    return frozenset(names)
