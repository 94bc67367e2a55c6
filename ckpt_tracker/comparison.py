"""What two checkpoints differ in, leaf by leaf, and how far their tensors are apart.

Which leaves differ is known from the two manifests alone. Tensors are read, memory-mapped and a stretch at a time,
only to measure a difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckpt_tracker.disk.jsonfile import dump, dump_sorted
from ckpt_tracker.errors import Damaged
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.files.manifest import Manifest
from ckpt_tracker.files.object_folder import ObjectFolder
from ckpt_tracker.records import CheckpointRecord, Piece, TensorEntry, TensorSpec
from ckpt_tracker.state.tensors import numpy_dtype
from ckpt_tracker.state.tree import leaves, replace_tensors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ckpt_tracker.encoding.source import Source
    from ckpt_tracker.state.tensors import Bytes

    Numbers = npt.NDArray[np.float64]

_STRETCH = 1 << 17
"""Elements at a time: as 64-bit numbers, with all that is computed from them, some 10 MB."""
_SHOWN = 60


@dataclass(frozen=True)
class Distance:
    """How far two tensors of one type and shape are apart. Values that are not finite count as differing only."""

    elements: int
    differing: int
    """By their bits: −0.0 is not 0.0."""
    max_absolute: float
    max_relative: float
    """Of each element's difference to the larger of the two."""
    relative_l2: float
    """The length of the difference, relative to that of the first tensor."""
    nans: tuple[int, int]
    """How many there are in the first, and in the second."""
    infs: tuple[int, int] = (0, 0)
    """Infinite ones, likewise."""


@dataclass(frozen=True)
class Difference:
    """A leaf that is not the same in both."""

    path: str
    first: str | None
    """The type and shape of a tensor, or a value; None where there is no such leaf."""
    second: str | None
    measurable: bool = False
    """Both are tensors of one type and shape."""
    distance: Distance | None = None
    is_tensor: bool = False
    """In one of them at least."""

    @property
    def section(self) -> str:
        """The section it is in."""
        return section_of(self.path)


def section_of(path: str) -> str:
    """The section that a leaf's path leads into."""
    return path.replace("[", ".").partition(".")[0]


class SavedState:
    """A checkpoint's leaves, without the bytes of its tensors."""

    def __init__(self, found: Manifest, objects: ObjectFolder) -> None:
        self.record = found.record
        self.sections = dict(found.sections)
        self.leaves: dict[str, Any] = dict(leaves(self.sections))
        self._tensors = found.tensors
        self._objects = objects

    @classmethod
    def read(cls, layout: Layout, objects: ObjectFolder, record: CheckpointRecord) -> SavedState:
        """Reads the manifest. Raises Damaged, CheckpointGone."""
        return cls(manifests.read(layout.manifests(record.run), record.version, run=record.run), objects)

    def tensor(self, path: str) -> TensorEntry | None:
        """The tensor at a path; None for another leaf."""
        leaf = self.leaves.get(path)
        return self._tensors[leaf["$tensor"]] if isinstance(leaf, dict) and "$tensor" in leaf else None

    def logical(self, form: Any) -> bytes:
        """Equal for what is bit-equal: a part of the tree, as the digest sees it."""
        return dump_sorted(replace_tensors(form, lambda index: _logical(self._tensors[index])))

    def describe(self, path: str) -> str | None:
        """A leaf in words."""
        if path not in self.leaves:
            return None
        entry = self.tensor(path)
        text = dump(self.leaves[path]).decode() if entry is None else f"{entry.spec.dtype} {list(entry.spec.shape)}"
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"

    def stretches(self, entry: TensorEntry, *, path: str) -> Iterator[Bytes]:
        """A tensor's bytes, some at a time; not checked against its hash where they are mapped.

        Each stretch is a mapping of its own: what has been looked at takes no memory any more.
        """
        size = max(1, entry.spec.nbytes // max(1, math.prod(entry.spec.shape)))
        bounds = [(start, start + _STRETCH * size) for start in range(0, entry.spec.nbytes, _STRETCH * size)]
        if all((self._objects.raw.size(each.object) or 0) >= each.offset + each.nbytes for each in entry.pieces):
            yield from (self._mapped(entry, *each) for each in bounds)
            return
        yield from self._read(entry, bounds, path=path)

    def _read(self, entry: TensorEntry, bounds: Iterable[tuple[int, int]], *, path: str) -> Iterator[Bytes]:
        """Of objects that are encoded, or that a repair has moved. Raises Damaged, CheckpointGone."""
        import numpy as np

        self._objects.check_sizes(entry, ref=self.record.ref, name=path)
        with ExitStack() as stack:
            sources = [(self._objects.open(piece.object), piece) for piece in entry.pieces]
            for source, _ in sources:
                if source is not None:
                    stack.callback(source.close)
            for start, end in bounds:
                stretch = np.empty(min(end, entry.spec.nbytes) - start, dtype=np.uint8)
                try:
                    _fill(stretch, sources, start)
                except Damaged as error:
                    raise Damaged(f"{self.record.ref}: tensor {path} is damaged: {error}") from error
                yield stretch

    def _mapped(self, entry: TensorEntry, start: int, end: int) -> Bytes:
        import numpy as np

        parts = []
        for piece in entry.pieces:
            first, last = max(0, start), min(piece.nbytes, end)
            if first < last:
                file, offset, shape = self._objects.path(piece.object), piece.offset + first, (last - first,)
                parts.append(np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=shape))
            start, end = start - piece.nbytes, end - piece.nbytes
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _fill(target: Bytes, sources: Iterable[tuple[Source | None, Piece]], start: int) -> None:
    """Fills `target` with a tensor's bytes from `start` on, out of its pieces."""
    end = start + len(target)
    before = 0
    for source, piece in sources:
        first, last = max(start, before), min(end, before + piece.nbytes)
        if first < last and source is not None:
            source.read_into(target[first - start : last - start], piece.offset + first - before)
        before += piece.nbytes


