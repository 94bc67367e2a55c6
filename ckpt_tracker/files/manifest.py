"""Manifests: the files that make checkpoints exist.

A manifest is sealed JSON (`jsonfile`) named by its checkpoint's version. It holds the checkpoint's sections as trees,
and a table of their tensors. It is written once, by a rename that is the commit of a save, and never changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from blake3 import blake3

from ckpt_tracker.disk import fields
from ckpt_tracker.disk.filesystem import write_durably
from ckpt_tracker.disk.formats import FORMAT, file_name, open_document
from ckpt_tracker.disk.jsonfile import MOST_BYTES, dump_sorted, seal
from ckpt_tracker.disk.plain_files import read_plain
from ckpt_tracker.errors import CheckpointGone, Damaged
from ckpt_tracker.records import CheckpointRecord, Parent, Piece, TensorEntry, TensorSpec
from ckpt_tracker.state.tensors import itemsize_fits
from ckpt_tracker.state.tree import decode, encode, replace_tensors, tensor_paths


@dataclass(frozen=True)
class Manifest:
    """A checkpoint: what the index knows of it, its sections' trees, its tensors."""

    record: CheckpointRecord
    sections: Mapping[str, Any]
    tensors: tuple[TensorEntry, ...]
    events: int = 0
    """Bytes that the run's events had when it was written: they only grow."""

    @property
    def objects(self) -> frozenset[str]:
        """Every object it needs."""
        return frozenset(piece.object for entry in self.tensors for piece in entry.pieces)

    def tensor_names(self) -> dict[int, str]:
        """The path of each tensor in the tree (`model.fc.weight`), by its index in the table; long ones cut short."""
        names: dict[int, str] = {}
        try:
            for index, path in tensor_paths(dict(self.sections)):
                names.setdefault(index, path)
        except (LookupError, TypeError, ValueError) as error:
            raise Damaged(f"{self.record.ref} is damaged: its tree is not one that was saved: {error!r}") from error
        return names

    def name_of(self, index: int) -> str:
        """The path of one tensor, for an error to name it."""
        try:
            return self.tensor_names().get(index, f"number {index}")
        except Damaged:
            return f"number {index}"


def digest(sections: Mapping[str, Any], tensors: Sequence[TensorEntry]) -> str:
    """One hash over every tensor and leaf: equal exactly when two states are bit-equal.

    It is over logical tensors (type, shape, hash of the bytes), not over how the bytes are cut into objects.
    """

    def logical(index: Any) -> Any:
        if type(index) is not int or not 0 <= index < len(tensors):
            raise Damaged(f"the tree refers to a tensor {index!r}, and there are {len(tensors)}")
        spec = tensors[index].spec
        return {"$tensor": [spec.dtype, spec.shape, tensors[index].hash]}

    return blake3(dump_sorted(replace_tensors(dict(sections), logical))).hexdigest()


def publish(manifest: Manifest, folder: Path, *, tmp: Path) -> None:
    """Writes the manifest: the commit of a save. The checkpoint exists, durably, when this returns."""
    write_durably(folder / file_name(manifest.record.version), sealed(manifest), tmp=tmp)


def sealed(manifest: Manifest) -> bytes:
    """The bytes of its file."""
    return seal(_to_json(manifest))


def read(folder: Path, version: int, *, run: str) -> Manifest:
    """Reads and checks a manifest.

    Raises CheckpointGone where there is none, Damaged for a damaged one, FormatTooNew for a later format.
    """
    return _parsed(_from_json, folder, version, run)


def read_record(folder: Path, version: int, *, run: str) -> CheckpointRecord:
    """The same for what the index knows of it: the table of its tensors is not looked at."""
    return _parsed(_record_from_json, folder, version, run)


def read_objects(folder: Path, version: int, *, run: str) -> frozenset[str]:
    """The same for the objects that it needs: what else its tensors are is not looked at."""
    return _parsed(_objects_from_json, folder, version, run)


_Content = TypeVar("_Content")


def _parsed(parse: Callable[[dict[str, Any]], _Content], folder: Path, version: int, run: str) -> _Content:
    path = folder / file_name(version)
    name = f"manifest {path} of {run}@v{version}"
    try:
        data = read_plain(path, most=MOST_BYTES)
    except FileNotFoundError as error:
        raise CheckpointGone(f"{run}@v{version} has no manifest any more: it was deleted") from error
    document = open_document(data, name=name)
    try:
        content = parse(document)
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise Damaged(f"{name} is damaged: {error!r}") from error
    if (document["run"], document["version"]) != (run, version):
        raise Damaged(f"{name} is damaged: it is the manifest of {document['run']}@v{document['version']}")
    return content


def _to_json(manifest: Manifest) -> dict[str, Any]:
    record = manifest.record
    document = {
        "format": FORMAT,
        "kind": record.kind,
        "run": record.run,
        "version": record.version,
        "epoch": record.epoch,
        "step": record.step,
        "created_at": record.created_at.isoformat(),
        "reason": record.reason,
        "parents": [_parent_to_json(each) for each in record.parents],
        "metrics": encode(record.own_metrics).skeleton,
        "digest": record.digest,
        "nbytes": record.nbytes,
        "stored_bytes": record.stored_bytes,
        "stall_seconds": record.stall_seconds,
        "write_seconds": record.write_seconds,
        "context": dict(record.context),
        "events": manifest.events,
        "sections": dict(manifest.sections),
        "tensors": [_entry_to_json(each) for each in manifest.tensors],
    }
    later = {"full_digest": record.full_digest, "nonfinite": dict(record.nonfinite)}
    return {**document, **{name: value for name, value in later.items() if value}}


