"""Exports of named tensors: `.safetensors` and `.npz`. One tensor is in memory at a time, and torch is not needed.

Both are written here rather than by the libraries that own the formats: those take all tensors at once, and need
torch or ml_dtypes for bfloat16, whose bytes only have to be copied.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from ckpt_tracker.cli.export_state import Source, StoredTensor
from ckpt_tracker.disk.jsonfile import dump
from ckpt_tracker.records import TensorSpec

# https://huggingface.co/docs/safetensors/index#format
_SAFETENSORS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
_ALIGNMENT = 8


def write_safetensors(source: Source, file: Path) -> None:
    """Writes the section's tensors, with what the checkpoint is in `__metadata__`."""
    tensors = source.tensors(lambda spec: spec.dtype in _SAFETENSORS)
    # as the library does: the widest types first, so that each tensor is aligned
    order = sorted(tensors, key=lambda name: (-_width(tensors[name].spec), name))
    header = dump(_header(source, {name: tensors[name] for name in order}))
    header += b" " * (-len(header) % _ALIGNMENT)
    with file.open("xb") as target:
        target.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            target.write(memoryview(source.read(tensors[name])))


def write_npz(source: Source, file: Path) -> None:
    """Writes the section's tensors as `numpy.savez` does."""
    import numpy as np

    from ckpt_tracker.state.tensors import numpy_dtype

    tensors = source.tensors(_numpy_holds)
    with file.open("xb") as target, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, tensor in tensors.items():
            array = source.read(tensor).view(numpy_dtype(tensor.spec.dtype)).reshape(tensor.spec.shape)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _header(source: Source, tensors: Mapping[str, StoredTensor]) -> dict[str, object]:
    checkpoint = source.checkpoint
    kinds = {each.spec.kind for each in tensors.values()}
    metadata = {
        "format": "pt" if "torch" in kinds else "np",
        "ref": checkpoint.ref,
        "digest": checkpoint.digest,
        "section": source.section,
        "metrics": dump(dict(checkpoint.metrics)).decode(),
    }
    place = {"epoch": checkpoint.epoch, "step": checkpoint.step}
    metadata |= {name: str(value) for name, value in place.items() if value is not None}
    header: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name, tensor in tensors.items():
        spec = tensor.spec
        offsets = [start, start + spec.nbytes]
        header[name] = {"dtype": _SAFETENSORS[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
        start += spec.nbytes
    return header


def _width(spec: TensorSpec) -> int:
    elements = 1
    for length in spec.shape:
        elements *= length
    return spec.nbytes // elements if elements else _ALIGNMENT


def _numpy_holds(spec: TensorSpec) -> bool:
    """The .npy format knows NumPy's own types: not bfloat16 and the like, which would come back as raw bytes."""
    import numpy as np

    try:
        return np.dtype(spec.dtype).kind in "biufcmMSU"
    except TypeError:
        return False
