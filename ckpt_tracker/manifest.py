"""Manifests: the files that make checkpoints exist.

A manifest is sealed JSON (`jsonfile`) named by its checkpoint's version. It holds the checkpoint's sections as trees,
and a table of their tensors. It is written once, by a rename that is the commit of a save, and never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from blake3 import blake3

from ckpt_tracker.errors import CheckpointGone, Damaged
from ckpt_tracker.filesystem import write_durably
from ckpt_tracker.formats import FORMAT, OBJECT_NAME, file_name, open_document
from ckpt_tracker.jsonfile import dump, dump_sorted, seal
from ckpt_tracker.records import CheckpointRecord, Parent, Piece, TensorEntry, TensorSpec
from ckpt_tracker.tensors import itemsize_fits
from ckpt_tracker.tree import decode, encode, replace_tensors


@dataclass(frozen=True)
class Manifest:
    """A checkpoint: what the index knows of it, its sections' trees, its tensors."""

    record: CheckpointRecord
    sections: Mapping[str, Any]
    tensors: tuple[TensorEntry, ...]

    @property
    def objects(self) -> frozenset[str]:
        """Every object it needs."""
        return frozenset(piece.object for entry in self.tensors for piece in entry.pieces)

    def tensor_names(self) -> dict[int, str]:
        """The path of each tensor in the tree (`model.fc.weight`), by its index in the table."""
        names: dict[int, str] = {}
        try:
            _name_tensors(self.sections, "", names)
        except (LookupError, TypeError, ValueError) as error:
            raise Damaged(f"{self.record.ref} is damaged: its tree is not one that was saved: {error!r}") from error
        return names


def digest(sections: Mapping[str, Any], tensors: Sequence[TensorEntry]) -> str:
    """One hash over every tensor and leaf: equal exactly when two states are bit-equal.

    It is over logical tensors (type, shape, hash of the bytes), not over how the bytes are cut into objects.
    """

    def logical(index: int) -> Any:
        spec = tensors[index].spec
        return {"$tensor": [spec.dtype, spec.shape, tensors[index].hash]}

    return blake3(dump_sorted(replace_tensors(dict(sections), logical))).hexdigest()


def publish(manifest: Manifest, folder: Path, *, tmp: Path) -> None:
    """Writes the manifest: the commit of a save. The checkpoint exists, durably, when this returns."""
    target = folder / file_name(manifest.record.version)
    write_durably(target, seal(_to_json(manifest)), tmp=tmp)


def read(folder: Path, version: int, *, run: str) -> Manifest:
    """Reads and checks a manifest.

    Raises CheckpointGone where there is none, Damaged for a damaged one, FormatTooNew for a later format.
    """
    path = folder / file_name(version)
    name = f"manifest {path} of {run}@v{version}"
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointGone(f"{run}@v{version} has no manifest any more: it was deleted") from error
    document = open_document(data, name=name)
    try:
        manifest = _from_json(document)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Damaged(f"{name} is damaged: {error!r}") from error
    if (manifest.record.run, manifest.record.version) != (run, version):
        raise Damaged(f"{name} is damaged: it is the manifest of {manifest.record.ref}")
    return manifest


def _to_json(manifest: Manifest) -> dict[str, Any]:
    record = manifest.record
    return {
        "format": FORMAT,
        "kind": record.kind,
        "run": record.run,
        "version": record.version,
        "epoch": record.epoch,
        "step": record.step,
        "created_at": record.created_at.isoformat(),
        "reason": record.reason,
        "parents": [_parent_to_json(each) for each in record.parents],
        "metrics": encode(dict(record.metrics)).skeleton,
        "digest": record.digest,
        "nbytes": record.nbytes,
        "stored_bytes": record.stored_bytes,
        "stall_seconds": record.stall_seconds,
        "write_seconds": record.write_seconds,
        "context": dict(record.context),
        "sections": dict(manifest.sections),
        "tensors": [_entry_to_json(each) for each in manifest.tensors],
    }


def _from_json(document: dict[str, Any]) -> Manifest:
    sections = document["sections"]
    record = CheckpointRecord(
        run=document["run"],
        version=document["version"],
        epoch=document["epoch"],
        step=document["step"],
        metrics=decode(document["metrics"], lambda index: None),
        created_at=datetime.fromisoformat(document["created_at"]),
        digest=document["digest"],
        nbytes=document["nbytes"],
        stored_bytes=document["stored_bytes"],
        sections=tuple(sections),
        kind=document["kind"],
        reason=document["reason"],
        parents=tuple(Parent(each["ref"], each["digest"], each.get("overrides", {})) for each in document["parents"]),
        stall_seconds=document["stall_seconds"],
        write_seconds=document["write_seconds"],
        context=document.get("context", {}),
    )
    return Manifest(record, sections, tuple(_entry_from_json(each) for each in document["tensors"]))


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
        tuple(_natural(each) for each in document["shape"]),
        _natural(document["nbytes"]),
        tuple(document.get("flags", ())),
    )
    pieces = tuple(_piece_from_json(each) for each in document["pieces"])
    if not itemsize_fits(spec) or sum(piece.nbytes for piece in pieces) != spec.nbytes:
        raise ValueError(f"{spec.dtype} of shape {list(spec.shape)} does not take {spec.nbytes} bytes")
    return TensorEntry(spec, _hash(document["hash"]), pieces)


def _piece_from_json(document: Iterable[Any]) -> Piece:
    name, offset, nbytes = document
    return Piece(_hash(name), _natural(offset), _natural(nbytes))


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a number of 0 or more, found {value!r}")
    return value


def _hash(value: object) -> str:
    if not isinstance(value, str) or not OBJECT_NAME.fullmatch(value):
        raise ValueError(f"expected a hash, found {value!r}")
    return value


def _name_tensors(form: Any, path: str, names: dict[int, str]) -> None:
    if isinstance(form, list):
        for index, each in enumerate(form):
            _name_tensors(each, f"{path}[{index}]", names)
    elif isinstance(form, dict):
        for key, body in form.items():
            if key == "$tensor":
                names.setdefault(body, path)
            elif key in _PAIRS:
                for name, each in body if _PAIRS[key] is None else body[_PAIRS[key]]:
                    _name_tensors(each, f"{path}[{dump(name).decode()}]", names)
            elif key[:1] == "$":
                _name_tensors(body[_BODIES[key]] if key in _BODIES else body, path, names)
            else:
                _name_tensors(body, f"{path}.{key}" if path else key, names)


# where in the body of a form its members are
_BODIES = {"$odict": 0, "$deque": 1, "$namedtuple": 1, "$dataclass": 1, "$dictclass": 1}
_PAIRS = {"$dict": None, "$counter": None, "$defaultdict": 1}
