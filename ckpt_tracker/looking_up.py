"""Which version a reference means, and what is said where there is none."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ckpt_tracker.errors import CheckpointNotFound
from ckpt_tracker.selection import Reference, nearest

if TYPE_CHECKING:
    from ckpt_tracker.store import Store


def version(store: Store, wanted: Reference) -> int | None:
    """The version, as far as the index or the run's tags tell."""
    if wanted.by == "version":
        return wanted.number
    if wanted.by == "tag":
        return store.run_record(wanted.run).tags.get(wanted.tag or "")
    if wanted.by == "last":
        return store.index.last(wanted.run)
    if wanted.by == "epoch":
        return store.index.at(wanted.run, epoch=wanted.number)
    return store.index.at(wanted.run, step=wanted.number)


def not_found(store: Store, reference: str, wanted: Reference) -> CheckpointNotFound:
    """The error, naming the nearest. Raises Damaged, FormatTooNew where that is why the index does not have it."""
    from ckpt_tracker.files import manifest

    if wanted.by == "version" and wanted.number:
        with contextlib.suppress(CheckpointNotFound):
            manifest.read(store.layout.manifests(wanted.run), wanted.number, run=wanted.run)
    records = store.index.checkpoints(wanted.run)
    if not records:
        return CheckpointNotFound(f"{reference!r} matches nothing: run {wanted.run!r} has no checkpoints yet")
    known = [f"v{each.version}" for each in records]
    if wanted.by in ("epoch", "step"):
        numbers = sorted({getattr(each, wanted.by) for each in records} - {None})
        known = [f"{wanted.by}:{number}" for number in numbers]
    elif wanted.by == "tag":
        known = ["last", "best", *store.run_record(wanted.run).tags, *known]
    text = reference.partition("@")[2]
    return CheckpointNotFound(f"{reference!r} matches no checkpoint{nearest(text, known)}")
