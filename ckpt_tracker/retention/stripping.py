"""Checkpoints of weights only: the manifest of one that gives up what predictions don't need.

A checkpoint is immutable; what retention strips gets another manifest under its version, by an atomic rename, with
fewer sections and the digest of those. `full_digest` remembers what it was. At every moment there is one whole
manifest; the objects that it gave up are freed later, as those of an evicted checkpoint are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckpt_tracker.errors import CkptTrackerError, Damaged
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.manifest import Manifest
from ckpt_tracker.records import WEIGHTS_SECTIONS
from ckpt_tracker.state.tree import replace_tensors

_log = logging.getLogger("ckpt_tracker")


def stripped(whole: Manifest) -> Manifest:
    """The manifest with its weights only."""
    sections, order = _weights_of(whole)
    tensors = tuple(whole.tensors[index] for index in order)
    nbytes = sum(entry.spec.nbytes for entry in tensors)
    record = replace(
        whole.record,
        sections=tuple(sections),
        digest=manifests.digest(sections, tensors),
        full_digest=whole.record.full_digest or whole.record.digest,
        nbytes=nbytes,
        stored_bytes=min(nbytes, whole.record.stored_bytes),
    )
    return replace(whole, record=record, sections=sections, tensors=tensors)


def strip_each(folder: Path, versions: Iterable[int], *, run: str) -> list[Manifest]:
    """The new manifests of those that are there and have something to give up; nothing is written yet."""
    found = []
    for version in versions:
        try:
            whole = manifests.read(folder, version, run=run)
            if whole.record.strippable:
                found.append(stripped(whole))
        except CkptTrackerError as error:
            _log.warning("%s", error)
    return found


def weights_objects(whole: Manifest) -> frozenset[str]:
    """The objects that its weights need."""
    if not whole.record.strippable:
        return whole.objects
    _, order = _weights_of(whole)
    return frozenset(piece.object for index in order for piece in whole.tensors[index].pieces)


def _weights_of(whole: Manifest) -> tuple[dict[str, Any], list[int]]:
    """The sections that are kept, with their tensors numbered anew, and which those are, in their new order."""
    places: dict[int, int] = {}

    def renumbered(index: Any) -> Any:
        if type(index) is not int or not 0 <= index < len(whole.tensors):
            raise Damaged(f"{whole.record.ref} is damaged: its tree refers to a tensor {index!r}")
        return {"$tensor": places.setdefault(index, len(places))}

    kept = {name: tree for name, tree in whole.sections.items() if name in WEIGHTS_SECTIONS}
    return replace_tensors(kept, renumbered), list(places)
