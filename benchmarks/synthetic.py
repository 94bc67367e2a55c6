"""Large stores, made in seconds: manifests sealed by the code that seals a save's, but not synced one by one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ckpt_tracker import Store
from ckpt_tracker.disk.formats import file_name
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.manifest import Manifest
from ckpt_tracker.records import CheckpointRecord, Piece, TensorEntry, TensorSpec

METRICS = tuple(f"metric_{number}" for number in range(10))
_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
_NBYTES = 64


def records(count: int, *, runs: int) -> Iterator[CheckpointRecord]:
    """Checkpoints with ten metrics, in `runs` runs of equal size, each run's oldest first."""
    generator = random.Random(0)
    each = count // runs
    for number in range(count):
        run, version = number // each, number % each + 1
        yield CheckpointRecord(
            run=f"run-{run:05d}",
            version=version,
            epoch=version - 1,
            step=100 * version,
            metrics={name: generator.random() for name in METRICS},
            created_at=_START + timedelta(seconds=60 * version, milliseconds=run),
            digest="0" * 64,
            nbytes=4 * _NBYTES,
            stored_bytes=2 * _NBYTES,
            sections=("model", "optimizer"),
            reason="1 epoch",
        )


def make_store(path: Path, count: int, *, runs: int, own: int = 1) -> int:
    """A store of `count` checkpoints of two tensors an object; returns the bytes of one manifest.

    The index is left behind.
    """
    size = 0
    with Store(path) as store:
        for record in records(count, runs=runs):
            folder = store.layout.manifests(record.run)
            if record.version == 1:
                store.run(record.run, config={"lr": 0.1})
                store.record_event(record.run, "start", monitor=METRICS[0], mode="min", config={"lr": 0.1})
            size = write_manifest(folder, record, own=own)
    return size


def write_manifest(folder: Path, record: CheckpointRecord, *, own: int = 1) -> int:
    """One manifest, as a save leaves it; returns its bytes."""
    data = manifests.sealed(_manifest(record, own=own))
    (folder / file_name(record.version)).write_bytes(data)
    return len(data)


def object_names(record: CheckpointRecord, *, own: int = 1) -> list[str]:
    """The objects of a checkpoint: some of its own, and one that it shares with its run's others."""
    words = [record.run, *(f"{record.run} {record.version} {number}" for number in range(own))]
    return [hashlib.sha256(word.encode()).hexdigest() for word in words]


def _manifest(record: CheckpointRecord, *, own: int) -> Manifest:
    spec = TensorSpec("torch", "float32", (_NBYTES // 4,), _NBYTES, ("parameter", "requires_grad"))
    tensors = tuple(
        TensorEntry(spec, name, (Piece(name, _NBYTES * place, _NBYTES),))
        for name in object_names(record, own=own)
        for place in (0, 1)
    )
    moments = {str(index): {"$tensor": index} for index in range(2, len(tensors))}
    sections = {
        "model": {"weight": {"$tensor": 0}, "bias": {"$tensor": 1}},
        "optimizer": {**moments, "step": record.step},
    }
    complete = replace(record, digest=manifests.digest(sections, tensors), nbytes=_NBYTES * len(tensors))
    return Manifest(complete, sections, tensors)


def make_objects(path: Path, count: int, *, runs: int, spare: int, own: int = 1) -> int:
    """The objects of that store, and `spare` ones that nothing needs; returns how many there are."""
    names = {name for record in records(count, runs=runs) for name in object_names(record, own=own)}
    names |= {hashlib.sha256(f"spare {number}".encode()).hexdigest() for number in range(spare)}
    for fan in {name[:2] for name in names}:
        (path / "objects" / fan).mkdir(exist_ok=True)
    for name in names:
        with open(f"{path}/objects/{name[:2]}/{name}", "wb") as file:
            file.write(bytes(2 * _NBYTES))
    return len(names)
