"""What a compaction would do: each object by itself or as a difference, decided by how one block of it comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_tracker.compaction.series import Holding, Series, holdings
from ckpt_tracker.disk.formats import versions
from ckpt_tracker.encoding.frames import check_installed
from ckpt_tracker.encoding.header import BLOCK, Header
from ckpt_tracker.errors import CheckpointGone, CkptTrackerError, FormatTooNew
from ckpt_tracker.files import manifest as manifests

if TYPE_CHECKING:
    from ckpt_tracker.files.layout import Layout
    from ckpt_tracker.files.object_folder import ObjectFolder
    from ckpt_tracker.state.tensors import Bytes

_log = logging.getLogger("ckpt_tracker")
Progress = Callable[[int, int], None]
"""Told (done, in all)."""
_SMALLEST = 4096
"""Bytes of an object below which a file takes as much on the disk however it is encoded."""
_DIFFERENCE_PAYS = 0.95
_ENCODING_PAYS = 0.97


@dataclass(frozen=True)
class Step:
    """One object that is to be encoded."""

    object: str
    nbytes: int
    """Raw."""
    width: int
    """Bytes of an element."""
    base: str | None
    """What it is to be the difference to."""
    stored_bytes: int
    """That it takes now."""
    estimate: int
    """Of the bytes that it will take, from one block of it."""
    replaces: str | None = None
    """It is encoded already, as the difference to that one, which no checkpoint needs any more."""


@dataclass(frozen=True)
class CompactionPlan:
    """What is to be encoded. Nothing is changed until it is applied."""

    steps: tuple[Step, ...]

    @property
    def nbytes(self) -> int:
        """That the objects take now."""
        return sum(each.stored_bytes for each in self.steps)

    @property
    def estimate(self) -> int:
        """Of the bytes that they will take."""
        return sum(each.estimate for each in self.steps)


class Planner:
    """Makes plans for one store."""

    def __init__(self, layout: Layout, objects: ObjectFolder, *, named: frozenset[str] | None) -> None:
        """`named`: every object that a manifest names; None where that is not known."""
        check_installed()
        self._layout = layout
        self._objects = objects
        headers = {name: self._header(name) for name in objects.encoded.names()} if objects.encoded.exists else {}
        self._headers = {name: header for name, header in headers.items() if header is not None}
        self._in_use = frozenset(each.base for each in self._headers.values() if each.base is not None)
        self._unneeded = frozenset() if named is None else self._in_use - named
        self._seen: set[str] = set()
        self._base_of: dict[str, str] = {}

    def plan(self, runs: Iterable[str], *, progress: Progress | None = None) -> CompactionPlan:
        """The plan for these runs. What two of them share is decided for the first one. Raises FormatTooNew."""
        wanted = [(run, version) for run in runs for version in versions(self._layout.manifests(run))]
        steps: list[Step] = []
        series, run_before = self._series(), None
        for done, (run, version) in enumerate(wanted, start=1):
            if run != run_before:
                series, run_before = self._series(), run
            steps += self._checkpoint(run, version, series)
            if progress is not None:
                progress(done, len(wanted))
        return CompactionPlan(tuple(steps))

    def _series(self) -> Series:
        return Series(bases_in_use=self._in_use - self._unneeded, base_of=self._base_of)

    def _checkpoint(self, run: str, version: int, series: Series) -> Iterator[Step]:
        try:
            found = holdings(manifests.read(self._layout.manifests(run), version, run=run))
        except FormatTooNew:
            raise
        except CheckpointGone:
            return
        except CkptTrackerError as error:
            _log.warning("what only %s@v%d needs is left as it is: %s", run, version, error)
            return
        is_keyframe = series.step(found)
        for holding in found:
            if holding.object in self._seen:
                continue
            self._seen.add(holding.object)
            step = self._object(holding, None if is_keyframe else series.base(holding))
            base = step.base if step is not None else self._base_now(holding.object)
            if base is not None:
                self._base_of[holding.object] = base
            if step is not None:
                yield step

    def _object(self, holding: Holding, base: str | None) -> Step | None:
        """What to do with an object; None where it is to stay as it is."""
        try:
            is_raw = self._objects.raw.size(holding.object) is not None
            replaces = None if is_raw else self._base_now(holding.object)
            if not is_raw and replaces not in self._unneeded:
                return None
            nbytes = self._objects.usable_size(holding.object)
            if nbytes < max(_SMALLEST, holding.nbytes):
                return None
            if holding.object in self._in_use or base is None or self._objects.usable_size(base) != nbytes:
                base = None
            return self._sampled(holding, nbytes, base, replaces)
        except CkptTrackerError as error:
            _log.warning("object %s is left as it is: %s", holding.object, error)
            return None

    def _sampled(self, holding: Holding, nbytes: int, base: str | None, replaces: str | None) -> Step | None:
        from ckpt_tracker.encoding.encoder import encode_block

        size = BLOCK * holding.width
        start = nbytes // size // 2 * size
        stop = min(start + size, nbytes - nbytes % holding.width)
        data = self._read(holding.object, start, stop)
        plain = sum(map(len, encode_block(data, width=holding.width)))
        best = plain
        if base is not None:
            apart = encode_block(data, width=holding.width, base=self._read(base, start, stop))
            best = sum(map(len, apart))
        if best > _DIFFERENCE_PAYS * plain:
            base, best = None, plain
        if replaces is None and best > _ENCODING_PAYS * len(data):
            return None
        estimate = round(nbytes * best / len(data))
        stored = self._objects.stored_size(holding.object)
        return Step(holding.object, nbytes, holding.width, base, stored, estimate, replaces)

    def _read(self, name: str, start: int, stop: int) -> Bytes:
        import numpy as np

        source = self._objects.open(name)
        if source is None:
            raise CheckpointGone(f"object {self._objects.path(name)} is missing")
        try:
            data = np.empty(stop - start, dtype=np.uint8)
            source.read_into(data, start)
        finally:
            source.close()
        return data

    def _base_now(self, name: str) -> str | None:
        header = self._headers.get(name)
        return None if header is None or self._objects.raw.size(name) is not None else header.base

    def _header(self, name: str) -> Header | None:
        try:
            return self._objects.encoded.header(name)
        except CkptTrackerError as error:
            _log.warning("%s", error)
            return None
