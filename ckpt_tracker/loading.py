"""Reading a checkpoint's state back from its manifest and objects."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from ckpt_tracker.errors import (
    CheckpointGone,
    CheckpointNotFound,
    CkptTrackerError,
    Damaged,
    InvalidOption,
    MissingExtra,
    StateMismatch,
)
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.files.object_folder import ObjectFolder
from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.selection import nearest
from ckpt_tracker.state.overwriting import Target, matching
from ckpt_tracker.state.tensors import kind_named
from ckpt_tracker.state.tree import decode, tensor_paths

_AHEAD_BYTES = 64 * 2**20
_LARGE = 2**20
_MOST_THREADS = 8


def load_state(
    layout: Layout,
    objects: ObjectFolder,
    record: CheckpointRecord,
    *,
    section: str | None,
    as_numpy: bool,
    into: Any = None,
) -> Any:
    """The whole tree, or that of one section, with every tensor checked against its hash; tied ones stay tied.

    Of a section nothing is needed but what is in it. Tensors of `into` that fit are overwritten. Raises Damaged,
    CheckpointGone, CheckpointNotFound for an unknown section.
    """
    found = manifests.read(layout.manifests(record.run), record.version, run=record.run)
    tree = dict(found.sections)
    wanted = record.sections if section is None else (section,)
    if found.record.full_digest and any(name in record.sections and name not in tree for name in wanted):
        raise CheckpointGone(
            f"{record.ref} holds its weights only by now, in {', '.join(tree)}: retention gave up the rest; "
            "load('model') gives them"
        )
    if section is not None and section not in tree:
        raise CheckpointNotFound(f"{record.ref} has no section {section!r}{nearest(section, tree)}")
    chosen = tree if section is None else tree[section]
    reader = _Reader(found, objects, as_numpy=as_numpy)
    try:
        if into is not None:
            reader.overwrite(chosen, into)
        reader.read_large(chosen)
        return decode(chosen, reader.tensor)
    except (Damaged, MissingExtra, StateMismatch) as error:
        if record.ref in str(error):
            raise
        raise type(error)(f"{record.ref}: {error}") from error


@dataclass(frozen=True)
class _Name:
    """The path of a tensor, for an error: to look up all of them takes longer than to load a small checkpoint."""

    found: manifests.Manifest
    index: int

    def __str__(self) -> str:
        return self.found.name_of(self.index)


class _Reader:
    """Reads the tensors of one checkpoint, each once, and has the system begin to read what comes next.

    Large ones in as many threads as there are processors: a copy and a hash each keep one busy.
    """

    def __init__(self, found: manifests.Manifest, objects: ObjectFolder, *, as_numpy: bool) -> None:
        self._found = found
        self._objects = objects
        self._as_numpy = as_numpy
        self._loaded: dict[int, Any] = {}
        self._targets: dict[int, Target] = {}
        self._begun = 0
        self._ahead = 0
        self._reading_ahead = threading.Lock()

    def overwrite(self, skeleton: Any, live: Any) -> None:
        """Reads into the live tensors that fit. Raises CheckpointGone, Damaged, before that, where an object can't be
        whole.
        """
        if self._as_numpy:
            raise InvalidOption("load(into=...) gives back the tensors that it is given: leave as_numpy out")
        tensors = self._found.tensors
        self._targets = matching(skeleton, [each.spec for each in tensors], live)
        for index in self._targets:
            self._objects.check_sizes(tensors[index], ref=self._found.record.ref, name=_Name(self._found, index))

    def read_large(self, skeleton: Any) -> None:
        """Reads those of the skeleton's tensors that are worth a thread."""
        threads = min(_processors(), _MOST_THREADS)
        large = self._large(skeleton) if threads > 1 else []
        if len(large) > 1:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(threads, thread_name_prefix="ckpt_tracker load") as pool:
                self._loaded.update(zip(large, pool.map(self._read, large), strict=True))

    def tensor(self, index: int) -> Any:
        """A tensor, by its index in the manifest."""
        if index not in self._loaded:
            self._loaded[index] = self._read(index)
        return self._loaded[index]

    def _large(self, skeleton: Any) -> list[int]:
        large = {index for index, each in enumerate(self._found.tensors) if each.spec.nbytes >= _LARGE}
        try:
            return sorted(large.intersection(index for index, _ in tensor_paths(skeleton))) if large else []
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
            return []  # nobody saved such a tree: decoding it will tell what is wrong

    def _read(self, index: int) -> Any:
        found, target = self._found, self._targets.get(index)
        entry, ref = found.tensors[index], found.record.ref
        with self._reading_ahead:
            self._read_ahead(index)
            self._ahead -= entry.spec.nbytes
        kind = kind_named("numpy" if self._as_numpy else entry.spec.kind)
        memory = kind.allocate if target is None else lambda _: target.memory
        data = self._objects.read(entry, ref=ref, name=_Name(found, index), memory=memory)
        if target is not None:
            return target.tensor
        try:
            return kind.build(entry.spec, data)
        except CkptTrackerError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            spec = f"{entry.spec.dtype} of shape {list(entry.spec.shape)}"
            raise Damaged(f"{ref}: tensor {found.name_of(index)} can't be a {spec}: {error}") from error

    def _read_ahead(self, index: int) -> None:
        """Tensors are asked for in the order of their indexes, because they were numbered in that of the tree."""
        if index >= self._begun:
            self._begun, self._ahead = index, 0
        tensors = self._found.tensors
        while self._begun < len(tensors) and self._ahead < _AHEAD_BYTES:
            entry = tensors[self._begun]
            self._begun += 1
            self._ahead += entry.spec.nbytes
            if entry.spec.nbytes >= _LARGE:
                for piece in entry.pieces:
                    self._objects.read_ahead(piece.object)


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