def differences(first: SavedState, second: SavedState) -> tuple[Difference, ...]:
    """The leaves that differ, in the order of the first one's tree; none exactly when the digests are equal."""
    paths = [*first.leaves, *(path for path in second.leaves if path not in first.leaves)]
    found = [_difference(path, first, second) for path in paths if not _same(path, first, second)]
    if not found and first.record.digest != second.record.digest:
        found = [
            Difference(name, "this tree", "a tree of other containers")
            for name, form in first.sections.items()
            if first.logical(form) != second.logical(second.sections.get(name))
        ]
    return tuple(found)


def measured(difference: Difference, first: SavedState, second: SavedState) -> Difference:
    """The same with its distance, where there is one."""
    one, other = first.tensor(difference.path), second.tensor(difference.path)
    if not difference.measurable or one is None or other is None:
        return difference
    pairs = zip(first.stretches(one, path=difference.path), second.stretches(other, path=difference.path), strict=True)
    return replace(difference, distance=_distance(one.spec, pairs))


def _same(path: str, first: SavedState, second: SavedState) -> bool:
    if path not in first.leaves or path not in second.leaves:
        return False
    return first.logical(first.leaves[path]) == second.logical(second.leaves[path])


def _difference(path: str, first: SavedState, second: SavedState) -> Difference:
    one, other = first.tensor(path), second.tensor(path)
    alike = False
    if one is not None and other is not None:
        alike = (one.spec.dtype, one.spec.shape) == (other.spec.dtype, other.spec.shape)
    is_tensor = one is not None or other is not None
    return Difference(path, first.describe(path), second.describe(path), measurable=alike, is_tensor=is_tensor)


def _logical(entry: TensorEntry) -> Any:
    return {"$tensor": [entry.spec.dtype, entry.spec.shape, entry.hash]}


def _distance(spec: TensorSpec, pairs: Iterator[tuple[Bytes, Bytes]]) -> Distance:
    import numpy as np

    elements = math.prod(spec.shape)
    size = spec.nbytes // max(1, elements)
    differing, nans, infs = 0, [0, 0], [0, 0]
    absolute, relative, gap, length = 0.0, 0.0, 0.0, 0.0
    for one, other in pairs:
        differing += int((one.reshape(-1, size) != other.reshape(-1, size)).any(axis=1).sum())
        first, second = _numbers(spec, one), _numbers(spec, other)
        if first is None or second is None:
            absolute = relative = gap = math.nan
            continue
        both = (first, second)
        nans = [count + int(np.isnan(each).sum()) for count, each in zip(nans, both, strict=True)]
        infs = [count + int(np.isinf(each).sum()) for count, each in zip(infs, both, strict=True)]
        finite = np.isfinite(first) & np.isfinite(second)
        first, second = first[finite], second[finite]
        apart = np.abs(first - second)
        larger = np.maximum(np.abs(first), np.abs(second))
        absolute = max(absolute, float(apart.max(initial=0.0)))
        ratios = np.divide(apart, larger, out=np.zeros_like(apart), where=larger > 0)
        relative = max(relative, float(ratios.max(initial=0.0)))
        gap += float(apart @ apart)
        length += float(first @ first)
    l2 = math.sqrt(gap / length) if length else math.sqrt(gap)
    return Distance(elements, differing, absolute, relative, l2, (nans[0], nans[1]), (infs[0], infs[1]))


def _numbers(spec: TensorSpec, data: Bytes) -> Numbers | None:
    """The elements as numbers, both parts of a complex one; None for a type that has none here."""
    import numpy as np

    if spec.dtype == "bfloat16":
        wide = data.view("<u2").astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64)
    if spec.dtype == "complex32":
        return data.view(np.float16).astype(np.float64)
    if spec.dtype.startswith("float8"):
        return None
    dtype = numpy_dtype(spec.dtype)
    if dtype.kind == "c":
        part = np.dtype(dtype.char.lower()).newbyteorder(dtype.byteorder)
        return data.view(part).astype(np.float64)
    return data.view(dtype).astype(np.float64) if dtype.kind in "biuf" else None