def _from_json(document: dict[str, Any]) -> Manifest:
    record = _record_from_json(document)
    tensors = tuple(map(_entry_from_json, fields.listing(document["tensors"])))
    if record.nbytes != sum(entry.spec.nbytes for entry in tensors):
        raise ValueError(f"its tensors do not have {record.nbytes} bytes together")
    return Manifest(record, document["sections"], tensors, fields.natural(document.get("events", 0)))


def _record_from_json(document: dict[str, Any]) -> CheckpointRecord:
    return CheckpointRecord(
        run=fields.name(document["run"]),
        version=fields.version(document["version"]),
        epoch=fields.optional_natural(document["epoch"]),
        step=fields.optional_natural(document["step"]),
        metrics=_metrics(document["metrics"]),
        created_at=fields.moment(document["created_at"]),
        digest=fields.hash_name(document["digest"]),
        nbytes=fields.natural(document["nbytes"]),
        stored_bytes=fields.natural(document["stored_bytes"]),
        sections=tuple(map(fields.name, fields.mapping(document["sections"]))),
        kind=fields.name(document["kind"]),
        reason=fields.optional_text(document["reason"]),
        parents=tuple(map(_parent_from_json, fields.listing(document["parents"]))),
        stall_seconds=fields.seconds(document["stall_seconds"]),
        write_seconds=fields.seconds(document["write_seconds"]),
        context=fields.mapping(document.get("context", {})),
        full_digest=fields.hash_name(document["full_digest"]) if "full_digest" in document else None,
        nonfinite=_nonfinite(document.get("nonfinite", {})),
    )


def _objects_from_json(document: dict[str, Any]) -> frozenset[str]:
    entries = map(fields.mapping, fields.listing(document["tensors"]))
    # what shares an object shares its name in memory too: a sweep holds the names of all manifests
    return frozenset(
        sys.intern(fields.hash_name(piece[0])) for entry in entries for piece in fields.listing(entry["pieces"])
    )


def _metrics(skeleton: object) -> dict[str, float]:
    metrics = fields.mapping(skeleton)
    if not {*map(type, metrics.values())} <= {float} or "$" in "".join(metrics):
        metrics = fields.mapping(decode(skeleton, lambda index: None))
        for value in metrics.values():
            fields.metric(value)
    for name in metrics:
        fields.name(name)
    return metrics


def _nonfinite(found: object) -> dict[str, str]:
    for path, kind in fields.mapping(found).items():
        fields.name(path)
        if kind not in ("nan", "inf"):
            raise ValueError(f"weights hold nan or inf, and not {kind!r}")
    return fields.mapping(found)


def _parent_from_json(document: dict[str, Any]) -> Parent:
    overrides = fields.mapping(document.get("overrides", {}))
    return Parent(fields.name(document["ref"]), fields.hash_name(document["digest"]), overrides)


def _parent_to_json(parent: Parent) -> dict[str, Any]:
    document: dict[str, Any] = {"ref": parent.ref, "digest": parent.digest}
    return {**document, "overrides": dict(parent.overrides)} if parent.overrides else document


def _entry_to_json(entry: TensorEntry) -> dict[str, Any]:
    spec = entry.spec
    document: dict[str, Any] = {
        "kind": spec.kind,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "nbytes": spec.nbytes,
        "hash": entry.hash,
        "pieces": [[piece.object, piece.offset, piece.nbytes] for piece in entry.pieces],
    }
    if spec.flags:
        document["flags"] = list(spec.flags)
    return document


def _entry_from_json(document: dict[str, Any]) -> TensorEntry:
    spec = TensorSpec(
        document["kind"],
        document["dtype"],
        tuple(map(fields.natural, fields.listing(document["shape"]))),
        fields.natural(document["nbytes"]),
        tuple(map(fields.name, document.get("flags", ()))),
    )
    if spec.kind not in ("torch", "numpy"):
        raise ValueError(f"expected a tensor of torch or numpy, found {spec.kind!r}")
    pieces = tuple(map(_piece_from_json, fields.listing(document["pieces"])))
    if not itemsize_fits(spec) or sum(piece.nbytes for piece in pieces) != spec.nbytes:
        shape = f"[{', '.join(map(str, spec.shape[:8]))}{', …' if len(spec.shape) > 8 else ''}]"
        raise ValueError(f"{spec.dtype} of shape {shape} does not take {spec.nbytes} bytes")
    if len(pieces) > 1:
        _check_apart(pieces)
    return TensorEntry(spec, fields.hash_name(document["hash"]), pieces)


def _piece_from_json(document: Iterable[Any]) -> Piece:
    name, offset, nbytes = document
    piece = Piece(fields.hash_name(name), fields.natural(offset), fields.natural(nbytes))
    if not piece.nbytes or piece.offset + piece.nbytes >= 2**63:
        raise ValueError(f"a piece of {nbytes} bytes at {offset} can't be")
    return piece


def _check_apart(pieces: Sequence[Piece]) -> None:
    """A tensor whose pieces overlap would be larger than all that is stored of it."""
    ordered = sorted(pieces, key=lambda piece: (piece.object, piece.offset))
    for one, other in pairwise(ordered):
        if one.object == other.object and one.offset + one.nbytes > other.offset:
            raise ValueError(f"two pieces of a tensor overlap in object {one.object}")
